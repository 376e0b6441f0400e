"""Files larger than a bound, decompression bombs and endless archives: one line that names the file, and soon."""

import gzip
import io
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import pytest

from archives import documented, make_set, members_of
from layouts import dot, imported, write_form
from vitscale.base.errors import UserError
from vitscale.data.decode import square
from vitscale.data.sources import SPLITS

pytestmark = pytest.mark.usefixtures("soon")
MIB = 1 << 20
NAME = "train/cat/large.png"


def refused(out: Path, *words: str, seconds: float = 30) -> None:
    """Assert that the import ends soon, in one line that has these words, and leaves no large file."""
    begin = time.monotonic()
    with pytest.raises(UserError) as caught:
        imported("things", out)
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line
    assert time.monotonic() - begin < seconds
    assert all(path.stat().st_size < MIB for path in out.parent.rglob("*") if out in path.parents)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG that says how large it is, and has a few bytes of data."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(999)))
        + chunk(b"IEND", b"")
    )


# ---- images ----
BOMBS = {
    "PNG": bomb(30_000, 30_000),
    "a PNG just beyond": bomb(178_956_971, 1),
    "GIF": b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
    "BMP": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, 40_000, 40_000, 1, 24, 0, 0, 0, 0, 0, 0)
    + bytes(16),
    "PPM": b"P6 40000 40000 255\n" + bytes(99),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_decompression_bombs(kind):
    """Gigabytes are asked for at a file of a hundred bytes."""
    with pytest.raises(ValueError) as caught:
        square(BOMBS[kind], 32)
    assert "pixels" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["", ".zip", ".tar"])
def test_an_import_with_a_decompression_bomb(mirror, tmp_path, form):
    """It ends the process, in a traceback, or with an error that doesn't say which file."""
    where = write_form(mirror, "things", form, members_of(make_set()) | {NAME: BOMBS["PNG"]})
    refused(tmp_path / "out", str(where), f"{NAME} can't be decoded as an image (")


def test_large_images_within_the_bound():
    """A panorama of 90 million pixels, of which Pillow warns on standard error, is refused."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (90_000, 1_000), 1).save(buffer, "PNG")
    assert (square(buffer.getvalue(), 8) == 255).all()


def test_text_in_a_png_that_unfolds():
    """A comment of a gigabyte in a small PNG is unfolded."""
    content = zlib.compress(bytes(200 * MIB), 1)
    body = b"zTXtComment\0\0" + content
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    image = dot(3)
    begin = time.monotonic()
    try:
        found = square(image[:33] + chunk + image[33:], 2)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert (found == square(image, 2)).all()
    assert time.monotonic() - begin < 5


# ---- files ----
def test_a_sparse_file(mirror, tmp_path):
    """A file of a terabyte that takes no room is read into memory."""
    where = write_form(mirror, "things", "", members_of(make_set()))
    with open(where / NAME, "wb") as file:
        file.truncate(1 << 40)
    refused(tmp_path / "out", str(where), NAME)


@pytest.mark.parametrize("size", [256 * MIB, 256 * MIB + 1])
def test_the_bound_of_a_file(mirror, tmp_path, size):
    """A file of 256 MiB is refused, or one of a byte more isn't."""
    where = write_form(mirror, "things", "", members_of(make_set()))
    with open(where / NAME, "wb") as file:
        file.write(dot(1))
        file.truncate(size)
    if size > 256 * MIB:
        refused(tmp_path / "out", NAME)
    else:
        imported("things", tmp_path / "out")


def test_a_large_file_that_is_no_image(mirror, tmp_path):
    """A table or a video beside the images is read through, or refused for its size."""
    data = make_set()
    where = write_form(mirror, "things", "", members_of(data))
    for name in ("train/cat/table.csv", "other/video.mp4"):
        (where / name).parent.mkdir(exist_ok=True)
        with open(where / name, "wb") as file:
            file.truncate(1 << 40)
    assert imported("things", tmp_path / "out")[0] == {split: documented(data[split]) for split in SPLITS}


# ---- archives ----
def lying_zip(where: Path, names: list[str], size: int, content: bytes) -> None:
    """Write a zip whose directory says that each of these members has so many bytes."""
    members = members_of(make_set()) | dict.fromkeys(names, content)
    with zipfile.ZipFile(where, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, each in members.items():
            archive.writestr(name, each)
        for name in names:
            archive.getinfo(name).file_size = size
    with zipfile.ZipFile(where) as archive:
        assert archive.getinfo(names[0]).file_size == size


@pytest.mark.parametrize("size", [256 * MIB + 1, 3 << 30], ids=["just beyond", "3 GiB"])
def test_a_zip_member_that_says_it_is_large(mirror, tmp_path, size):
    """Room is made for what a member says, or it is read up to there."""
    lying_zip(mirror / "things.zip", [NAME], size, dot(1))
    refused(tmp_path / "out", f"{mirror}/things.zip", NAME)


def test_a_zip_member_that_says_it_is_small(mirror, tmp_path):
    """A member unfolds beyond what it says, into memory."""
    lying_zip(mirror / "things.zip", [NAME], 1000, bytes(300 * MIB))
    refused(tmp_path / "out", f"{mirror}/things.zip", NAME)


def test_a_zip_member_that_is_large(mirror, tmp_path):
    """A quarter of a megabyte unfolds to more than the bound."""
    with zipfile.ZipFile(mirror / "things.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in (members_of(make_set()) | {NAME: bytes(257 * MIB)}).items():
            archive.writestr(name, content)
    refused(tmp_path / "out", f"{mirror}/things.zip", NAME)


def test_a_zip_that_unfolds_without_end(mirror, tmp_path):
    """Each member is within the bound, and all of them are terabytes."""
    names = [f"train/cat/{i:05}.png" for i in range(10_000)]
    lying_zip(mirror / "things.zip", names, 200 * MIB, dot(1))
    refused(tmp_path / "out", f"{mirror}/things.zip")


def head(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("size", [256 * MIB + 1, 1 << 50], ids=["just beyond", "a petabyte"])
def test_a_tar_member_that_says_it_is_large(mirror, tmp_path, suffix, size):
    """Room is made for what a member says."""
    content = write_form(mirror, "usual", ".tar", members_of(make_set())).read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512) + head(NAME, size) + bytes(100 * 512)
    (mirror / f"things{suffix}").write_bytes(gzip.compress(content, 1) if suffix == ".tar.gz" else content)
    refused(tmp_path / "out", f"{mirror}/things{suffix}", NAME)


def test_an_archive_that_unfolds_without_end(mirror, tmp_path):
    """A tar.gz of a few megabytes with members within the bound that are left out, one after the other: 2.5 GiB."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)

    def whole(content: bytes) -> bytes:
        return deflate.compress(content) + deflate.flush(zlib.Z_FULL_FLUSH)

    usual = write_form(mirror, "usual", ".tar", members_of(make_set())).read_bytes().rstrip(b"\0")
    usual += bytes(-len(usual) % 512)
    zeros = bytes(MIB)
    whole(zeros)
    packed, crc = whole(zeros), zlib.crc32(usual)
    parts, length = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff", whole(usual)], len(usual)
    for i in range(13):
        header = head(f"train/cat/{i}.txt", 200 * MIB)
        parts += [whole(header), *[packed] * 200]
        crc = zlib.crc32(header, crc)
        for _ in range(200):
            crc = zlib.crc32(zeros, crc)
        length += len(header) + 200 * MIB
    parts.append(deflate.compress(bytes(10240)) + deflate.flush())
    crc, length = zlib.crc32(bytes(10240), crc), length + 10240
    (mirror / "things.tar.gz").write_bytes(b"".join(parts) + struct.pack("<II", crc, length % 2**32))
    refused(tmp_path / "out", f"{mirror}/things.tar.gz", "200", seconds=60)


def test_a_well_packed_archive(mirror, tmp_path):
    """A small archive that packs well, as drawings do, is taken for a bomb."""
    data = make_set()
    blank = {f"train/cat/{i}.txt": bytes(20 * MIB) for i in range(8)}
    write_form(mirror, "things", ".tar.gz", members_of(data) | blank)
    assert imported("things", tmp_path / "out")[0] == {split: documented(data[split]) for split in SPLITS}
