"""A split of a data set on disk.

`images.npy` (uint8, n x h x w x 3), `labels.npy` (int64, n), `classes.json`.

What a frozen backbone makes of such images is a split too, with `features.npy` (float32, n x d) for the
images.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitscale.base.errors import UserError, one_line
from vitscale.base.files import AGAIN, naming, read_json, write_bytes, write_json


@dataclass(frozen=True)
class Split:
    """Images or features, their labels (n,) and the names of the classes."""

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def _fault(split: Split, on_features: bool) -> str:
    """Return what doesn't fit together, or nothing. Of a label that is no class torch would say less."""
    images, labels, classes = split.images, split.labels, split.classes
    kind, dimensions = (np.float32, 2) if on_features else (np.uint8, 4)
    if images.dtype != kind or images.ndim != dimensions or (not on_features and images.shape[3] != 3):
        return f"images are {images.dtype} of shape {images.shape}"
    if labels.dtype != np.int64 or labels.ndim != 1:
        return f"labels are {labels.dtype} of shape {labels.shape}"
    if len(images) != len(labels):
        return f"{len(images)} images have {len(labels)} labels"
    if not all(isinstance(name, str) for name in classes):
        return "classes.json is no list of names"
    if len(set(classes)) < len(classes):
        return "a class stands twice in classes.json"
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        return f"labels run from {labels.min()} to {labels.max()}, there are {len(classes)} classes"
    return ""


def load_split(folder: Path) -> Split:
    """Open a split with its images memory-mapped, so that a set larger than memory streams from the disk.

    Raises UserError where a file is missing or damaged, or where the files don't belong together.
    """
    classes = read_json(folder / "classes.json", list, AGAIN)
    try:
        name = "features.npy" if (folder / "features.npy").exists() else "images.npy"
        images = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        split = Split(images, labels, classes)
        if fault := _fault(split, name == "features.npy"):
            raise ValueError(fault)
        return split
    except Exception as error:  # of a damaged header numpy raises whatever its parser does, MemoryError too
        raise UserError(f"{folder} holds no usable split ({one_line(error)}); {AGAIN}") from error


def stratified(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the sorted indices of a fraction of each class, at least one image.

    A smaller share lies in a larger.
    """
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return np.sort(np.concatenate([each[: max(1, round(fraction * len(each)))] for each in members]))


class SplitWriter:
    """Writes a split of known size batch by batch, without ever holding all of it."""

    def __init__(self, folder: Path, count: int, image_size: int, classes: list[str]):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path, self.written = folder, folder / "images.npy", 0
        self.labels = np.empty(count, dtype=np.int64)
        self.file = open(self.path, "wb")
        shape = (count, image_size, image_size, 3)
        np.lib.format.write_array_header_1_0(
            self.file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        write_json(folder / "classes.json", classes)

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Write images (b, h, w, 3) with their labels (b,)."""
        with naming(self.path):
            self.file.write(np.ascontiguousarray(images).data)
        self.labels[self.written : self.written + len(labels)] = labels
        self.written += len(labels)

    def close(self) -> None:
        """End the split; all images must have been written."""
        with naming(self.path):  # its last bytes are written only now
            self.file.close()
        assert self.written == len(self.labels), (
            f"{self.folder}: {self.written} of {len(self.labels)} images written"
        )
        write_array(self.folder / "labels.npy", self.labels)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, whole or not at all."""
    content = io.BytesIO()  # np.save to a file ignores a disk that is full at its last bytes
    np.save(content, array)
    write_bytes(path, content.getvalue())


def write_features(folder: Path, features: np.ndarray, split: Split) -> None:
    """Write features (n, d) in place of a split's images."""
    write_array(folder / "features.npy", features)
    write_array(folder / "labels.npy", split.labels)
    write_json(folder / "classes.json", split.classes)
