"""Splits of random images, as the prepared data have them."""

import json
from pathlib import Path

import numpy as np

from tiny import OFF
from vitscale.data.arrays import Split
from vitscale.data.augment import Policy

POLICIES = {
    "none": Policy(**OFF),
    "strong": Policy(
        **OFF
        | {
            "crop_padding": 4,
            "flip": True,
            "trivial_augment": True,
            "erasing": 0.5,
            "mixup": 0.2,
            "cutmix": 1.0,
        }
    ),
}


def make_split(counts: list[int], seed: int = 0, size: int = 32) -> Split:
    """Return a split of random images, class by class; every class has another brightness, every channel another range."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    images = (
        rng.integers(0, 100, (len(labels), size, size, 3)) + 15 * labels[:, None, None, None] + [0, 40, 80]
    )
    return Split(images.astype(np.uint8), labels, [f"class{i}" for i in range(len(counts))])


def put(folder: Path, split: Split) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", split.images)
    np.save(folder / "labels.npy", split.labels)
    (folder / "classes.json").write_text(json.dumps(split.classes))
