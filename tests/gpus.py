"""What a GPU that isn't there is shown: policies, models and recipes of all params.yaml files, on 24 small images."""

from pathlib import Path

import numpy as np
import torch

from trainings import ADAMW, CPU, MUON, OFF, RESNET, SGD, VIT, build, training_of
from vitscale.base.config import read_yaml
from vitscale.data.arrays import Split
from vitscale.models.store import Classifier
from vitscale.runtime.device import Compute
from vitscale.training.loop import Training

ROOT = Path(__file__).parents[1]
SPLIT = Split(
    np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8),
    np.arange(24) % 4,
    list("abcd"),
)
FEATURES = Split(
    np.random.default_rng(1).standard_normal((24, 16)).astype(np.float32), np.arange(24) % 4, list("abcd")
)
POLICIES = {
    f"{path.parent.name if path.parent != ROOT else 'study'}-{name}": policy
    for path in [ROOT / "params.yaml", *sorted(ROOT.glob("examples/*/params.yaml"))]
    for name, policy in read_yaml(path)["augment"].items()
}
POLICIES = {
    name: policy
    for i, (name, policy) in enumerate(POLICIES.items())
    if policy not in list(POLICIES.values())[:i]
}
POLICIES |= {
    "crop": OFF | {"crop_padding": 3},
    "flip": OFF | {"flip": True},
    "trivial": OFF | {"trivial_augment": True},
    "erasing": OFF | {"erasing": 0.7},
    "mixup": OFF | {"mixup": 0.3},
    "cutmix": OFF | {"cutmix": 1.0},
}
MODELS = {
    "vit-class-learned": VIT,
    "vit-mean-sincos": VIT | {"pool": "mean", "positions": "sincos"},
    "vit-distilled": VIT | {"distilled": True},
    "vit-dropout-depth": VIT | {"depth": 2, "dropout": 0.1, "stochastic_depth": 0.2},
    "resnet18-imagenet": RESNET,
    "resnet18-cifar": RESNET | {"stem": "cifar"},
}
RECIPES = {
    "adamw": ADAMW | {"label_smoothing": 0.1, "batch_size": 12},
    "accumulate": ADAMW | {"accumulate": 3, "batch_size": 12},
    "sgd": SGD | {"clip_norm": 0.0, "batch_size": 12},
    "muon": MUON | {"ema_decay": 0.9, "batch_size": 12},
}


def model_of(name: str) -> Classifier:
    """Return a model with the same weights each time, under a head that tells classes apart."""
    torch.manual_seed(9)
    model = build(MODELS[name])
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model


def a_training(model: Classifier, compute: Compute = CPU, split: Split = SPLIT, **rest) -> Training:
    """Return a training of two epochs of two steps, the second at another size."""
    return training_of(
        split, model=model, compute=compute, **{"sizes": [16, 32], "recipe": RECIPES["adamw"]} | rest
    )


def batch_of(training: Training, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a step's images and targets."""
    batches = getattr(training, "batches", training)
    return batches.batch(np.arange(batches.batch_size), step)
