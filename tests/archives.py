"""Image folders and archives of a small data set, and the fingerprint as it is documented."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from vitscale.data.arrays import Split, load_split
from vitscale.data.sources import SPLITS, Download, bring

FOLDER = {"source": "imagefolder", "image_size": 32, "sha256": {"train": None, "test": None}}


def make_set(seed: int = 0, classes: tuple = ("bird", "cat", "dog"), count: int = 4, size: int = 32) -> dict:
    """Return {split: {class: uint8 (n, size, size, 3)}}; in each class the last image is a copy of the first."""
    rng = np.random.default_rng(seed)
    data = {
        split: {
            name: rng.integers(0, 256, (count + i, size, size, 3), dtype=np.uint8)
            for i, name in enumerate(classes)
        }
        for split in SPLITS
    }
    for by_class in data.values():
        for images in by_class.values():
            images[-1] = images[0]
    return data


def encode(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def members_of(data: dict, names=lambda i: f"{i:04d}.png", kind: str = "PNG") -> dict[str, bytes]:
    return {
        f"{split}/{label}/{names(i)}": encode(image, kind)
        for split, by_class in data.items()
        for label, images in by_class.items()
        for i, image in enumerate(images)
    }


def write_folder(where: Path, members: dict[str, bytes]) -> None:
    for name, content in members.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(content)


def write_zip(where: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(where, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def documented(by_class: dict[str, np.ndarray]) -> str:
    """The fingerprint as `imports.fingerprint` says it: the names, then class ids in four bytes with pixels, sorted in a class."""
    content = (json.dumps(sorted(by_class), ensure_ascii=False) + "\n").encode()
    for label, images in enumerate(by_class[name] for name in sorted(by_class)):
        for pixels in sorted(image.tobytes() for image in images):
            content += label.to_bytes(4, "big") + pixels
    return hashlib.sha256(content).hexdigest()


def written(name: str, entry: dict, out: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Import a data set; return its fingerprints and the bytes of all files it gave."""
    found = bring(name, Download(**entry), out, out.with_name(f"{out.name}.kept"))
    return found, {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def splits(name: str, entry: dict, out: Path) -> dict[str, Split]:
    """Import a data set; return its splits."""
    bring(name, Download(**{"sha256": {}} | entry), out, out.with_name(f"{out.name}.kept"))
    return {split: load_split(out / split) for split in SPLITS}


def of_class(split: Split, label: int) -> np.ndarray:
    """Return a class's images."""
    return split.images[split.labels == label]
