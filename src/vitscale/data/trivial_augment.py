"""TrivialAugment (Müller & Hutter 2021) for batches: one operation an image, at a random strength.

The operations take and return uint8 values, as torchvision's own do, which the tests hold them against, image
by image.
"""

import math

import torch
from torch import Tensor

# TrivialAugmentWide's operations (the paper's table 1, as in torchvision): name, least and greatest strength,
# signed.
TRIVIAL = [
    ("identity", 0.0, 0.0, False),
    ("shear_x", 0.0, 0.99, True),
    ("shear_y", 0.0, 0.99, True),
    ("translate_x", 0.0, 32.0, True),
    ("translate_y", 0.0, 32.0, True),
    ("rotate", 0.0, 135.0, True),
    ("brightness", 0.0, 0.99, True),
    ("color", 0.0, 0.99, True),
    ("contrast", 0.0, 0.99, True),
    ("sharpness", 0.0, 0.99, True),
    ("posterize", 8.0, 2.0, False),
    ("solarize", 255.0, 0.0, False),
    ("autocontrast", 0.0, 0.0, False),
    ("equalize", 0.0, 0.0, False),
]
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on the device. The host doesn't wait for CUDA, which copies it aside first.

    Not so on Apple's mps: it would read the memory later, when others may have it (pytorch issue 189690).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (factor * images + (1 - factor) * other).clamp(0, 255).floor()


def _gray(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(-1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()[..., None]


def _sharpness(images: Tensor, factor: Tensor) -> Tensor:
    kernel = torch.ones(3, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    blurred = (
        torch.nn.functional.conv2d(images.permute(0, 3, 1, 2), kernel / 13, groups=3)
        .permute(0, 2, 3, 1)
        .round()
    )
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
    values = images.permute(0, 3, 1, 2).reshape(batch * channels, -1).long()
    # Not bincount: a GPU's host would wait for it, since its result is as long as the largest value asks.
    counts = torch.zeros(batch * channels, 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, values, torch.ones_like(values))
    numbers = torch.arange(256, device=images.device)
    last = torch.where(counts > 0, numbers, 0).amax(1, keepdim=True)
    step = (height * width - counts.gather(1, last)) // 255
    table = (counts.cumsum(1) - counts + step // 2) // step.clamp(min=1)
    table = torch.where(step == 0, numbers, table.clamp(0, 255)).float()
    return table.gather(1, values).view(batch, channels, height, width).permute(0, 2, 3, 1)


def _affine(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images moved by inverse matrices (b, 2, 3) in pixels about the centre; nearest, zero outside."""
    batch, height, width, _ = images.shape
    x = torch.linspace(-width * 0.5 + 0.5, width * 0.5 - 0.5, width, device=images.device)
    y = torch.linspace(-height * 0.5 + 0.5, height * 0.5 - 0.5, height, device=images.device)
    base = torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x).expand(height, width)],
        -1,
    )
    scale = to_device(torch.tensor([0.5 * width, 0.5 * height]), images.device)
    grid = (base.view(1, -1, 3) @ (matrices.transpose(1, 2) / scale)).view(batch, height, width, 2)
    moved = torch.nn.functional.grid_sample(
        images.permute(0, 3, 1, 2), grid, "nearest", "zeros", align_corners=False
    )
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
    """Apply an operation to float images (b, h, w, 3) of whole values 0..255, each at a strength (b,)."""
    if name in GEOMETRIC:
        return _affine(images, to_device(_matrices(name, strength, images.shape[1]), images.device))
    strength = to_device(strength, images.device)
    match name:
        case "identity":
            return images
        case "brightness":
            return _blend(images, torch.zeros_like(images), 1 + strength)
        case "color":
            return _blend(images, _gray(images), 1 + strength)
        case "contrast":
            # Whole numbers: their sum is exact, whatever the order in which threads add them.
            total = _gray(images).sum((1, 2, 3), keepdim=True, dtype=torch.int64)
            return _blend(images, total / images[0, ..., 0].numel(), 1 + strength)
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


def draw_operations(batch: int, generator: torch.Generator) -> Tensor:
    """Return for each image (b, 3) an operation's number in TRIVIAL, one of 31 levels, and a sign."""
    which = torch.randint(len(TRIVIAL), (batch,), generator=generator)
    level = torch.randint(31, (batch,), generator=generator)
    sign = 1 - 2 * torch.randint(2, (batch,), generator=generator)
    return torch.stack([which, level, sign], 1)


def trivial_augment(images: Tensor, operations: Tensor) -> Tensor:
    """TrivialAugmentWide on float images (b, h, w, 3), each by its own operation (b, 3)."""
    which, level, sign = operations.unbind(1)
    result = images.clone()
    for number, (name, low, high, signed) in enumerate(TRIVIAL):
        chosen = (which == number).nonzero().flatten()
        if name == "identity" or not len(chosen):
            continue
        strength = low + (high - low) * level[chosen] / 30
        if name == "posterize":
            strength = (
                8 - level[chosen] / (30 / 6)
            ).round()  # bits, written as torchvision does for the same rounding
        if signed:
            strength = strength * sign[chosen]
        on_device = to_device(chosen, images.device)
        result[on_device] = operate(name, images[on_device], strength)
    return result
