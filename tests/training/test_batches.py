"""What a training is shown: order, batches, sizes, and images that stay on the disk."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from made import build, preprocessing
from trainings import ADAMW, CPU, LIGHT, OFF, RESNET, VIT, Nowhere, plan_of, training_of
from vitscale.data.arrays import Split, SplitWriter
from vitscale.runtime import distributed
from vitscale.training import loop
from vitscale.training.batches import Batches
from vitscale.training.inference import predict
from vitscale.training.loop import fit


def shown_in(split, monkeypatch, indices, batch_size=8, epochs=2) -> list[list[list[int]]]:
    """Return the images of every batch of every epoch; the steps must be numbered throughout."""
    training = training_of(split, recipe=ADAMW | {"batch_size": batch_size}, epochs=epochs)
    training.batches.indices = indices
    seen, real = [], training.batches.batch
    monkeypatch.setattr(
        training.batches,
        "batch",
        lambda chosen, step: seen.append((step, chosen.tolist())) or real(chosen, step),
    )
    for epoch in range(epochs):
        training.epoch(epoch)
    assert [step for step, _ in seen] == list(range(training.total_steps))
    batches, each = [chosen for _, chosen in seen], training.batches.steps_per_epoch
    return [batches[epoch * each : (epoch + 1) * each] for epoch in range(epochs)]


def test_an_epoch_takes_every_image_at_most_once(split, monkeypatch):
    """An epoch shows an image twice, drops more than a partial batch, or repeats its order."""
    epochs = shown_in(split, monkeypatch, np.arange(64), batch_size=10)
    for batches in epochs:
        assert [len(batch) for batch in batches] == 6 * [10] and len(set(sum(batches, []))) == 60
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("count", [1, 3, 8, 24, 29, 33, 63, 64])
def test_an_epoch_of_a_fraction_has_as_many_steps(split, monkeypatch, count):
    """Less data means fewer steps or smaller batches, an image that isn't of the fraction, or some more often than others."""
    indices = np.random.default_rng(0).permutation(64)[:count]
    for batches in shown_in(split, monkeypatch, indices):
        assert [len(batch) for batch in batches] == 8 * [8]
        shown = sum(batches, [])
        passes = [shown[start : start + count] for start in range(0, 64, count)]
        assert all(len(set(each)) == len(each) and set(each) <= set(indices.tolist()) for each in passes)
        assert count < 8 or len(set(map(tuple, passes))) == len(passes)


def test_a_batch_is_the_standardised_images(split):
    """A batch holds other images, labels or scales than asked for, or depends on more than its step."""
    training = training_of(split, policy=OFF)
    chosen = np.array([5, 60, 17])
    images, targets = training.batches.batch(chosen, 3)
    wanted = preprocessing(VIT).to_input(torch.from_numpy(np.array(split.images[chosen])).float())
    assert torch.equal(images, wanted) and targets.argmax(1).tolist() == split.labels[chosen].tolist()
    augmented = training_of(split, policy=LIGHT)
    first, again, other = (augmented.batches.batch(chosen, step)[0] for step in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, training_of(split, policy=LIGHT, seed=1).batches.batch(chosen, 3)[0])


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet18"])
def test_sizes_share_the_epochs(split, config, monkeypatch):
    """Training images don't grow as the schedule says, or validation isn't at the model's own size."""
    monkeypatch.setattr(
        loop, "predict", lambda model, *rest: seen.append("validation") or predict(model, *rest)
    )
    training = training_of(split, config | {"image_size": 24}, epochs=5, sizes=[16, 24, 32], policy=OFF)
    seen, step = [], training.step

    def scored(model, inputs):
        if not model.training:
            seen.append(tuple(inputs[0].shape[2:]))

    monkeypatch.setattr(
        training, "step", lambda images, *rest: seen.append(tuple(images.shape[2:])) or step(images, *rest)
    )
    training.model.register_forward_pre_hook(scored)
    fit(training, split, Nowhere())
    assert seen == [
        each for size in (16, 16, 24, 24, 32) for each in [*4 * [(size, size)], "validation", (24, 24)]
    ]


class Counting:
    """A stand-in for the images on disk that counts how many are asked for at once, and can't be had as a whole."""

    def __init__(self, images: np.memmap):
        self.images, self.asked = images, []
        self.shape, self.ndim = images.shape, images.ndim

    def __len__(self):
        return len(self.images)

    def __getitem__(self, chosen):
        result = self.images[chosen]
        self.asked.append(len(result))
        return result

    def __array__(self, *_, **__):
        raise AssertionError("all images were loaded at once")


def test_images_stay_on_disk(split):
    """On a CPU the training or the scoring loads all images into memory, instead of a batch at a time."""
    assert isinstance(split.images, np.memmap) and split.images.mode == "r"
    assert training_of(split).batches.split.images is split.images
    counting = Counting(split.images)
    on_disk = Split(counting, split.labels, split.classes)
    training = training_of(on_disk, epochs=1)
    training.epoch(0)
    logits = predict(training.model, on_disk.images, CPU, batch_size=20)
    assert counting.asked == [16] * 4 + [20, 20, 20, 4]
    assert torch.allclose(logits, predict(training.model, split.images, CPU), atol=1e-6)


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_a_process_reads_its_own_images(split, monkeypatch, processes, mixup):
    """A process reads images from the disk that its part of the batch doesn't need; with a mix it needs partners too."""
    own, batch = 16 // processes, np.arange(64)[::4]
    for rank in range(processes):
        monkeypatch.setattr(distributed, "PROCESSES", processes)
        monkeypatch.setattr(distributed, "RANK", rank)
        counting = Counting(split.images)
        on_disk = Split(counting, split.labels, split.classes)
        batches = Batches(on_disk, plan_of(policy=LIGHT | {"mixup": mixup}), build(VIT).config, CPU.device)
        images, _ = batches.batch(batch, 3)
        assert len(images) == own
        [asked] = counting.asked
        assert asked == own if processes == 1 or not mixup else own < asked <= min(2 * own, 16)


def peak() -> int:
    """Return the most memory that this process has had resident, in KiB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def test_images_larger_than_memory(tmp_path):
    """Training on 60 GB of images of 224 px, or scoring some of them, takes more than the batches' memory."""
    count = 400_000
    writer = SplitWriter(tmp_path, count, 224, list("abcd"))
    writer.file.flush()
    os.ftruncate(
        writer.file.fileno(), writer.file.tell() + count * 224**2 * 3
    )  # a hole in the file: it takes no room on the disk
    writer.file.close()
    split = Split(np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(count) % 4, list("abcd"))
    assert split.images.nbytes > 60e9
    config = VIT | {"image_size": 224, "patch_size": 32}
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak()
    training = training_of(split, config, policy=OFF, fraction=0.5, sizes=[224])
    order = training.batches.epoch_order(0)
    assert len(order) == count and len(np.unique(order)) == count // 2
    for step in range(3):
        training.step(*training.batches.batch(order[16 * step : 16 * step + 16], step), step)
    predict(training.model, split.images[-64:], CPU)
    assert peak() - before < 1_000_000
