"""Splitting off validation images, channel statistics, and a look at the augmentation policies."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from vitscale.base.errors import UserError
from vitscale.data.arrays import Split, SplitWriter
from vitscale.data.augment import Policy, augment, draw, generator_for

CHUNK = 1000  # images handled at a time


def leaked(images: np.ndarray, test: Split) -> np.ndarray | None:
    """Return a mask of the images that stand, pixel for pixel, in a test split.

    None where that can't be told, since the two have images of different sizes.
    """
    if images.shape[1:] != test.images.shape[1:]:
        return None
    known = {hashlib.sha256(image).digest() for image in test.images}
    return np.array([hashlib.sha256(image).digest() in known for image in images])


def split_off(split: Split, usable: np.ndarray, share: float, seed: int) -> dict[str, np.ndarray]:
    """Return sorted indices of `train` and `validation`: a share of each class's usable images."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    for label, name in enumerate(split.classes):
        members = rng.permutation(np.flatnonzero((split.labels == label) & usable))
        if len(members) < 2:
            raise UserError(
                f"class {name} has {len(members)} usable images; it needs two, one of them for validation"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        parts["validation"].append(members[:count])
        parts["train"].append(members[count:])
    return {name: np.sort(np.concatenate(indices)) for name, indices in parts.items()}


def write_part(split: Split, indices: np.ndarray, folder: Path) -> None:
    """Write the images of a split that the indices name as a split of its own."""
    writer = SplitWriter(folder, len(indices), split.images.shape[1], split.classes)
    for start in range(0, len(indices), CHUNK):
        chosen = indices[start : start + CHUNK]
        writer.add(split.images[chosen], split.labels[chosen])
    writer.close()


def channel_statistics(split: Split, indices: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the channels' means and standard deviations of values in 0..1, from exact integer sums."""
    total, squares = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    for start in range(0, len(indices), CHUNK):
        values = split.images[indices[start : start + CHUNK]].astype(np.int64)
        total += values.sum((0, 1, 2))
        squares += (values**2).sum((0, 1, 2))
    mean = total / (len(indices) * split.images.shape[1] ** 2)
    variance = squares / (len(indices) * split.images.shape[1] ** 2) - mean**2
    std = np.sqrt(np.maximum(variance, 1.0))  # a channel of one single value can't be scaled
    return (mean / 255).tolist(), (std / 255).tolist()


def preview(
    split: Split, indices: np.ndarray, mean: list[float], policies: dict[str, Policy], seed: int
) -> Image.Image:
    """Return a picture: images as they are, then two draws of each policy, which is checked on the way.

    Raises UserError for a policy that gives anything but finite images in 0..255 with targets that sum to 1.
    """
    columns, zoom, label_width = 10, 2, 120
    chosen = indices[np.linspace(0, len(indices) - 1, columns).astype(int)]
    images, labels = torch.from_numpy(split.images[chosen]), torch.from_numpy(split.labels[chosen])
    rows = [("as they are", images.float())]
    for name, policy in policies.items():
        for number in range(2):
            drawn = draw(policy, len(images), images.shape[1], generator_for(seed, number))
            result, targets = augment(images, labels, len(split.classes), drawn, mean)
            good = result.isfinite().all() and result.min() >= -1e-3 and result.max() <= 255.001
            if not good or result.shape != rows[0][1].shape or not (targets.sum(1) - 1).abs().max() <= 1e-5:
                raise UserError(f"augment.{name} gives images outside 0..255 or targets that don't sum to 1")
            rows.append((name if number == 0 else "", result))
    size = split.images.shape[1] * zoom
    picture = Image.new("RGB", (label_width + columns * (size + 2), len(rows) * (size + 2)), "white")
    for y, (name, batch) in enumerate(rows):
        ImageDraw.Draw(picture).text((6, y * (size + 2) + size // 2 - 5), name, fill="black")
        for x, image in enumerate(batch.round().clamp(0, 255).byte().numpy()):
            tile = Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST)
            picture.paste(tile, (label_width + x * (size + 2), y * (size + 2)))
    return picture
