"""Fingerprints of files and folders: our own, and those that DVC records."""

import hashlib
import json
from pathlib import Path

from vitscale.base.errors import UserError


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Return a folder's files with their names below it, in the order of those."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [(file.relative_to(folder).as_posix(), file) for file in files]


def digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's relative names and contents.

    Raises UserError if absent.
    """
    if path.is_dir():
        total = hashlib.sha256()
        for name, file in _files(path):
            total.update(f"{name}\0{digest(file)}\n".encode())
        return total.hexdigest()
    try:
        with open(path, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(
            f"{path} is not there; `dvc repro` makes it, `dvc pull` or `dvc checkout` bring it back"
        ) from None


def md5_of(content: bytes) -> str:
    """Return the MD5 by which DVC knows a file of this content."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def md5(path: Path) -> str:
    """Return a file's or folder's MD5 as dvc.lock records it; a folder's is that of a list of its files."""
    if path.is_dir():
        listing = [{"md5": md5(file), "relpath": name} for name, file in sorted(_files(path))]
        return md5_of(json.dumps(listing).encode()) + ".dir"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
