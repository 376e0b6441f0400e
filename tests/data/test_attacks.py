"""Faults that an attack on the imports found."""

import io
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

import oddities as o
from vitscale.base.errors import UserError
from vitscale.data import pins
from vitscale.data.decode import square
from vitscale.data.imports import _sorted
from vitscale.data.sources import Download, bring

ENTRY = Download(source="imagefolder", image_size=8, sha256={"train": None, "test": None})


def _members(shade: int = 0) -> dict[str, bytes]:
    return {
        f"{split}/{label}/{i}.bmp": o.save(np.full((8, 8, 3), 10 * i + len(label) + shade, np.uint8), "BMP")
        for split in ("train", "test")
        for label in ("cat", "horse")
        for i in range(3)
    }


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_another_tar_of_the_same_sizes_and_times(mirror, tmp_path):
    """Members of one time and size, as reproducible archives have them: the older archive's images are taken."""
    (mirror / "things.tar").write_bytes(_tar(_members()))
    first = bring("things", ENTRY, tmp_path / "1", tmp_path / "kept")
    (mirror / "things.tar").write_bytes(_tar(_members(100)))
    assert bring("things", ENTRY, tmp_path / "2", tmp_path / "kept") != first


def test_two_tars_put_together(mirror, tmp_path):
    """What follows the first archive's end is dropped in silence."""
    members = list(_members().items())
    halves = [dict(members[0::3]), dict(members[1::3]) | dict(members[2::3])]
    (mirror / "things.tar").write_bytes(b"".join(map(_tar, halves)))
    try:
        bring("things", ENTRY, tmp_path / "out", tmp_path / "kept")
    except UserError:
        return
    assert len(np.load(tmp_path / "out/train/labels.npy")) == 6


def test_a_long_field_in_a_file_of_labels(mirror, tmp_path):
    """It ends in a traceback of csv."""
    for name, content in _members().items():
        path = mirror / "things" / name.replace("test/cat/", "val/a").replace("test/horse/", "val/b")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (mirror / "things/l.csv").write_text("x" * 200_000 + ",cat\n")
    entry = Download(source="imagefolder", image_size=8, sha256={"train": None, "test": None}, labels="l.csv")
    with pytest.raises(UserError):
        bring("things", entry, tmp_path / "out", tmp_path / "kept")


def test_many_images_that_are_alike():
    """A class of many equal images ends in a RecursionError."""
    size = 3 * 1024 * 1024
    assert sum(1 for _ in _sorted(list(range(22_000)), lambda place, start, stop: b"\0", size)) == 22_000


def _refused_or(content: bytes, wanted: np.ndarray) -> bool:
    try:
        return np.array_equal(square(content, 32), wanted)
    except ValueError:
        return True


@pytest.mark.parametrize("key", [1, 15])
def test_a_clear_shade_of_four_bits(key):
    """Pillow scales the shades and not the clear one: another shade, or none, is seen through."""
    shades = o.SHADES >> 4
    rows = (shades[:, 0::2] << 4) | shades[:, 1::2]
    alpha = np.where(shades == key, 0, 255).astype(np.uint8)
    content = o.png(4, 0, rows, tRNS=struct.pack(">H", key))
    assert _refused_or(content, o.on_grey(o.gray(shades * 17), alpha))


def test_a_deep_tiff_whose_zero_is_white():
    """It is read as its negative."""
    image = Image.fromarray(o.DEEP)
    content = bytearray(o.save(image, "TIFF"))
    at = content.index(struct.pack("<HHI", 262, 3, 1))
    content[at + 8 : at + 10] = struct.pack("<H", 0)
    assert _refused_or(bytes(content), o.gray(((65535 - o.DEEP) >> 8).astype(np.uint8)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_damaged_exif(kind):
    """An image that any viewer shows is refused for its notes, though the same notes in a JPEG are not."""
    whole = o.save(o.COLOURS, kind)
    noted = o.save(o.COLOURS, kind, exif=b"Exif\0\0garbage")
    assert np.array_equal(square(noted, 32), square(whole, 32))


def test_the_pin_of_another_import(tmp_path, monkeypatch):
    """`compare` says to paste the fingerprint of an import with other settings."""
    monkeypatch.chdir(tmp_path)
    folder = pins.kept_import("things")
    folder.mkdir(parents=True)
    note = '{"settings": {"image_size": 16}, "files": "", "found": {"train": "old", "test": "old"}}'
    (folder / pins.NOTE).write_text(note)
    entry = {"source": "imagefolder", "image_size": 64, "sha256": {"train": None, "test": None}}
    assert not any("paste old" in line for line in pins.unpinned_in({"things": entry}, tmp_path))
