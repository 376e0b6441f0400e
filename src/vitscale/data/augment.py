"""Batched augmentation on the training device: every image its own draw, no PIL, no worker processes.

Draws come from one CPU generator, so that a (seed, step) gives the same batch on every device.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitscale.data.trivial_augment import trivial_augment


@dataclass(frozen=True, kw_only=True)
class Policy:
    """An entry of params.yaml's `augment`; 0 and false: off."""

    crop_padding: int  # random crop after zero padding by so many pixels
    flip: bool  # horizontal, with probability 1/2
    trivial_augment: (
        bool  # TrivialAugment (Müller & Hutter 2021): one operation an image at a random strength
    )
    erasing: float  # probability of random erasing (Zhong et al. 2020), to the channel mean
    mixup: float  # alpha of mixup (Zhang et al. 2018)
    cutmix: float  # alpha of CutMix (Yun et al. 2019); with both on, each image gets either


def generator_for(*key: int) -> torch.Generator:
    """Return a CPU generator that depends on every number of the key, such as (seed, step)."""
    state = 0
    for number in key:  # splitmix64's mixing, since neighbouring seeds must not give related streams
        state = (state ^ number) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Return each image's own window of its size after zero padding.

    Images (b, h, w, c), offsets (b,) from 0 to 2 * padding.
    """
    batch, height, width, channels = images.shape
    padded = images.new_zeros(batch, height + 2 * padding, width + 2 * padding, channels)
    padded[:, padding : padding + height, padding : padding + width] = images
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    each = torch.arange(batch, device=images.device)
    return padded[each[:, None, None], rows[:, :, None], columns[:, None, :]]


def _boxes(
    batch: int, height: int, width: int, box_height: Tensor, box_width: Tensor, generator: torch.Generator
) -> Tensor:
    """Return masks (b, h, w), true inside one random box an image."""
    top = (torch.rand(batch, generator=generator) * (height - box_height + 1)).floor()
    left = (torch.rand(batch, generator=generator) * (width - box_width + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top[:, None]) & (rows < (top + box_height)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + box_width)[:, None])
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def erase(images: Tensor, probability: float, fill: Tensor, generator: torch.Generator) -> Tensor:
    """Random erasing: 2 to 33% of the area, aspect ratio 0.3 to 3.3, filled with `fill` (3,)."""
    batch, height, width, _ = images.shape
    area = height * width * (0.02 + 0.31 * torch.rand(batch, generator=generator))
    ratio = torch.exp(math.log(0.3) + math.log(3.3 / 0.3) * torch.rand(batch, generator=generator))
    box_height = (area * ratio).sqrt().round().clamp(1, height)
    box_width = (area / ratio).sqrt().round().clamp(1, width)
    mask = _boxes(batch, height, width, box_height, box_width, generator)
    mask &= (torch.rand(batch, generator=generator) < probability)[:, None, None]
    return torch.where(mask[..., None].to(images.device), fill, images)


def _beta(alpha: float, batch: int, generator: torch.Generator) -> Tensor:
    """Return draws from Beta(alpha, alpha), as the share of the first of two gamma variables."""
    gamma = torch._standard_gamma(torch.full((2, batch), alpha), generator=generator).clamp(min=1e-30)
    return gamma[0] / gamma.sum(0)


def mix(
    images: Tensor, targets: Tensor, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix every image, and its target (b, classes), with another of the batch, by mixup or by CutMix."""
    batch, height, width, _ = images.shape
    partner = torch.randperm(batch, generator=generator).to(images.device)
    cut = (
        torch.rand(batch, generator=generator) < 0.5
        if mixup and cutmix
        else torch.full((batch,), bool(cutmix))
    )
    share = torch.ones(batch)
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    if mixup:
        share = torch.where(cut, share, _beta(mixup, batch, generator))
    if cutmix:
        side = (1 - _beta(cutmix, batch, generator)).sqrt()
        box = _boxes(batch, height, width, (side * height).round(), (side * width).round(), generator)
        mask = box & cut[:, None, None]
    kept = share * (1 - mask.float().mean((1, 2)))
    share, kept, mask = share.to(images.device), kept.to(images.device), mask.to(images.device)
    weight = (share.view(-1, 1, 1) * ~mask)[..., None]
    return images * weight + images[partner] * (1 - weight), targets * kept[:, None] + targets[partner] * (
        1 - kept[:, None]
    )


def augment(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    policy: Policy,
    mean: list[float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Augment uint8 images (b, h, w, 3) with labels (b,).

    Return float images in 0..255 and targets (b, classes).

    `mean` (three values in 0..1) fills what random erasing takes out.
    """
    batch, device = len(images), images.device
    if policy.crop_padding:
        top, left = torch.randint(2 * policy.crop_padding + 1, (2, batch), generator=generator).to(device)
        images = crop(images, top, left, policy.crop_padding)
    if policy.flip:
        flipped = torch.randint(2, (batch,), generator=generator, dtype=torch.bool).to(device)
        images = torch.where(flipped[:, None, None, None], images.flip(2), images)
    images = images.float()
    if policy.trivial_augment:
        images = trivial_augment(images, generator)
    if policy.erasing:
        images = erase(images, policy.erasing, 255 * torch.tensor(mean, device=device), generator)
    targets = torch.nn.functional.one_hot(labels, num_classes).float()
    if policy.mixup or policy.cutmix:
        images, targets = mix(images, targets, policy.mixup, policy.cutmix, generator)
    return images, targets
