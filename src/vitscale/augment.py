"""Batched augmentation on the training device: every image its own draw, no PIL, no worker processes.

A policy is an entry of params.yaml's `augment`:

    crop_padding: 4         random crop after zero padding by so many pixels; 0: off
    flip: true              horizontal, with probability 1/2
    trivial_augment: false  TrivialAugment (Müller & Hutter 2021): one operation an image at a random strength
    erasing: 0.0            probability of random erasing (Zhong et al. 2020), to the channel mean
    mixup: 0.0              alpha of mixup (Zhang et al. 2018); 0: off
    cutmix: 0.0             alpha of CutMix (Yun et al. 2019); 0: off; with both on, each image gets either

Draws come from one CPU generator, so that a (seed, step) gives the same batch on every device. The operations take
and return uint8 values, as torchvision's own do, which the tests hold them against, image by image.
"""

import math

import torch
from torch import Tensor

# TrivialAugmentWide's operations (table 1 of the paper, as in torchvision): name, least and greatest strength, signed.
TRIVIAL = [
    ("identity", 0.0, 0.0, False), ("shear_x", 0.0, 0.99, True), ("shear_y", 0.0, 0.99, True),
    ("translate_x", 0.0, 32.0, True), ("translate_y", 0.0, 32.0, True), ("rotate", 0.0, 135.0, True),
    ("brightness", 0.0, 0.99, True), ("color", 0.0, 0.99, True), ("contrast", 0.0, 0.99, True),
    ("sharpness", 0.0, 0.99, True), ("posterize", 8.0, 2.0, False), ("solarize", 255.0, 0.0, False),
    ("autocontrast", 0.0, 0.0, False), ("equalize", 0.0, 0.0, False),
]
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


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
    padded[:, padding:padding + height, padding:padding + width] = images
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    each = torch.arange(batch, device=images.device)
    return padded[each[:, None, None], rows[:, :, None], columns[:, None, :]]


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (factor * images + (1 - factor) * other).clamp(0, 255).floor()


def _gray(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(-1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()[..., None]


def _sharpness(images: Tensor, factor: Tensor) -> Tensor:
    kernel = torch.ones(3, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    blurred = torch.nn.functional.conv2d(images.permute(0, 3, 1, 2), kernel / 13, groups=3).permute(0, 2, 3, 1).round()
    inner, result = images[:, 1:-1, 1:-1], images.clone()  # the border stays as it is
    result[:, 1:-1, 1:-1] = (inner + (1 - factor.view(-1, 1, 1, 1)) * (blurred - inner)).clamp(0, 255).floor()
    return result


def _autocontrast(images: Tensor) -> Tensor:
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    flat = low == high
    scale = torch.where(flat, 1.0, (high - low) * (1 / 255))
    return ((images - torch.where(flat, 0.0, low)) / scale).clamp(0, 255).floor()


def _equalize(images: Tensor) -> Tensor:
    batch, height, width, channels = images.shape
    values = images.long().permute(0, 3, 1, 2).reshape(batch * channels, -1)
    offsets = 256 * torch.arange(batch * channels, device=images.device)[:, None]
    counts = torch.bincount((values + offsets).flatten(), minlength=256 * batch * channels).view(-1, 256)
    last = 255 - (counts.flip(1) > 0).to(torch.uint8).argmax(1, keepdim=True)
    step = (height * width - counts.gather(1, last)) // 255
    table = (counts.cumsum(1) - counts + step // 2) // step.clamp(min=1)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table.clamp(0, 255))
    return table.gather(1, values).view(batch, channels, height, width).permute(0, 2, 3, 1).float()


def _affine(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images moved by inverse matrices (b, 2, 3) in pixels about the centre; nearest, zero outside."""
    batch, height, width, _ = images.shape
    x = torch.linspace(-width * 0.5 + 0.5, width * 0.5 - 0.5, width, device=images.device)
    y = torch.linspace(-height * 0.5 + 0.5, height * 0.5 - 0.5, height, device=images.device)
    base = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x).expand(height, width)], -1)
    scale = torch.tensor([0.5 * width, 0.5 * height], device=images.device)
    grid = (base.view(1, -1, 3) @ (matrices.transpose(1, 2) / scale)).view(batch, height, width, 2)
    moved = torch.nn.functional.grid_sample(images.permute(0, 3, 1, 2), grid, "nearest", "zeros", align_corners=False)
    return moved.permute(0, 2, 3, 1)


def _matrices(name: str, strength: Tensor, image_size: int) -> Tensor:
    """Return the inverse affine matrices (b, 2, 3) of a geometric operation at each image's strength."""
    matrices = torch.zeros(len(strength), 2, 3)
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1
    if name == "shear_x":  # about the top edge, as TrivialAugment's reference code does
        matrices[:, 0, 1], matrices[:, 0, 2] = strength, strength * (0.5 * image_size)
    elif name == "shear_y":
        matrices[:, 1, 0], matrices[:, 1, 2] = strength, strength * (0.5 * image_size)
    elif name == "translate_x":
        matrices[:, 0, 2] = -strength.trunc()
    elif name == "translate_y":
        matrices[:, 1, 2] = -strength.trunc()
    elif name == "rotate":
        angle = strength * (math.pi / 180)
        matrices[:, 0, 0] = matrices[:, 1, 1] = angle.cos()
        matrices[:, 0, 1], matrices[:, 1, 0] = -angle.sin(), angle.sin()
    return matrices


def operate(name: str, images: Tensor, strength: Tensor) -> Tensor:
    """Apply one operation to float images (b, h, w, 3) of whole values 0..255, each at its own strength (b,)."""
    if name in GEOMETRIC:
        return _affine(images, _matrices(name, strength, images.shape[1]).to(images.device))
    strength = strength.to(images.device)
    match name:
        case "identity":
            return images
        case "brightness":
            return _blend(images, torch.zeros_like(images), 1 + strength)
        case "color":
            return _blend(images, _gray(images), 1 + strength)
        case "contrast":
            return _blend(images, _gray(images).mean((1, 2, 3), keepdim=True), 1 + strength)
        case "sharpness":
            return _sharpness(images, 1 + strength)
        case "posterize":
            step = (2.0 ** (8 - strength)).view(-1, 1, 1, 1)
            return (images / step).floor() * step
        case "solarize":
            return torch.where(images >= strength.view(-1, 1, 1, 1), 255 - images, images)
        case "autocontrast":
            return _autocontrast(images)
        case "equalize":
            return _equalize(images)
    raise ValueError(name)


def trivial_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """TrivialAugmentWide on float images (b, h, w, 3): one operation, one of 31 strengths and a sign for each."""
    batch = len(images)
    which = torch.randint(len(TRIVIAL), (batch,), generator=generator)
    level = torch.randint(31, (batch,), generator=generator)
    sign = 1 - 2 * torch.randint(2, (batch,), generator=generator)
    result = images.clone()
    for number, (name, low, high, signed) in enumerate(TRIVIAL):
        chosen = (which == number).nonzero().flatten()
        if name == "identity" or not len(chosen):
            continue
        strength = low + (high - low) * level[chosen] / 30
        if name == "posterize":
            strength = (8 - level[chosen] / (30 / 6)).round()  # bits, written as torchvision does for the same rounding
        if signed:
            strength = strength * sign[chosen]
        on_device = chosen.to(images.device)
        result[on_device] = operate(name, images[on_device], strength)
    return result


def _boxes(batch: int, height: int, width: int, box_height: Tensor, box_width: Tensor, generator: torch.Generator) -> Tensor:
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


def mix(images: Tensor, targets: Tensor, mixup: float, cutmix: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix every image, and its target (b, classes), with another of the batch, by mixup or by CutMix."""
    batch, height, width, _ = images.shape
    partner = torch.randperm(batch, generator=generator).to(images.device)
    cut = torch.rand(batch, generator=generator) < 0.5 if mixup and cutmix else torch.full((batch,), bool(cutmix))
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
    return images * weight + images[partner] * (1 - weight), targets * kept[:, None] + targets[partner] * (1 - kept[:, None])


def augment(images: Tensor, labels: Tensor, num_classes: int, policy: dict, mean: list[float],
            generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment uint8 images (b, h, w, 3) with labels (b,); return float images in 0..255 and targets (b, classes).

    `mean` (three values in 0..1) fills what random erasing takes out.
    """
    batch, device = len(images), images.device
    if policy["crop_padding"]:
        top, left = torch.randint(2 * policy["crop_padding"] + 1, (2, batch), generator=generator).to(device)
        images = crop(images, top, left, policy["crop_padding"])
    if policy["flip"]:
        flipped = torch.randint(2, (batch,), generator=generator, dtype=torch.bool).to(device)
        images = torch.where(flipped[:, None, None, None], images.flip(2), images)
    images = images.float()
    if policy["trivial_augment"]:
        images = trivial_augment(images, generator)
    if policy["erasing"]:
        images = erase(images, policy["erasing"], 255 * torch.tensor(mean, device=device), generator)
    targets = torch.nn.functional.one_hot(labels, num_classes).float()
    if policy["mixup"] or policy["cutmix"]:
        images, targets = mix(images, targets, policy["mixup"], policy["cutmix"], generator)
    return images, targets
