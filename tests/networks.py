"""Models with random weights and images for them."""

import torch
from torch import Tensor

from made import build
from vitscale.models.store import Classifier

VIT = {
    "architecture": "vit",
    "image_size": 32,
    "patch_size": 8,
    "dim": 48,
    "depth": 3,
    "heads": 4,
    "mlp_dim": 80,
    "pool": "class",
    "positions": "learned",
    "dropout": 0.1,
    "stochastic_depth": 0.2,
    "classes": list("abcdefg"),
    "interpolation": "bilinear",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.25],
}
RESNET = {
    "architecture": "resnet18",
    "image_size": 32,
    "stem": "imagenet",
    "classes": list("0123456789"),
    "interpolation": "bilinear",
    "mean": None,
    "std": None,
}


def randomised(config: dict, seed: int = 0) -> Classifier:
    """Return the model with every parameter and buffer random, so that none hides behind a 0 or a 1."""
    model = build(config)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=draws)
                value.copy_(
                    1 + noise.abs()
                    if name.endswith("running_var")
                    else noise / value[0].numel() ** 0.5
                    if value.ndim > 1
                    else 0.5 + 0.3 * noise
                )
    return model


def images(count: int = 4, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(9))
