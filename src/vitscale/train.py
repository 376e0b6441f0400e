"""The one training loop, for pretraining, full fine-tuning and the linear probe."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vitscale import compute
from vitscale.arrays import Split
from vitscale.augment import augment, generator_for
from vitscale.checkpoint import Checkpoint
from vitscale.files import PROCESSES, RANK, UserError
from vitscale.inference import predict
from vitscale.models import Classifier, to_input
from vitscale.progress import progress, say

HISTORY = ["epoch", "lr", "train_loss", "validation_loss", "validation_accuracy"]
CHECK_EVERY = 50  # steps between looks at the loss: on a GPU each look waits for the device


@dataclass
class Result:
    """What a training leaves: the weights of its best epoch by validation accuracy, and a line of figures an epoch."""

    state: dict[str, Tensor]
    best_epoch: int
    validation_accuracy: float
    history: list[list]


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Return the rate of a step (from 0): linear warmup, then half a cosine to 0 (Loshchilov & Hutter 2017)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split the trainable parameters: matrices and kernels decay; biases, norms, class token and positions don't."""
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spare = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in ("class_token", "positions")
            (spared if spare else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices, as torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`: updates are scaled
    to the size of AdamW's (Liu et al. 2025, *Muon is scalable for LLM training*, section 2.2).

    Matrices of one shape are orthogonalised together: one by one they took a seventh of a step.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape = {}
            for matrix in group["params"]:
                by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                gradients = [matrix.grad for matrix in matrices]
                for matrix in matrices:
                    if not self.state[matrix]:
                        self.state[matrix]["momentum"] = torch.zeros_like(matrix)
                averages = [self.state[matrix]["momentum"] for matrix in matrices]
                torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
                updates = orthogonalised(torch.stack(torch._foreach_lerp(gradients, averages, group["momentum"])))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(updates.float()), alpha=-group["lr"] * 0.2 * math.sqrt(max(shape)))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return bfloat16 matrices (n, rows, columns) whose singular values are near 1, by five Newton-Schulz steps."""
    x = matrices.bfloat16()
    if x.shape[1] > x.shape[2]:
        return orthogonalised(x.transpose(1, 2)).transpose(1, 2)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        squares = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(squares, squares, squares, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x


def make_optimizers(model: nn.Module, recipe: dict) -> list[torch.optim.Optimizer]:
    """Return a recipe's optimizers, which share the trainable parameters and the learning rate.

    "muon" updates the matrices of a ViT's blocks by Muon, everything else by AdamW.
    """
    groups, optimizers = parameter_groups(model, recipe["weight_decay"]), []
    if recipe["optimizer"] == "sgd":
        return [torch.optim.SGD(groups, lr=0.0, momentum=recipe["momentum"], nesterov=recipe["momentum"] > 0, fused=True)]
    if recipe["optimizer"] == "muon":
        inner = {id(parameter) for name, parameter in model.named_parameters() if ".blocks." in name}
        decayed = groups[0]["params"]
        groups[0]["params"] = [parameter for parameter in decayed if id(parameter) not in inner]
        matrices = [parameter for parameter in decayed if id(parameter) in inner]
        if matrices:  # there are none in a ResNet, or under a probe
            optimizers.append(Muon(matrices, lr=0.0, weight_decay=recipe["weight_decay"], momentum=recipe["momentum"]))
    return [*optimizers, torch.optim.AdamW(groups, betas=(0.9, recipe["beta2"]), fused=True)]


def on_device(images: np.ndarray, device: torch.device) -> Tensor:
    """Return images on the device, read a part at a time: the machine's memory may not hold them all."""
    resident = torch.empty(images.shape, dtype=torch.from_numpy(images[:1].copy()).dtype, device=device)
    for start in range(0, len(images), 10_000):
        part = images[start:start + 10_000]
        resident[start:start + len(part)] = torch.from_numpy(np.array(part))
    return resident


class Training:
    """A model with its data, optimizer and schedule; `batch` and `step` together are one step.

    Of several processes that torchrun started each takes an equal part of every batch. All draw the whole batch's images
    and augmentation, as a single process does, so that a mix can have its partner from another part.
    """

    def __init__(self, model: Classifier, config: dict, split: Split, indices: np.ndarray, *, recipe: dict, policy: dict,
                 epochs: int, lr: float, sizes: list[int], seed: int, precision: str, device: torch.device,
                 frozen_backbone: bool = False):
        self.model, self.config, self.split, self.indices = model.to(device), config, split, indices
        self.recipe, self.policy, self.epochs, self.lr, self.sizes, self.seed = recipe, policy, epochs, lr, sizes, seed
        self.precision, self.device, self.frozen_backbone = precision, device, frozen_backbone
        self.batch_size = min(recipe["batch_size"], len(split))
        if self.batch_size % PROCESSES:
            raise UserError(f"{PROCESSES} processes can't have equal parts of a batch of {self.batch_size}; change the recipe's batch_size")
        # As many for a fraction of the images as for all: with fewer steps less data would mean less training too.
        self.steps_per_epoch = len(split) // self.batch_size  # an epoch's last, smaller batch is left out
        self.total_steps = epochs * self.steps_per_epoch
        self.warmup_steps = min(round(recipe["warmup_epochs"] * self.steps_per_epoch), self.total_steps - 1)
        model.backbone.requires_grad_(not frozen_backbone)
        if not frozen_backbone:
            compute.share_statistics(model, device)
        self.optimizers = make_optimizers(model, recipe)
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"])
        self.average = None
        if recipe["ema_decay"]:  # a frozen backbone's buffers are copied, since averaging would round its counters
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe["ema_decay"]),
                                         use_buffers=not frozen_backbone)
        compiled = torch.compile(model, dynamic=False) if recipe["compile"] and compute.can_compile() else model
        self.forward = compute.share_gradients(compiled)
        self.resident = None
        if device.type == "cuda" and split.images.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
            self.resident = on_device(split.images, device)

    def train_mode(self) -> None:
        self.model.train()
        self.model.backbone.train(not self.frozen_backbone)  # a probe's batch norms keep their statistics

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Return an epoch's indices: all images in a random order, a fraction of them as often as that takes."""
        draws = generator_for(self.seed, 1, epoch)
        passes = math.ceil(self.steps_per_epoch * self.batch_size / len(self.indices))
        return np.concatenate([self.indices[torch.randperm(len(self.indices), generator=draws).numpy()] for _ in range(passes)])

    def batch(self, indices: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
        """Return this process's part of a step's augmented, standardised images (b, 3, s, s), or of its features (b, d) as
        they are, and soft targets (b, classes), on the device.

        The side s is that of the epoch: each of `sizes` has an equal share of the epochs (progressive resizing, as in
        Tan & Le 2021, *EfficientNetV2*, section 4).
        """
        if self.resident is None:  # from the memory-mapped file
            images = torch.from_numpy(self.split.images[indices]).to(self.device)
        else:
            images = self.resident[torch.from_numpy(indices).to(self.device)]
        labels = torch.from_numpy(self.split.labels[indices]).to(self.device)
        share = len(indices) // PROCESSES
        part = slice(RANK * share, (RANK + 1) * share)
        if images.ndim == 2:
            return images[part], nn.functional.one_hot(labels[part], len(self.config["classes"])).float()
        images, targets = augment(images, labels, len(self.config["classes"]), self.policy, self.config["mean"],
                                  generator_for(self.seed, 2, step))
        size = self.sizes[step // self.steps_per_epoch * len(self.sizes) // self.epochs]
        return to_input(images[part], self.config, size), targets[part]

    def step(self, images: Tensor, targets: Tensor, step: int) -> Tensor:
        """Update the weights once; return the loss of this process's part, still on the device."""
        rate = learning_rate(step, self.total_steps, self.warmup_steps, self.lr)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        with compute.autocast(self.precision, self.device):
            loss = self.loss(self.forward(images).float(), targets)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe["clip_norm"]:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe["clip_norm"])
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach()

    def epoch(self, epoch: int) -> float:
        """Train for one epoch (from 0); return its mean loss. Raises UserError where the loss is no number."""
        key = (self.seed, 3, epoch) + ((RANK,) if RANK else ())  # no two processes drop the same
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator_for(*key))))
        self.train_mode()
        order, losses, first = self.epoch_order(epoch), [], epoch * self.steps_per_epoch
        for i in progress(range(self.steps_per_epoch), self.steps_per_epoch, f"epoch {epoch + 1}"):
            chosen = order[i * self.batch_size:(i + 1) * self.batch_size]
            losses.append(self.step(*self.batch(chosen, first + i), first + i))
            if (i + 1) % CHECK_EVERY == 0 or i + 1 == self.steps_per_epoch:
                self._check(losses, first)
        return compute.mean(torch.stack(losses)).double().mean().item()

    def _check(self, losses: list[Tensor], first: int) -> None:
        recent = compute.mean(torch.stack(losses[-CHECK_EVERY:]))
        if not recent.isfinite().all():
            step = first + len(losses) - len(recent) + int(recent.isfinite().logical_not().int().argmax())
            rate = learning_rate(step, self.total_steps, self.warmup_steps, self.lr)
            raise UserError(f"the loss is no longer a finite number at step {step} (learning rate {rate:.3g}); "
                            "lower lr or the entry's lr_scale, or give the recipe a clip_norm")

    def scored_model(self) -> Classifier:
        """Return the model that validation scores and that is kept: the running average where the recipe has one."""
        return self.model if self.average is None else self.average.module

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "average": None if self.average is None else self.average.state_dict()}

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def fit(training: Training, validation: Split, checkpoint: Checkpoint) -> Result:
    """Train for the epochs that the checkpoint doesn't hold yet and return the result."""
    saved = checkpoint.load() or {"epochs": 0, "history": [], "best": None}
    best, history, epochs = saved["best"], saved["history"], training.epochs
    if saved["epochs"]:
        say(f"{'going on' if saved['epochs'] < epochs else 'nothing left to train'} after epoch {saved['epochs']} of {epochs}, "
            f"from {checkpoint.path}")
    if 0 < saved["epochs"] < epochs:
        training.restore(saved["training"])
    labels, kept = torch.from_numpy(validation.labels), saved["epochs"]
    try:
        for epoch in range(kept, epochs):
            train_loss = training.epoch(epoch)
            model = training.scored_model()
            logits = predict(model, training.config, validation, training.precision, training.device)
            loss = nn.functional.cross_entropy(logits, labels).item()
            accuracy = (logits.argmax(1) == labels).double().mean().item()
            last_rate = training.optimizers[0].param_groups[0]["lr"]
            history.append([epoch + 1, last_rate, train_loss, loss, accuracy])
            say(f"epoch {epoch + 1}/{epochs}: train loss {train_loss:.4f}, validation loss {loss:.4f}, "
                f"validation accuracy {accuracy:.2%}")
            if best is None or accuracy > best["accuracy"]:
                best = {"epoch": epoch + 1, "accuracy": accuracy,
                        "state": {name: value.cpu() for name, value in copy.deepcopy(model.state_dict()).items()}}
            checkpoint.save({"epochs": epoch + 1, "history": history, "best": best,
                             "training": None if epoch + 1 == epochs else training.state()})
            kept = epoch + 1
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; run it again to go on after epoch {kept} of {epochs}") from None
    return Result(best["state"], best["epoch"], best["accuracy"], history)
