"""Batched augmentation on the training device: every image its own draw, no PIL, no worker processes.

What is drawn and what is done to pixels are apart. The draws of a whole batch come from one CPU generator,
so that a (seed, step) gives the same batch on every device, and each of several processes the same draws, of
which it does its own. An image's pixels don't depend on which others are at hand, a mix's partner aside.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitscale.data.trivial_augment import draw_operations, to_device, trivial_augment


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


def _boxes(side: int, height: Tensor, width: Tensor, generator: torch.Generator) -> Tensor:
    """Return boxes (b, 4) of that height and width at random places: top, bottom, left and right."""
    top = (torch.rand(len(height), generator=generator) * (side - height + 1)).floor()
    left = (torch.rand(len(width), generator=generator) * (side - width + 1)).floor()
    return torch.stack([top, top + height, left, left + width], 1).long()


def inside(boxes: Tensor, side: int) -> Tensor:
    """Return masks (b, side, side, 1), true inside each image's box, on the boxes' device."""
    at = torch.arange(side, device=boxes.device)
    top, bottom, left, right = boxes[..., None].unbind(1)
    rows, columns = (at >= top) & (at < bottom), (at >= left) & (at < right)
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def draw_erased(batch: int, side: int, probability: float, generator: torch.Generator) -> Tensor:
    """Return random erasing's boxes (b, 4): 2 to 33% of the area, aspect ratio 0.3 to 3.3, or empty."""
    area = side * side * (0.02 + 0.31 * torch.rand(batch, generator=generator))
    ratio = torch.exp(math.log(0.3) + math.log(3.3 / 0.3) * torch.rand(batch, generator=generator))
    height = (area * ratio).sqrt().round().clamp(1, side)
    width = (area / ratio).sqrt().round().clamp(1, side)
    boxes = _boxes(side, height, width, generator)
    return boxes * (torch.rand(batch, generator=generator) < probability)[:, None]


def erase(images: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """Return images (b, s, s, 3) whose boxes (b, 4) are filled with `fill` (3,)."""
    return torch.where(inside(to_device(boxes, images.device), images.shape[1]), fill, images)


def _beta(alpha: float, batch: int, generator: torch.Generator) -> Tensor:
    """Return draws from Beta(alpha, alpha), as the share of the first of two gamma variables."""
    gamma = torch._standard_gamma(torch.full((2, batch), alpha), generator=generator).clamp(min=1e-30)
    return gamma[0] / gamma.sum(0)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How images are mixed, each with a partner, by mixup or by CutMix; a row for each."""

    partner: Tensor  # (b,) its place among the images
    share: Tensor  # (b,) of each pixel outside the box that is the image's own
    boxes: Tensor  # (b, 4) in which all is the partner's; empty for mixup
    kept: Tensor  # (b,) of the target that is the image's own
    first: int = 0  # the place of the first of the mixed images, which stand side by side


def draw_mix(batch: int, side: int, mixup: float, cutmix: float, generator: torch.Generator) -> Mix:
    """Draw a partner and a way of mixing for each of a batch."""
    partner = torch.randperm(batch, generator=generator)
    cut = (
        torch.rand(batch, generator=generator) < 0.5
        if mixup and cutmix
        else torch.full((batch,), bool(cutmix))
    )
    share, boxes = torch.ones(batch), torch.zeros(batch, 4, dtype=torch.long)
    if mixup:
        share = torch.where(cut, share, _beta(mixup, batch, generator))
    if cutmix:
        length = ((1 - _beta(cutmix, batch, generator)).sqrt() * side).round()
        boxes = _boxes(side, length, length, generator) * cut[:, None]
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    return Mix(partner=partner, share=share, boxes=boxes, kept=share * (1 - area.float() / side**2))


def mix(images: Tensor, targets: Tensor, drawn: Mix) -> tuple[Tensor, Tensor]:
    """Return the mixed images, and their targets (b, classes); the images may hold others, as partners."""
    device, own = images.device, slice(drawn.first, drawn.first + len(drawn.partner))
    partner, share, boxes, kept = (
        to_device(each, device) for each in (drawn.partner, drawn.share, drawn.boxes, drawn.kept[:, None])
    )
    weight = share.view(-1, 1, 1, 1) * ~inside(boxes, images.shape[1])
    return (
        images[own] * weight + images[partner] * (1 - weight),
        targets[own] * kept + targets[partner] * (1 - kept),
    )


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What a policy does to each image of a batch: small tensors on the CPU, a row an image; None: off."""

    batch: int
    padding: int
    offsets: Tensor | None  # (b, 2) the crop's top and left
    flipped: Tensor | None  # (b,)
    operations: Tensor | None  # (b, 3) TrivialAugment's operation, level and sign
    erased: Tensor | None  # (b, 4) boxes
    mix: Mix | None

    def part(self, part: slice) -> tuple[Tensor, "Draws"]:
        """Return which of the batch's images a part of it takes, ascending, and what is drawn for those.

        They are its own and, for a mix, their partners.
        """
        own = rows = torch.arange(self.batch)[part]
        drawn = self.mix
        if drawn is not None:
            rows, places = torch.cat([own, drawn.partner[own]]).unique(return_inverse=True)
            drawn = Mix(
                partner=places[len(own) :],
                share=drawn.share[own],
                boxes=drawn.boxes[own],
                kept=drawn.kept[own],
                first=int(places[0]),
            )
        looks = {"offsets": self.offsets, "flipped": self.flipped}
        looks |= {"operations": self.operations, "erased": self.erased}
        chosen = {name: None if each is None else each[rows] for name, each in looks.items()}
        return rows, Draws(batch=len(rows), padding=self.padding, mix=drawn, **chosen)


def draw(policy: Policy, batch: int, side: int, generator: torch.Generator) -> Draws:
    """Draw what a policy does to a batch of images `side` pixels high and wide."""
    offsets = flipped = operations = erased = mixed = None
    if policy.crop_padding:
        offsets = torch.randint(2 * policy.crop_padding + 1, (2, batch), generator=generator).T
    if policy.flip:
        flipped = torch.randint(2, (batch,), generator=generator, dtype=torch.bool)
    if policy.trivial_augment:
        operations = draw_operations(batch, generator)
    if policy.erasing:
        erased = draw_erased(batch, side, policy.erasing, generator)
    if policy.mixup or policy.cutmix:
        mixed = draw_mix(batch, side, policy.mixup, policy.cutmix, generator)
    return Draws(
        batch=batch,
        padding=policy.crop_padding,
        offsets=offsets,
        flipped=flipped,
        operations=operations,
        erased=erased,
        mix=mixed,
    )


def augment(
    images: Tensor, labels: Tensor, num_classes: int, draws: Draws, mean: list[float]
) -> tuple[Tensor, Tensor]:
    """Do what was drawn to uint8 images (b, s, s, 3) with labels (b,).

    Return float images in 0..255 and targets (b, classes), of a part without the partners that aren't its
    own. `mean` (three values in 0..1) fills what random erasing takes out.
    """
    device = images.device
    if draws.offsets is not None:
        top, left = to_device(draws.offsets, device).unbind(1)
        images = crop(images, top, left, draws.padding)
    if draws.flipped is not None:
        images = torch.where(to_device(draws.flipped[:, None, None, None], device), images.flip(2), images)
    images = images.float()
    if draws.operations is not None:
        images = trivial_augment(images, draws.operations)
    if draws.erased is not None:
        images = erase(images, draws.erased, to_device(255 * torch.tensor(mean), device))
    targets = torch.nn.functional.one_hot(labels, num_classes).float()
    if draws.mix is not None:
        images, targets = mix(images, targets, draws.mix)
    return images, targets
