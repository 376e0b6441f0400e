"""Where a data set's images come from, and the fingerprint that says they are the right ones.

`VITSCALE_MIRROR` names a folder looked in first: `<mirror>/<name>/{train,test}/<class>/<image>`, or the same
inside `<mirror>/<name>.zip`. Without one, CIFAR comes from its official archives (`data.official`) and digits
from scikit-learn. Whatever the source, the same images give the same bytes on disk.
"""

import hashlib
import io
import json
import lzma
import os
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from vitscale.base.errors import UserError
from vitscale.base.progress import progress
from vitscale.data.arrays import SplitWriter
from vitscale.data.official import cifar_archive, read_cifar

SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Download:
    """An entry of params.yaml's `download`.

    `classes` for digits alone, `image_size` for a folder of images.
    """

    source: str
    sha256: dict[str, str | None]
    classes: list[int] | None = None
    image_size: int = 32


@dataclass
class Source:
    """Class names, a split's images by class, how many and what returns them, uint8 (n, s, s, 3)."""

    classes: list[str]
    counts: dict[str, list[int]]
    images: Callable[[str, int], np.ndarray]
    image_size: int


def centre_square(image: Image.Image, side: int) -> np.ndarray:
    """Return an RGB image as data sets store it, uint8 (side, side, 3): its centre square, scaled."""
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    return np.array(image)


def _decode(content: bytes, name: str, image_size: int, resize: bool) -> np.ndarray:
    """Return an image as RGB.

    With `resize` its centre square is scaled, otherwise the size must be right already.
    """
    try:
        with Image.open(io.BytesIO(content)) as file:
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"mode {file.mode}: more than 8 bits a channel")
            image = ImageOps.exif_transpose(file).convert("RGB")
    except Exception as error:  # Pillow's decoders raise whatever their library raises
        raise UserError(
            f"{name} can't be decoded as an image ({error}); replace it or take it out"
        ) from error
    if image.size != (image_size, image_size) and not resize:
        raise UserError(f"{name} has {image.width}x{image.height} pixels, not {image_size}x{image_size}")
    return centre_square(image, image_size)


def _tree(
    where: Path, names: list[str], read: Callable[[str], bytes], image_size: int, resize: bool
) -> Source:
    """Return the source over files `{train,test}/<class>/<image>`; a name that ends in "/" is a folder."""
    members: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for name in sorted(names):
        parts = PurePosixPath(name).parts
        if (
            len(parts) < (2 if name.endswith("/") else 3)
            or parts[0] not in SPLITS
            or any(part.startswith((".", "__")) for part in parts)
        ):
            continue
        files = members[parts[0]].setdefault(parts[1], [])
        if not name.endswith("/"):
            files.append(name)
    for split, by_class in members.items():
        if not by_class:
            raise UserError(
                f"{where} has no {split}/ with class folders; it needs {{train,test}}/<class>/<image>"
            )
        for label, files in by_class.items():
            if not files:
                raise UserError(
                    f"{where}: the class folder {split}/{label} holds no image; fill it or take it out"
                )
    classes = sorted(members["train"])
    if classes != sorted(members["test"]):
        odd = sorted(set(classes) ^ set(members["test"]))
        raise UserError(
            f"{where}: train/ and test/ must have the same classes; only one of them has {', '.join(odd)}"
        )
    return Source(
        classes,
        {split: [len(members[split][label]) for label in classes] for split in SPLITS},
        lambda split, label: np.stack(
            [
                _decode(read(name), f"{where}: {name}", image_size, resize)
                for name in members[split][classes[label]]
            ]
        ),
        image_size,
    )


def _folder(where: Path, image_size: int, resize: bool) -> Source:
    names = [
        path.relative_to(where).as_posix() + ("/" if path.is_dir() else "") for path in where.glob("*/*")
    ]
    names += [path.relative_to(where).as_posix() for path in where.glob("*/*/**/*") if path.is_file()]
    return _tree(where, names, lambda name: (where / name).read_bytes(), image_size, resize)


def _zip(where: Path, image_size: int, resize: bool) -> Source:
    try:
        archive = zipfile.ZipFile(where)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{where} is no whole zip archive ({error}); copy it again") from error
    names = archive.namelist()
    for name in names:
        if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name:
            raise UserError(f"{where}: the member {name!r} points out of the archive; don't use this file")

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            ValueError,
            RuntimeError,
            zlib.error,
            lzma.LZMAError,
        ) as error:
            raise UserError(f"{where}: {name} is damaged ({error}); copy the archive again") from error

    return _tree(where, names, read, image_size, resize)


def _arrays(classes: list[str], images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> Source:
    return Source(
        classes,
        {split: np.bincount(labels[split], minlength=len(classes)).tolist() for split in SPLITS},
        lambda split, label: images[split][labels[split] == label],
        images["train"].shape[1],
    )


def _digits(chosen: list[int]) -> Source:
    """scikit-learn's 8x8 digits, each pixel repeated 4x4 in RGB.

    In its order every fourth image of a class is test.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    gray = ((data.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    every = gray.repeat(4, 1).repeat(4, 2)[..., None].repeat(3, 3)
    parts: dict[str, list] = {split: [] for split in SPLITS}
    for label, digit in enumerate(chosen):
        members = np.flatnonzero(data.target == digit)
        is_test = np.arange(len(members)) % 4 == 3
        for split, part in (("train", members[~is_test]), ("test", members[is_test])):
            parts[split].append((part, np.full(len(part), label)))
    order = {split: np.concatenate([part for part, _ in parts[split]]) for split in SPLITS}
    labels = {split: np.concatenate([label for _, label in parts[split]]) for split in SPLITS}
    return _arrays([str(digit) for digit in chosen], {split: every[order[split]] for split in SPLITS}, labels)


def open_source(name: str, entry: Download) -> Source:
    """Return the source of `download.<name>`.

    Raises UserError where it is absent or not what it should be.
    """
    source = _source(name, entry)
    for label in source.classes:
        # Controls, what a name that is no UTF-8 is read as, and separators of lines and paragraphs.
        if any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in label):
            raise UserError(
                f"{name}: the class {ascii(label)} has a control character in its name, or bytes that are no "
                "UTF-8; rename the folder"
            )
    return source


def _source(name: str, entry: Download) -> Source:
    resize, image_size = entry.source == "imagefolder", entry.image_size
    if entry.source == "digits":
        return _digits(entry.classes or [])
    mirror = os.environ.get("VITSCALE_MIRROR")
    if mirror:
        folder, archive = Path(mirror) / name, Path(mirror) / f"{name}.zip"
        if folder.is_dir():
            return _folder(folder, image_size, resize)
        if archive.is_file():
            return _zip(archive, image_size, resize)
        print(f"{mirror} has neither {name}/ nor {name}.zip", file=sys.stderr)
    if entry.source == "imagefolder":
        raise UserError(f"{name}: set VITSCALE_MIRROR to a folder that has {name}/ or {name}.zip")
    return _arrays(*read_cifar(entry.source, cifar_archive(entry.source)))


def _canonical(source: Source, split: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each class's images in the order of their pixel bytes, which no source's own order changes."""
    for label in progress(range(len(source.classes)), len(source.classes), split):
        images = source.images(split, label)
        yield label, images[sorted(range(len(images)), key=lambda i: images[i].tobytes())]


def write_split(source: Source, split: str, folder: Path) -> str:
    """Write a split in canonical order, class by class; return its fingerprint.

    That is a sha256 over the names of the classes (as JSON, UTF-8, a line) and, image after image, the class
    id (four bytes, big-endian) and the pixels (row-major, channel last), in the order (class id, pixels).
    """
    total = hashlib.sha256((json.dumps(source.classes, ensure_ascii=False) + "\n").encode())
    writer = SplitWriter(folder, sum(source.counts[split]), source.image_size, source.classes)
    for label, images in _canonical(source, split):
        for image in images:
            total.update(label.to_bytes(4, "big") + image.tobytes())
        writer.add(images, np.full(len(images), label))
    writer.close()
    return total.hexdigest()


def verify(name: str, expected: dict[str, str | None], found: dict[str, str]) -> None:
    """Raise UserError unless both fingerprints are the ones in params.yaml."""
    faults = []
    for split, value in found.items():
        if expected[split] is None:
            faults.append(
                f"download.{name}.sha256.{split} is not given; to pin what was found, paste {value}"
            )
        elif expected[split] != value:
            faults.append(
                f"{name}/{split} is not the data set of params.yaml: download.{name}.sha256.{split} is "
                f"{expected[split]}, found {value}"
            )
    if faults:
        raise UserError("\n".join(faults))
