"""Tar archives: read member by member, never extracted; damaged and hostile ones refused in one line."""

import gzip
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from archives import documented, make_set, members_of
from layouts import dot, imported, write_form
from vitscale.base.errors import UserError
from vitscale.data.sources import SPLITS

pytestmark = pytest.mark.usefixtures("attempts")


def refused(mirror: Path, out: Path, *words: str, suffix: str = ".tar") -> None:
    """Assert that the import is one line that has these words and names the archive, and leaves nothing outside."""
    before, own = sorted(mirror.parent.rglob("*")), {out, out.with_name(f"{out.name}.kept")}
    with pytest.raises(UserError) as caught:
        imported("things", out)
    line = str(caught.value)
    assert "\n" not in line and f"{mirror}/things{suffix}" in line and all(word in line for word in words), (
        line
    )
    new = [path for path in mirror.parent.rglob("*") if path not in before]
    assert all(own & {path, *path.parents} for path in new)


def add(where: Path, name: str, kind: bytes, target: str = "", mode: str = "", content: bytes = b"") -> None:
    """Write the usual data set with one more member, in its middle."""
    members = list(members_of(make_set()).items())
    odd = tarfile.TarInfo(name)
    odd.type, odd.linkname, odd.size = kind, target, len(content)
    with tarfile.open(where, f"w:{mode}") as archive:
        for i, (member, each) in enumerate(members):
            if i == len(members) // 2:
                archive.addfile(odd, io.BytesIO(content))
            info = tarfile.TarInfo(member)
            info.size = len(each)
            archive.addfile(info, io.BytesIO(each))


# ---- hostile ----
ODD = {
    "symbolic link to a file": (tarfile.SYMTYPE, "0000.png"),
    "symbolic link outward": (tarfile.SYMTYPE, "../../../../../../etc/passwd"),
    "absolute symbolic link": (tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": (tarfile.LNKTYPE, "train/bird/0000.png"),
    "hard link outward": (tarfile.LNKTYPE, "../../../etc/passwd"),
    "FIFO": (tarfile.FIFOTYPE, ""),
    "character device": (tarfile.CHRTYPE, ""),
    "block device": (tarfile.BLKTYPE, ""),
}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_neither_file_nor_folder(mirror, tmp_path, kind, suffix):
    """A link is followed out of the archive, or such a member is skipped in silence."""
    add(mirror / f"things{suffix}", "train/cat/odd.png", *ODD[kind], mode=suffix[5:])
    refused(mirror, tmp_path / "out", "train/cat/odd.png", suffix=suffix)


@pytest.mark.parametrize(
    "name", ["/tmp/x.png", "../x.png", "train/cat/../../../../x.png", "./../x.png", "train/../../x.png"]
)
def test_names_that_point_elsewhere(mirror, tmp_path, name):
    """Such a member is written there, or read as if it lay inside."""
    assert not Path("/tmp/x.png").exists()
    add(mirror / "things.tar", name, tarfile.REGTYPE, content=dot(1))
    refused(mirror, tmp_path / "out", repr(name), "don't use this file")
    assert not Path("/tmp/x.png").exists()


@pytest.mark.parametrize("form", [".zip", ".tar", ".tar.gz"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice(mirror, tmp_path, form):
    """Two members of one name: the last is read twice, or one of them is lost."""
    where = write_form(mirror, "things", form, members_of(make_set()))
    if form == ".zip":
        import zipfile

        with zipfile.ZipFile(where, "a") as archive:
            archive.writestr("train/cat/0001.png", dot(1))
    else:
        add(where, "train/cat/0001.png", tarfile.REGTYPE, content=dot(1), mode=form[5:])
    refused(mirror, tmp_path / "out", "train/cat/0001.png", suffix=form)


# ---- damaged ----
@pytest.mark.parametrize(
    ("suffix", "keep"),
    [(".tar", 0.0), (".tar", 0.5), (".tar.gz", 0.0), (".tar.gz", 0.5), (".tar.gz", 0.999), (".tgz", 0.9)],
)
def test_truncated(mirror, tmp_path, suffix, keep):
    """The images before the cut pass for the data set."""
    where = write_form(mirror, "things", suffix, members_of(make_set()))
    content = where.read_bytes()
    where.write_bytes(content[: int(keep * len(content))])
    refused(mirror, tmp_path / "out", "copy", suffix=suffix)


def test_cut_between_two_members(mirror, tmp_path):
    """Where the cut falls between members, nothing in what is left is damaged, and half of a data set passes for all."""
    where = write_form(mirror, "things", ".tar", members_of(make_set()))
    with tarfile.open(where) as archive:
        middle = archive.getmembers()[-3].offset
    where.write_bytes(where.read_bytes()[:middle])
    refused(mirror, tmp_path / "out", "copy")


@pytest.mark.parametrize(
    "at", [0, 100, 130, 148, 156, 257], ids=["name", "mode", "size", "sum", "type", "magic"]
)
def test_a_damaged_header(mirror, tmp_path, at):
    """Python's tarfile takes a damaged header in the middle for the end, and drops what follows."""
    where = write_form(mirror, "things", ".tar", members_of(make_set()))
    with tarfile.open(where) as archive:
        start = archive.getmembers()[7].offset
    content = bytearray(where.read_bytes())
    content[start + at] ^= 0x15
    where.write_bytes(content)
    refused(mirror, tmp_path / "out", "copy")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_an_altered_byte_of_a_compressed_tar(mirror, tmp_path, part):
    """It passes for another image, or ends in a traceback."""
    where = write_form(mirror, "things", ".tar.gz", members_of(make_set()))
    content = bytearray(where.read_bytes())
    content[int(part * len(content))] ^= 0xFF
    where.write_bytes(content)
    refused(mirror, tmp_path / "out", suffix=".tar.gz")


def test_altered_pixels_in_a_compressed_tar(mirror, tmp_path):
    """gzip's own checksum stands at the end and isn't read; or what was decoded before it is kept as if it were good."""
    data = make_set()
    where = mirror / "things.tar.gz"
    tar = write_form(mirror, "plain", ".tar", members_of(data, lambda i: f"{i}.bmp", "BMP")).read_bytes()
    good = gzip.compress(tar, compresslevel=0)
    at = good.index(data["train"]["cat"][2][::-1, :, ::-1].tobytes()[:60]) + 30
    where.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
    refused(mirror, tmp_path / "out", "copy", suffix=".tar.gz")
    where.write_bytes(good)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert imported("things", tmp_path / "out")[0] == {split: documented(data[split]) for split in SPLITS}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".zip"])
@pytest.mark.parametrize(
    "content", [b"", b"<html>404 Not Found</html>\n" * 99, bytes(10240)], ids=["empty", "a page", "zeros"]
)
def test_what_is_no_archive(mirror, tmp_path, suffix, content):
    """A page that says 404, saved under the archive's name, ends in a traceback or is an empty data set."""
    (mirror / f"things{suffix}").write_bytes(content)
    refused(mirror, tmp_path / "out", suffix=suffix)


def test_bytes_that_are_no_text_in_a_name(mirror, tmp_path):
    """A name in Latin-1 ends in a traceback when it is printed or written."""
    members = members_of(make_set(classes=("bird", os.fsdecode(b"caf\xe9"))))
    with tarfile.open(mirror / "things.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError) as caught:
        imported("things", tmp_path / "out")
    line = str(caught.value)
    assert "\n" not in line and line.encode() and "no UTF-8" in line


# ---- usual all the same ----
@pytest.mark.parametrize("kind", ["GNU", "PAX", "USTAR"])
def test_formats_of_tar(mirror, tmp_path, kind):
    """A long name is cut in one of the formats that `tar` programs write."""
    data = make_set(classes=("bird", "l" + 60 * "o" + "ng"))
    members = members_of(
        data, lambda i: f"{'deep/' * 4}{i}.png" if kind == "USTAR" else f"{'y' * 150}/{i}.png"
    )
    with tarfile.open(mirror / "things.tar", "w", format=getattr(tarfile, f"{kind}_FORMAT")) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert imported("things", tmp_path / "out")[0] == {split: documented(data[split]) for split in SPLITS}


def test_gzip_in_several_parts(mirror, tmp_path):
    """Of what `pigz` or `cat` puts together only the first part is read."""
    data = make_set()
    where = write_form(mirror, "plain", ".tar", members_of(data))
    content = where.read_bytes()
    parts = [gzip.compress(content[i : i + 5000]) for i in range(0, len(content), 5000)]
    (mirror / "things.tar.gz").write_bytes(b"".join(parts))
    assert imported("things", tmp_path / "out")[0] == {split: documented(data[split]) for split in SPLITS}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_nothing_is_extracted(mirror, tmp_path, monkeypatch, suffix):
    """Members are unpacked somewhere: a million small files, and their names are paths."""
    write_form(mirror, "things", suffix, members_of(make_set()))

    def never(*_, **__):
        raise AssertionError("extracted")

    for name in ("extract", "extractall", "_extract_member", "makefile"):
        monkeypatch.setattr(tarfile.TarFile, name, never)
    imported("things", tmp_path / "out")
    endings = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert ".png" not in endings
