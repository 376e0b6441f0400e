"""What a data set comes in: a folder, or an archive that is read member by member and never extracted.

Tar archives are in `tars`.
"""

import lzma
import os
import stat
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vitscale.base.errors import UserError, shown
from vitscale.data.decode import HEAD, MAX_BYTES, has_image_ending

GROWTH, ALWAYS = 200, 1 << 30  # how many times its size an archive may unpack to, and how much any may
LONGEST_NAME = 4096  # characters: the longest path that Linux takes
PART = 4096  # bytes to unpack at a time: of bzip2 so many may become 90 MB
LINKED = (
    16  # times a folder may be come to, by links: a few for `val` and `test`, not two at each of 30 levels
)
DAMAGE = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


Content = bytes | Path


def content_of(content: Content) -> bytes:
    """Return a file's content, wherever that is."""
    return content.read_bytes() if isinstance(content, Path) else content


@dataclass(frozen=True, slots=True)
class Member:
    """A file, or a folder if its name ends in "/": its name below the top, its bytes, what changes with it.

    `head` has the first bytes of a file whose name doesn't say that it is an image.
    """

    name: str
    size: int = 0
    stamp: str = ""
    head: bytes = b""
    key: Any = None  # by which its container finds it

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.name.endswith("/")

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders above it, and its own name."""
        return tuple(self.name.rstrip("/").split("/"))


class Container:
    """A data set's files, in an order that stays the same. Faults are UserErrors of one line."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def members(self) -> Iterator[Member]:
        """Yield files and folders."""
        raise NotImplementedError

    def read(self, wanted: Iterable[Member]) -> Iterator[tuple[Member, Content]]:
        """Yield files, which must be in the container's order, with their contents."""
        raise NotImplementedError

    def fault(self, what: str, way_out: str) -> UserError:
        """Return the error that says what is wrong with it."""
        return UserError(shown(f"{self.where}{what}; {way_out}"))

    def check(self, name: str, size: int, total: int = 0) -> None:
        """Refuse an image file that says it is too large, and an archive that is so by its `total`."""
        if size > MAX_BYTES and has_image_ending(name):
            raise self.fault(
                f": {name} says it has {size} bytes, more than the {MAX_BYTES} that an image file may have",
                "take it out",
            )
        if total > ALWAYS and total > ALWAYS + GROWTH * self.where.stat().st_size:
            raise self.fault(
                f": with {name}, of {size} bytes, it unpacks to more than {GROWTH} times its size",
                "don't use it",
            )

    def member_name(self, name: str) -> str:
        """Return a member's name without `./`. Refuses one that points elsewhere, or is no name of a file."""
        if len(name) > LONGEST_NAME:
            raise self.fault(
                f": a member's name has {len(name)} characters, more than the {LONGEST_NAME} of a path",
                "pack it again with shorter names",
            )
        if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name:
            raise self.fault(f": the member {name!r} points out of the archive", "don't use this file")
        return PurePosixPath(name).as_posix()

    def damaged(self, name: str, error: Exception) -> UserError:
        """Return the error for a member that can't be read."""
        reason = " ".join(str(error).split()) or type(error).__name__
        return self.fault(f": {name} is damaged ({reason})", "copy the archive again")


class Folder(Container):
    """A folder. Links to files and folders are followed."""

    def members(self) -> Iterator[Member]:
        """Yield files and folders by name, however deep they lie."""
        seen: Counter = Counter()
        open_ones = [self._inside("", seen)]
        while open_ones:
            name, entry = next(open_ones[-1], ("", None))
            if not entry:
                open_ones.pop()
            elif entry.is_dir():
                yield Member(f"{name}/")
                open_ones.append(self._inside(f"{name}/", seen))
            else:
                yield self._file(name, entry)

    def _inside(self, name: str, seen: Counter) -> Iterator[tuple[str, os.DirEntry]]:
        """Return what is in a folder, with its names. Refuses a folder that links lead to again and again."""
        info = os.stat(self.where / name)
        seen[info.st_dev, info.st_ino] += 1
        if seen[info.st_dev, info.st_ino] > LINKED:
            raise self.fault(
                f": {name} is a folder that links lead to more than {LINKED} times", "take them out"
            )
        entries = sorted(os.scandir(self.where / name), key=lambda each: each.name)
        return iter([(f"{name}{each.name}", each) for each in entries])

    def _file(self, name: str, entry: os.DirEntry) -> Member:
        try:
            info = entry.stat()
        except FileNotFoundError:
            raise self.fault(f": {name} is a link to nothing", "take it out") from None
        if not stat.S_ISREG(info.st_mode):  # else open() could wait for ever
            raise self.fault(f": {name} is no file and no folder but a pipe, socket or device", "take it out")
        self.check(name, info.st_size)
        head = b""
        if not has_image_ending(name):
            with open(entry.path, "rb") as file:
                head = file.read(HEAD)
        return Member(name, info.st_size, f"{info.st_size} {info.st_mtime_ns}", head)

    def read(self, wanted: Iterable[Member]) -> Iterator[tuple[Member, Content]]:
        """Yield files with their paths: so they are read where they are decoded."""
        for member in wanted:
            yield member, self.where / member.name


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name, which without the flag for UTF-8 is UTF-8 too more often than code page 437."""
    if info.flag_bits & 0x800:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


class Zip(Container):
    """A zip archive."""

    def __init__(self, where: Path) -> None:
        super().__init__(where)
        try:
            self.archive = zipfile.ZipFile(where)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise self.fault(f" is no whole zip archive ({error})", "copy it again") from error

    def _content(self, info: zipfile.ZipInfo, name: str, count: int) -> bytes:
        """Return a member's first bytes, in parts: zipfile unpacks all that it has read, into memory."""
        parts, left = [], count
        try:
            with self.archive.open(info) as file:
                while left > 0 and (part := file.read(min(PART, left))):
                    parts.append(part)
                    left -= len(part)
            return b"".join(parts)
        except NotImplementedError as error:
            raise self.fault(
                f": {name} can't be unpacked ({error})", "unpack it, or pack it as usual"
            ) from error
        except DAMAGE as error:
            raise self.damaged(name, error) from error

    def members(self) -> Iterator[Member]:
        """Yield the members in the archive's order."""
        seen, total = set(), 0
        for info in self.archive.infolist():
            name = self.member_name(_zip_name(info))
            if info.is_dir():
                yield Member(f"{name}/")
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                raise self.fault(f": {name} is a link", "pack the file itself")
            if name in seen:
                raise self.fault(f" holds {name} twice", "pack it again")
            seen.add(name)
            if info.flag_bits & 1:
                raise self.fault(f": {name} is encrypted", "unpack the archive with its password")
            total += info.file_size
            self.check(name, info.file_size, total)
            head = b"" if has_image_ending(name) else self._content(info, name, HEAD)
            yield Member(name, info.file_size, f"{info.file_size} {info.CRC}", head, info)

    def read(self, wanted: Iterable[Member]) -> Iterator[tuple[Member, Content]]:
        """Yield members with their contents."""
        for member in wanted:
            yield member, self._content(member.key, member.name, member.size)


def nfc(name: str) -> str:
    """Return a name in the one form of its letters that counts (macOS has another: NFD)."""
    return unicodedata.normalize("NFC", name)
