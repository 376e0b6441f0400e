"""The batches of a training: which images, in which order, augmented and standardised on the device."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from vitscale.data.arrays import Split, stratified
from vitscale.data.augment import Policy, augment, draw, generator_for
from vitscale.models.store import ModelConfig
from vitscale.runtime import distributed
from vitscale.runtime.device import Compute
from vitscale.training.optimizers import Recipe

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do with a model and a split: on which share of it, how, for how long, at which peak rate.

    `sizes` are sides of the images in pixels; each has an equal share of the epochs (progressive resizing, as
    in Tan & Le 2021, *EfficientNetV2*, section 4). With `frozen_backbone` the head alone is trained.
    """

    recipe: Recipe
    policy: Policy
    fraction: float
    sizes: list[int]
    epochs: int
    lr: float
    seed: int
    frozen_backbone: bool = False


def on_device(images: np.ndarray, device: torch.device) -> Tensor:
    """Return images on the device, read a part at a time: the machine's memory may not hold them all."""
    resident = torch.empty(images.shape, dtype=torch.from_numpy(images[:1].copy()).dtype, device=device)
    for start in range(0, len(images), 10_000):
        part = images[start : start + 10_000]
        resident[start : start + len(part)] = torch.from_numpy(np.array(part))
    return resident


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yield what is made of each item, in order; a thread makes the next while the caller uses this one.

    An error of `make` is raised here, at that item's turn. The thread ends with the iterator.
    """
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for item in items:
            this, coming = coming, thread.submit(make, item)
            if this:
                yield this.result()
        if coming:
            yield coming.result()


class Batches:
    """A plan's batches of a split, for a model's classes and preprocessing.

    Of several processes that torchrun started each takes an equal part of every batch: it draws for the whole
    batch, as a single process does, and works on the pixels of its own images and the partners of a mix.
    """

    def __init__(self, split: Split, plan: Plan, config: ModelConfig, device: torch.device):
        self.split, self.plan, self.config, self.device = split, plan, config, device
        self.indices = stratified(split.labels, plan.fraction, plan.seed)
        self.batch_size = min(plan.recipe.batch_size, len(split))
        self.part = distributed.part_of(self.batch_size)
        # As many for a fraction of the images as for all: else less data would mean less training too.
        self.steps_per_epoch = len(split) // self.batch_size  # an epoch's last, smaller batch is left out
        self.resident = None
        if device.type == "cuda" and Compute(device).holds(split.images.nbytes):
            self.resident = on_device(split.images, device)
        self.streamed = device.type == "cuda" and self.resident is None

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Return an epoch's indices: all images in random order, a fraction as often as that takes."""
        draws, count = generator_for(self.plan.seed, 1, epoch), len(self.indices)
        passes = math.ceil(self.steps_per_epoch * self.batch_size / count)
        return np.concatenate(
            [self.indices[torch.randperm(count, generator=draws).numpy()] for _ in range(passes)]
        )

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's batches; those that stream to a GPU are made ahead."""
        order, each, first = self.epoch_order(epoch), self.batch_size, epoch * self.steps_per_epoch
        items = [(order[i * each : (i + 1) * each], first + i) for i in range(self.steps_per_epoch)]
        return self._made_ahead(items) if self.streamed else (self.batch(*item) for item in items)

    def _made_ahead(self, items: list[tuple[np.ndarray, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        stream = torch.cuda.Stream(self.device)

        def make(item: tuple[np.ndarray, int]) -> tuple[tuple[Tensor, Tensor], torch.cuda.Event]:
            with torch.cuda.stream(stream):
                return self.batch(*item), stream.record_event()

        for batch, made in ahead(make, items):
            current = torch.cuda.current_stream(self.device)
            current.wait_event(made)
            for tensor in batch:  # so that its memory isn't given to a later batch while this stream reads it
                tensor.record_stream(current)
            yield batch

    def batch(self, indices: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
        """Return this process's part of a step's images and soft targets (b, classes), on the device.

        The images are augmented and standardised, (b, 3, s, s) with the epoch's side s; features as stored.
        """
        plan, config, device = self.plan, self.config, self.device
        classes, preprocessing = len(config.classes), config.preprocessing
        if self.split.images.ndim == 2:
            indices = indices[self.part]
        else:
            drawn = draw(
                plan.policy, len(indices), self.split.images.shape[1], generator_for(plan.seed, 2, step)
            )
            rows, drawn = drawn.part(self.part)
            indices = indices[rows.numpy()]
        if self.resident is None:  # from the memory-mapped file
            images = torch.from_numpy(self.split.images[indices])
            images = (images.pin_memory() if self.streamed else images).to(device, non_blocking=True)
        else:
            images = self.resident[torch.from_numpy(indices).to(device)]
        labels = torch.from_numpy(self.split.labels[indices]).to(device)
        if images.ndim == 2:
            return images, nn.functional.one_hot(labels, classes).float()
        images, targets = augment(images, labels, classes, drawn, preprocessing.mean)
        size = plan.sizes[step // self.steps_per_epoch * len(plan.sizes) // plan.epochs]
        return preprocessing.to_input(images, size), targets
