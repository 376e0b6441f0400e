"""Images of every kind, and what is drawn done to them at once, for the tests of augmentation."""

from functools import partial

import torch
from torch import Tensor

from tiny import OFF
from vitscale.data import augment as module
from vitscale.data.augment import Policy, draw

STRONG = {
    "crop_padding": 4,
    "flip": True,
    "trivial_augment": True,
    "erasing": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
}
MEAN = [0.5, 0.4, 0.3]
POLICIES = [OFF | {name: STRONG[name]} for name in OFF] + [STRONG]


def pictures(each: int = 4, size: int = 32) -> Tensor:
    """Return uint8 images of every kind: noise, smooth, low in contrast, flat, saturated, near-empty, black, white."""
    draws = torch.Generator().manual_seed(5)
    integers = partial(torch.randint, generator=draws)
    noise = integers(256, (each, size, size, 3))
    smooth = torch.nn.functional.interpolate(
        torch.rand(each, 3, 4, 4, generator=draws), size=size, mode="bilinear"
    )
    smooth = (smooth * 255).permute(0, 2, 3, 1)
    narrow = integers(20, (each, size, size, 3)) + integers(200, (each, 1, 1, 3))
    flat = integers(256, (each, 1, 1, 3)).expand(-1, size, size, -1)
    saturated = 255 * integers(2, (each, size, size, 3))
    sparse = torch.zeros(1, size, size, 3)
    sparse[0, 3, 4] = torch.tensor([255.0, 128.0, 1.0])
    bounds = [torch.zeros(1, size, size, 3), torch.full((1, size, size, 3), 255)]
    return torch.cat(
        [kind.to(torch.uint8) for kind in (noise, smooth, narrow, flat, saturated, sparse, *bounds)]
    )


def boxes_of(mask: Tensor) -> list[tuple[int, int, int, int]]:
    """Return (top, left, height, width) of the true box in each mask (b, h, w), which must be a whole rectangle."""
    found = []
    for each in mask:
        rows, columns = each.any(1).nonzero().flatten(), each.any(0).nonzero().flatten()
        top, left, height, width = int(rows[0]), int(columns[0]), len(rows), len(columns)
        assert each[top : top + height, left : left + width].all() and each.sum() == height * width, (
            "no rectangle"
        )
        found.append((top, left, height, width))
    return found


def augment(images, labels, classes: int, policy: dict, mean: list[float], generator):
    """Return what a policy makes of a batch."""
    drawn = draw(Policy(**policy), len(images), images.shape[1], generator)
    return module.augment(images, labels, classes, drawn, mean)


def erase(images: Tensor, probability: float, fill: Tensor, generator) -> Tensor:
    """Return images that are erased by a probability."""
    boxes = module.draw_erased(len(images), images.shape[1], probability, generator)
    return module.erase(images, boxes, fill)


def mix(images: Tensor, targets: Tensor, mixup: float, cutmix: float, generator) -> tuple[Tensor, Tensor]:
    """Return images and targets that are mixed by these alphas."""
    drawn = module.draw_mix(len(images), images.shape[1], mixup, cutmix, generator)
    return module.mix(images, targets, drawn)
