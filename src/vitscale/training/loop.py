"""The one training loop, for pretraining, full fine-tuning and the linear probe.

It knows no stage and no params.yaml.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vitscale.base.errors import UserError
from vitscale.base.processes import RANK
from vitscale.base.progress import on_terminal, say, showing
from vitscale.data.arrays import Split
from vitscale.data.augment import generator_for
from vitscale.models.store import Classifier
from vitscale.runtime import distributed
from vitscale.runtime.compiler import can_compile
from vitscale.runtime.device import Compute
from vitscale.training.batches import Batches, Plan
from vitscale.training.checkpoint import Checkpoint
from vitscale.training.inference import predict
from vitscale.training.optimizers import Together, learning_rate, make_optimizers

CHECK_EVERY = 50  # steps between looks at the loss: on a GPU each look waits for the device
LEAST_SCALE = 1e-4  # of the loss under float16, as in fairseq: a training that comes to less is lost


@dataclass(frozen=True)
class Epoch:
    """An epoch's figures; `lr` is that of its last step."""

    epoch: int
    lr: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Result:
    """What a training leaves: its best epoch's weights, by validation accuracy, and each epoch's figures."""

    state: dict[str, Tensor]
    best_epoch: int
    validation_accuracy: float
    history: list[Epoch]


class Listener(Protocol):
    """What hears how a training goes, in the first of its processes, and only looks."""

    def begin(self, history: list[Epoch]) -> None:
        """Hear that it begins, after the epochs that a state holds already."""

    def step(self, images: Tensor) -> None:
        """Hear of a step and its images, (b, 3, s, s) as the model got them, or features (b, d)."""

    def epoch(self, figures: Epoch, images_per_second: float) -> None:
        """Hear of an epoch, and how fast it trained; scoring doesn't count."""


class Training:
    """A model with its batches, optimizer and schedule; `step` takes what `batches.batch` gives."""

    def __init__(self, model: Classifier, split: Split, plan: Plan, compute: Compute):
        recipe, device = plan.recipe, compute.device
        self.model, self.plan, self.compute = model.to(device), plan, compute
        self.batches = Batches(split, plan, model.config, device)
        share = self.batches.part.stop - self.batches.part.start
        if share % recipe.accumulate:
            raise UserError(
                f"{share} images of a batch can't be computed in {recipe.accumulate} equal parts; change the "
                "recipe's accumulate or batch_size"
            )
        each = self.batches.steps_per_epoch
        self.total_steps = plan.epochs * each
        self.warmup_steps = min(round(recipe.warmup_epochs * each), self.total_steps - 1)
        model.backbone.requires_grad_(not plan.frozen_backbone)
        if not plan.frozen_backbone:
            distributed.share_statistics(model, device)
        self.optimizers = make_optimizers(model, recipe)
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.average = None
        if (
            recipe.ema_decay
        ):  # a frozen backbone's buffers are copied, since averaging would round its counters
            averaged = get_ema_multi_avg_fn(recipe.ema_decay)
            self.average = AveragedModel(model, multi_avg_fn=averaged, use_buffers=not plan.frozen_backbone)
        compiled: nn.Module = model
        if recipe.compile and can_compile(device):
            # Once a size. Beyond its own limit of 8 torch would go on uncompiled, without a word: that rounds
            # otherwise, and a resumed training has met fewer sizes. With fullgraph it ends in an error.
            options = {"fullgraph": True, "recompile_limit": 8 + len(set(plan.sizes))}
            compiled = cast(nn.Module, torch.compile(model, dynamic=False, **options))  # type: ignore[call-overload]
        self.forward = distributed.share_gradients(compiled)
        # In float16 small gradients are 0, so the loss is scaled up (Micikevicius et al. 2018, section 3.2).
        # In other precisions the scaler does nothing. The average is updated with the weights or not at all.
        self.scaler = torch.amp.GradScaler(device.type, enabled=compute.dtype == torch.float16)
        self.together = cast(torch.optim.Optimizer, Together(self.optimizers, self._update_average))
        self.skipped = 0  # steps, because their gradients overflowed

    def train_mode(self) -> None:
        """Let the model train; a probe's batch norms keep their statistics."""
        self.model.train()
        self.model.backbone.train(not self.plan.frozen_backbone)

    def step(self, images: Tensor, targets: Tensor, step: int) -> Tensor:
        """Update the weights once; return the mean loss of this process's part, still on the device."""
        for group in self.together.param_groups:
            group["lr"] = self.rate(step)
        self.model.zero_grad(set_to_none=True)
        parts, losses = self.plan.recipe.accumulate, list[Tensor]()
        for some, wanted in zip(images.chunk(parts), targets.chunk(parts), strict=True):
            with distributed.shared(self.forward, now=len(losses) + 1 == parts):
                with self.compute.autocast():
                    loss = self.loss(self.forward(some).float(), wanted) / parts
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        self.scaler.unscale_(self.together)
        if self.plan.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.recipe.clip_norm)
        self.skipped += self.scaler.step(self.together) is None
        self.scaler.update()
        return torch.stack(losses).sum()

    def _update_average(self) -> None:
        if self.average is not None:
            self.average.update_parameters(self.model)

    def rate(self, step: int) -> float:
        """Return a step's learning rate."""
        return learning_rate(step, self.total_steps, self.warmup_steps, self.plan.lr)

    def epoch(self, epoch: int, after_step: Callable[[Tensor], None] = lambda images: None) -> float:
        """Train for one epoch (from 0); return its mean loss. `after_step` gets each step's images.

        Raises UserError where the loss is no number.
        """
        key = (self.plan.seed, 3, epoch) + ((RANK,) if RANK else ())  # no two processes drop the same
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator_for(*key))))
        self.train_mode()
        steps, first = self.batches.steps_per_epoch, epoch * self.batches.steps_per_epoch
        losses: list[Tensor] = []
        for i, (images, targets) in enumerate(self.batches.epoch(epoch)):
            losses.append(self.step(images, targets, first + i))
            if (i + 1) % CHECK_EVERY == 0 or i + 1 == steps:
                self._check(losses, first)
            after_step(images)
        return distributed.mean(torch.stack(losses)).cpu().double().mean().item()

    def _check(self, losses: list[Tensor], first: int) -> None:
        recent = distributed.mean(torch.stack(losses[-CHECK_EVERY:]))
        way_out = "lower lr or the entry's lr_scale, or give the recipe a clip_norm"
        if self.scaler.is_enabled():
            way_out = f"{way_out}, or take another precision than float16"
        if not recent.isfinite().all():
            step = first + len(losses) - len(recent) + int(recent.isfinite().logical_not().int().argmax())
            raise UserError(
                f"the loss is no longer a finite number at step {step} "
                f"(learning rate {self.rate(step):.3g}); {way_out}"
            )
        if self.scaler.get_scale() < LEAST_SCALE:
            step = first + len(losses) - 1
            raise UserError(
                f"the gradients still overflow at step {step} (learning rate {self.rate(step):.3g}), however "
                f"small the loss is scaled; {way_out}"
            )

    def scored_model(self) -> Classifier:
        """Return the model that validation scores and that is kept.

        The running average where the recipe has one.
        """
        return self.model if self.average is None else cast(Classifier, self.average.module)

    def state(self) -> dict:
        """Return all that `restore` takes to go on from here."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
        }

    def restore(self, state: dict) -> None:
        """Go on from a state."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]


def _skips(count: int, so_far: int) -> str:
    return f", steps skipped since float16 overflowed: {count} ({so_far} so far)" if count else ""


def fit(
    training: Training,
    validation: Split,
    checkpoint: Checkpoint,
    listeners: Sequence[Listener] = (),
    label: str = "",
) -> Result:
    """Train for the epochs that the checkpoint doesn't hold yet and return the result.

    `label` says on the terminal which of several trainings it is.
    """
    saved = checkpoint.load() or {"epochs": 0, "history": [], "best": None}
    best, history, kept, epochs = saved["best"], saved["history"], saved["epochs"], training.plan.epochs
    if kept:
        verb = "going on" if kept < epochs else "nothing left to train"
        say(f"{verb} after epoch {kept} of {epochs}, from {checkpoint.path}")
    if 0 < kept < epochs:
        training.restore(saved["training"])
    listeners = () if RANK else listeners
    for listener in listeners:
        listener.begin([Epoch(*figures) for figures in history])
    labels = torch.from_numpy(validation.labels)
    each = training.batches.batch_size * training.batches.steps_per_epoch  # images

    def title() -> str:
        so_far = f", best validation {best['accuracy']:.2%}" if best else ""
        return f"{label}epoch {min(kept + 1, epochs)}/{epochs}{so_far}"

    def after_step(images: Tensor) -> None:
        bar.add(training.batches.batch_size)
        for listener in listeners:
            listener.step(images)

    try:
        with showing(title(), epochs * each, "images", kept * each, stays=True) as bar:
            for epoch in range(kept, epochs):
                skipped_before, began = training.skipped, time.perf_counter()
                train_loss = training.epoch(epoch, after_step)
                rate = each / (time.perf_counter() - began)
                model = training.scored_model()
                logits = predict(model, validation.images, training.compute)
                loss = nn.functional.cross_entropy(logits, labels).item()
                accuracy = (logits.argmax(1) == labels).double().mean().item()
                last_rate = training.optimizers[0].param_groups[0]["lr"]
                history.append([epoch + 1, last_rate, train_loss, loss, accuracy])
                skips = _skips(training.skipped - skipped_before, training.skipped)
                if skips or not on_terminal():  # there the bar says it
                    say(
                        f"epoch {epoch + 1}/{epochs}: train loss {train_loss:.4f}, validation loss "
                        f"{loss:.4f}, validation accuracy {accuracy:.2%}{skips}"
                    )
                for listener in listeners:
                    listener.epoch(Epoch(*history[-1]), rate)
                if best is None or accuracy > best["accuracy"]:
                    # Copied at once, since a GPU's memory may not hold the weights twice.
                    state = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
                    best = {"epoch": epoch + 1, "accuracy": accuracy, "state": state}
                going_on = None if epoch + 1 == epochs else training.state()
                checkpoint.save({"epochs": epoch + 1, "history": history, "best": best, "training": going_on})
                kept = epoch + 1
                bar.rename(title())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; run it again to go on after epoch {kept} of {epochs}") from None
    return Result(best["state"], best["epoch"], best["accuracy"], [Epoch(*figures) for figures in history])
