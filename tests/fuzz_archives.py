"""A small data set in every form of archive, in memory, and names that no member should have."""

import io
import tempfile
import zipfile
from pathlib import Path

from archives import make_set, members_of, write_zip
from layouts import write_tar

MEMBERS = members_of(make_set(count=1, size=4), kind="BMP")


def contents() -> dict[str, bytes]:
    """Return a small data set in each form of archive."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for form, mode in ((".tar", ""), (".tar.gz", "gz")):
            write_tar(Path(name) / "a", MEMBERS, mode)
            found[form] = (Path(name) / "a").read_bytes()
        for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
            write_zip(Path(name) / "a", MEMBERS, compression)
            found[f"{compression}.zip"] = (Path(name) / "a").read_bytes()
    return found


FILES = contents()
ODD = ["../out.png", "/out.png", "a\\..\\b.png", "train/cat/\0.png", "train/\n/1.png", "train/cat/" + "x" * 300 + ".png", "train/cat/1.png/2.png", "", "train/cat/\u202e.png", "train//1.png"]  # fmt: skip


def zipped(members: dict[str, bytes]) -> bytes:
    """Return a zip of members whose names may be anything."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr((name or "?").encode(errors="replace").decode(), content)
    return buffer.getvalue()
