"""Archives, folders and images that are meant to take all memory or time: one line, little memory, soon."""

import bz2
import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from archives import make_set, members_of
from layouts import counts, dot, imported, write_form, write_tar
from tiny import ROOT
from vitscale.base.errors import UserError
from vitscale.data.decode import square

pytestmark = pytest.mark.usefixtures("soon")
NAME, GIB, MIB = "train/cat/large.png", 1 << 30, 1 << 20
MEASURED = """
import resource, sys
sys.path[:0] = [{src!r}, {tests!r}]
from pathlib import Path
from layouts import imported
from vitscale.base.errors import UserError
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
before, seconds = peak(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
try:
    imported("things", Path(sys.argv[1]), **{entry!r})
except UserError as error:
    print((peak() - before) // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_utime - seconds, error)
"""


def refused(out: Path, *words: str, mib: int = 150, **entry) -> None:
    """Assert that an import ends within 8 CPU seconds (2 and less were seen) and so much memory, in a line with words."""
    code = MEASURED.format(src=str(ROOT / "src"), tests=str(ROOT / "tests"), entry=entry)
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout, done
    memory, seconds, line = done.stdout.splitlines()[-1].split(maxsplit=2)  # after notes
    assert all(word in line for word in words), line
    assert int(memory) < mib and float(seconds) < 8, done.stdout


def ten_gib() -> bytes:
    """Return 10 GiB of zeros, deflated to 10 MB."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    return parts[0] + 10 * 1023 * parts[1] + deflate.flush()


def zip_of(where: Path, name: str, packed: bytes, size: int, kind: int = zipfile.ZIP_DEFLATED) -> None:
    """Write a zip with a member that is packed so and says that it has so many bytes."""
    with zipfile.ZipFile(where, "w") as archive:
        for each, content in members_of(make_set()).items():
            archive.writestr(each.replace("test/", "val/x/"), content)
        archive.writestr(name, packed)
        info = archive.getinfo(name)
        info.compress_type, info.file_size = kind, size


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        (NAME, 10 * GIB, [NAME, str(10 * GIB), str(256 * MIB)]),
        ("labels.csv", 10 * GIB, ["labels.csv", str(10 * GIB), "200 times"]),
        ("labels.csv", 70 * MIB, ["labels.csv", str(64 * MIB)]),
        ("labels.csv", 1000, ["labels.csv", "damaged"]),
        (NAME, 1000, [NAME, "damaged"]),
    ],
    ids=["an image", "labels", "labels within", "labels that lie", "an image that lies"],
)
def test_ten_gib_in_a_zip(mirror, tmp_path, name, size, words):
    """A member of 10 GiB is unpacked, whatever it says; the line advises a smaller batch_size."""
    zip_of(mirror / "things.zip", name, ten_gib(), size)
    labels = {} if name == NAME else {"labels": name}
    refused(tmp_path / "out", str(mirror / "things.zip"), *words, **labels)


def test_bzip2_that_lies(mirror, tmp_path):
    """zipfile unpacks all of a member that is packed with bzip2, or another than deflate, at once."""
    packed = bz2.compress(100 * (os.urandom(20_000) + bytes(MIB)))
    zip_of(mirror / "things.zip", NAME, packed, 1000, zipfile.ZIP_BZIP2)
    refused(tmp_path / "out", NAME, "damaged", mib=60)


@pytest.mark.parametrize("name", [NAME, "labels.csv"])
def test_ten_gib_in_a_tar(mirror, tmp_path, name):
    """A member of 10 GiB in a tar.gz of 10 MB is unpacked up to the bound, for its name only at its end."""
    info = tarfile.TarInfo(name)
    info.size = 10 * GIB
    usual = write_form(mirror, "usual", ".tar", members_of(make_set())).read_bytes().rstrip(b"\0")
    head = usual + bytes(-len(usual) % 512) + info.tobuf(tarfile.GNU_FORMAT)
    (mirror / "things.tar.gz").write_bytes(gzip.compress(head + bytes(MIB)) + os.urandom(10 * MIB))
    refused(tmp_path / "out", str(mirror / "things.tar.gz"), name, str(10 * GIB))


def extended(body: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    info = tarfile.TarInfo("extended")
    info.type, info.size = kind, len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


def holes() -> bytes:
    return b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n" + b"27 GNU.sparse.realsize=999\n"


SPARSE = tarfile.TarInfo("train/cat/a.png")
SPARSE.type, SPARSE.size = tarfile.GNUTYPE_SPARSE, 0
BACKWARD = tarfile.TarInfo("train/cat/a.png")
BACKWARD.size = -5120
TARS = {
    "digits": extended(b"1" * MIB),
    "records in each other": extended(b"4 a=" * (MIB // 4)),
    "digits in a value": extended(b"1000012 path=" + b"1" * 999_998 + b"\n"),
    "digits for all": extended(b"1000012 path=" + b"1" * 999_998 + b"\n", tarfile.XGLTYPE),
    "a map of holes": extended(holes()) + tarfile.TarInfo("x.png").tobuf(tarfile.USTAR_FORMAT) + b"9" * 512,
    "an old map of holes": SPARSE.tobuf(tarfile.GNU_FORMAT),
    "backward": BACKWARD.tobuf(tarfile.GNU_FORMAT),
    "backward, extended": extended(b"14 size=-5120\n") + tarfile.TarInfo("x.png").tobuf(tarfile.USTAR_FORMAT),
    "a long name": extended(b"100012 path=" + b"x" * 99_999 + b"\n"),
    "a deep name": extended(b"20012 path=" + b"x/" * 9_999 + b"x\n"),
}


@pytest.mark.parametrize("kind", TARS)
def test_headers_of_a_tar(mirror, tmp_path, kind):
    """tarfile takes the square of an extended header's bytes, reads maps of holes without end, or goes in a circle."""
    file = tarfile.TarInfo("train/cat/b.png").tobuf(tarfile.USTAR_FORMAT)
    (mirror / "things.tar").write_bytes(TARS[kind] + file + bytes(1024))
    with pytest.raises(UserError, match=f"^{mirror}/things.tar.*$"):
        imported("things", tmp_path / "out")


def test_what_extended_headers_say(mirror, tmp_path):
    """A name in other letters, or in bytes that are no UTF-8, is read as another than tarfile reads."""
    names = ["train/cat/\u00e9" + "x" * 120, "train/cat/\u00e9\udcff" + "x" * 120, "train/" + "y/" * 90 + "z"]
    write_tar(mirror / "things.tar", dict.fromkeys(names, b""))
    from vitscale.data.tars import Tar

    assert [each.name for each in Tar(mirror / "things.tar").members()] == names
    with tarfile.open(mirror / "things.tar") as archive:
        assert archive.getnames() == names


def test_an_encrypted_zip(mirror, tmp_path):
    """It is said to be damaged, and to be copied again."""
    zip_of(mirror / "things.zip", NAME, dot(1), len(dot(1)), zipfile.ZIP_STORED)
    content = bytearray((mirror / "things.zip").read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.rindex(mark) + offset] |= 1
    (mirror / "things.zip").write_bytes(content)
    refused(tmp_path / "out", NAME, "encrypted; unpack the archive with its password")


def test_a_zip_of_a_kind_that_nobody_unpacks(mirror, tmp_path):
    """Zstandard, or WinZip's own, is said to be damaged."""
    zip_of(mirror / "things.zip", NAME, dot(1), len(dot(1)), 97)
    refused(tmp_path / "out", NAME, "can't be unpacked", "pack it as usual")


@pytest.mark.parametrize("target", ["..", "../..", "next"])
def test_links_that_double(mirror, tmp_path, target):
    """Two links at each of thirty levels make 2**30 paths."""
    where = write_form(mirror, "things", "", members_of(make_set())) / "train/cat"
    for i in range(30):
        (where / str(i)).mkdir()
        for name in "ab":
            os.symlink(f"../{i + 1}" if target == "next" else target, where / str(i) / name)
    (where / "30").mkdir()
    refused(tmp_path / "out", str(mirror / "things"), "links", "take them out")


def test_a_link_to_itself(mirror, tmp_path):
    """The system's refusal is a traceback."""
    where = write_form(mirror, "things", "", members_of(make_set()))
    os.symlink("self", where / "train/cat/self")
    with pytest.raises(OSError, match="symbolic links"):  # which `ending` says in a line
        imported("things", tmp_path / "out")


def test_one_folder_as_several(mirror, tmp_path):
    """A split, or classes, that are links to one folder are refused."""
    where = write_form(mirror, "things", "", members_of(make_set(classes=("cat",))))
    for name in "abc":
        for split in ("train", "test"):
            os.symlink("cat", where / split / name)
    os.symlink("test", where / "val")
    assert imported("things", tmp_path / "out")


def test_folders_as_deep_as_paths_may_be(mirror, tmp_path):
    """A thousand folders in each other end in a RecursionError."""
    where = write_form(mirror, "things", "", members_of(make_set()))
    deep = where / ("train/cat/" + "d/" * 1200)
    subprocess.run(["mkdir", "-p", deep], check=True)  # Python's own go down by calling themselves too
    try:
        (deep / "0.png").write_bytes(dot(1))
        files = imported("things", tmp_path / "out")[1]
    finally:
        subprocess.run(["rm", "-r", where], check=True)
    assert counts(files) == {"bird": 4, "cat": 6, "dog": 6}


def test_a_mirror_that_is_no_folder(tmp_path, monkeypatch):
    """A pipe for the mirror, or one under an archive's name, is read until somebody writes."""
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "things.zip")
    for mirror in (tmp_path, tmp_path / "pipe"):
        monkeypatch.setenv("VITSCALE_MIRROR", str(mirror))
        with pytest.raises(UserError, match="set VITSCALE_MIRROR to the folder that has things/"):
            imported("things", tmp_path / "out")


# ---- images ----
def test_a_jpeg_of_many_scans():
    """Each scan goes over all pixels: a megabyte of them takes minutes."""
    buffer = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    assert square(content, 2).shape == (2, 2, 3)
    last = content[content.rindex(b"\xff\xda") : -2]
    with pytest.raises(ValueError, match="scans, more than"):
        square(content[:-2] + 400 * last + content[-2:], 2)


def test_a_tile_larger_than_its_image():
    """A TIFF of a few pixels has room made for a tile of gigabytes."""
    tags = [(256, 3, 32), (257, 3, 32), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1),
            (322, 4, 40_000), (323, 4, 40_000), (324, 4, 8), (325, 4, 8)]  # fmt: skip
    entries = b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in tags)
    content = b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4)
    with pytest.raises(ValueError, match="1600000000 pixels, more than"):
        square(content, 2)
