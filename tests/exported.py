"""Finished rows of each architecture, and the commands that read them."""

import os
import subprocess

from tiny import ROOT

COMMON = {
    "image_size": 32,
    "classes": ["cat", "dog", "frog", "ship"],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.25],
}
VIT = COMMON | {
    "architecture": "vit",
    "patch_size": 8,
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 32,
    "pool": "class",
    "positions": "learned",
    "dropout": 0.1,
    "stochastic_depth": 0.1,
    "interpolation": "bicubic",
}
RESNET = COMMON | {"architecture": "resnet18", "stem": "imagenet", "interpolation": "bilinear"}
ROWS = {
    "vit": VIT,
    "vit-sincos": VIT | {"positions": "sincos", "image_size": 48},
    "resnet18": RESNET,
    "vit-mean": VIT | {"pool": "mean"},
    "vit-distilled": VIT | {"distilled": True},
    "resnet18-cifar": RESNET | {"stem": "cifar"},
}
SCORES = {"accuracy": 0.8133, "ci95_low": 0.8055, "ci95_high": 0.8208, "loss": 0.6, "ece": 0.0321, "macs": 1}
CHOSEN = {"validation_accuracy": 0.824, "best_epoch": 8, "train_images": 47_500}


def command(module: str, *arguments: str, cwd=ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["python", "-m", "vitscale", module, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"VITSCALE_DEVICE": "cpu", "PYTHONPATH": str(ROOT / "src")},
    )
