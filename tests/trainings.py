"""Trainings on 64 random images, for the tests of the loop and what it stands on."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from made import build
from tiny import OFF
from vitscale.data.arrays import Split
from vitscale.data.augment import Policy
from vitscale.models.store import Classifier, ModelConfig
from vitscale.runtime.device import Compute
from vitscale.training.batches import Plan
from vitscale.training.checkpoint import Checkpoint
from vitscale.training.loop import Training
from vitscale.training.optimizers import Recipe

CPU = Compute(torch.device("cpu"))
STATISTICS = {"mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3]}
VIT = {
    "architecture": "vit",
    "image_size": 32,
    "patch_size": 8,
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "mlp_dim": 32,
    "pool": "class",
    "positions": "learned",
    "dropout": 0.0,
    "stochastic_depth": 0.0,
    "classes": list("abcd"),
    "interpolation": "bilinear",
} | STATISTICS
RESNET = {
    "architecture": "resnet18",
    "image_size": 32,
    "stem": "imagenet",
    "classes": list("abcd"),
    "interpolation": "bilinear",
} | STATISTICS
COMMON = {
    "batch_size": 16,
    "weight_decay": 0.05,
    "warmup_epochs": 1,
    "label_smoothing": 0.0,
    "clip_norm": 1.0,
    "ema_decay": 0.0,
    "compile": False,
}
ADAMW = COMMON | {"optimizer": "adamw", "beta2": 0.99}
MUON = COMMON | {"optimizer": "muon", "momentum": 0.95, "beta2": 0.99}
SGD = COMMON | {"optimizer": "sgd", "momentum": 0.9}
LIGHT = OFF | {"crop_padding": 2, "flip": True}


class Nowhere(Checkpoint):
    """A checkpoint that keeps nothing."""

    def __init__(self):
        self.path = Path("nowhere")

    def load(self) -> None:
        return None

    def save(self, state: dict) -> None:
        pass


def plan_of(
    recipe: dict = ADAMW,
    *,
    epochs: int = 2,
    lr: float = 3e-3,
    seed: int = 0,
    policy: dict = LIGHT,
    fraction: float = 1.0,
    frozen: bool = False,
    sizes: list[int] = [32],
) -> Plan:
    return Plan(
        recipe=Recipe(**recipe),
        policy=Policy(**policy),
        fraction=fraction,
        sizes=sizes,
        epochs=epochs,
        lr=lr,
        seed=seed,
        frozen_backbone=frozen,
    )


def training_of(
    split: Split,
    config: dict = VIT,
    recipe: dict = ADAMW,
    *,
    initial: int = 0,
    compute: Compute = CPU,
    model: Classifier | None = None,
    **plan: Any,
) -> Training:
    torch.manual_seed(initial)
    return Training(model or build(config), split, plan_of(recipe, **plan), compute)


def with_batch_norm() -> Classifier:
    """Return a convolution with a batch norm under a head: all that a ResNet has, in a millisecond."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Classifier(backbone, 4, ModelConfig.from_json(RESNET))


def raw(state: dict[str, Tensor]) -> dict[str, bytes]:
    """Return a state's bytes, in which 0.0 and -0.0 and all kinds of NaN differ."""
    return {name: value.contiguous().numpy().tobytes() for name, value in state.items()}


class Killed(Exception):
    pass


class Killing(Checkpoint):
    """A checkpoint at whose write of an epoch the process is killed: `after` it, or `before`."""

    def __init__(self, path: Path, after: int = 0, before: int = 0):
        super().__init__(path)
        self.after, self.before = after, before

    def save(self, state: dict) -> None:
        if state["epochs"] == self.before:
            raise Killed
        super().save(state)
        if state["epochs"] == self.after:
            raise Killed
