"""What a data set comes in: a folder, or an archive that is read member by member and never extracted."""

import gzip
import lzma
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vitscale.base.errors import UserError, shown
from vitscale.data.decode import HEAD, MAX_BYTES, has_image_ending

ENDINGS = ("", ".zip", ".tar", ".tar.gz", ".tgz")  # in the order in which a mirror is asked
LONG_NAMES, LONGEST = (
    (b"L", b"K", b"x", b"g", b"X"),
    1 << 20,
)  # headers that tarfile reads whole, and their bytes
GROWTH, ALWAYS = 200, 1 << 30  # how many times its size an archive may unpack to, and how much any may
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

    def check(self, name: str, size: int) -> None:
        """Refuse an image file that says it is too large."""
        if size > MAX_BYTES and has_image_ending(name):
            raise self.fault(
                f": {name} says it has {size} bytes, more than the {MAX_BYTES} that an image file may have",
                "take it out",
            )

    def member_name(self, name: str) -> str:
        """Return a member's name without `./`. Refuses one that points elsewhere."""
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
        """Yield files and folders by name."""
        yield from self._below(self.where, "", ())

    def _below(self, folder: Path, name: str, above: tuple[Path, ...]) -> Iterator[Member]:
        real = folder.resolve()
        if real in above:
            raise self.fault(f": {name} is a link to a folder that it stands in", "take it out")
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            inside = name + entry.name
            if entry.is_dir():
                yield Member(f"{inside}/")
                yield from self._below(folder / entry.name, f"{inside}/", (*above, real))
                continue
            try:
                info = entry.stat()
            except FileNotFoundError:
                raise self.fault(f": {inside} is a link to nothing", "take it out") from None
            if not stat.S_ISREG(info.st_mode):
                raise self.fault(
                    f": {inside} is no file and no folder but a pipe, socket or device", "take it out"
                )
            self.check(inside, info.st_size)
            head = b""
            if not has_image_ending(inside):
                with open(entry.path, "rb") as file:
                    head = file.read(HEAD)
            yield Member(inside, info.st_size, f"{info.st_size} {info.st_mtime_ns}", head)

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

    def _content(self, info: zipfile.ZipInfo, name: str, count: int | None) -> bytes:
        try:
            with self.archive.open(info) as file:
                return file.read(count) if count else file.read()
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
            self.check(name, info.file_size)
            total += info.file_size
            if total > ALWAYS + GROWTH * self.where.stat().st_size:
                raise self.fault(
                    f" says that it unpacks to more than {GROWTH} times its size", "don't use it"
                )
            head = b"" if has_image_ending(name) else self._content(info, name, HEAD)
            yield Member(name, info.file_size, f"{info.file_size} {info.CRC}", head, info)

    def read(self, wanted: Iterable[Member]) -> Iterator[tuple[Member, Content]]:
        """Yield members with their contents."""
        for member in wanted:
            yield member, self._content(member.key, member.name, None)


class Limited:
    """What an archive unpacks to, as long as it isn't absurdly much."""

    def __init__(self, file: IO[bytes], container: Container) -> None:
        self.file, self.container, self.done = file, container, 0
        self.limit = ALWAYS + GROWTH * container.where.stat().st_size

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        content = self.file.read(size)
        self.done += len(content)
        if self.done > self.limit:
            raise self.container.fault(f" unpacks to more than {GROWTH} times its size", "don't use it")
        return content


class Header(tarfile.TarInfo):
    """A member's header. One that is damaged is an error: tarfile would take it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> "Header":
        """Return the header in a block."""
        try:
            header = super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"what follows is no header: {error}") from error
        if header.type in LONG_NAMES and header.size > LONGEST:
            raise tarfile.ReadError(f"a name of {header.size} bytes")
        return header


class Tar(Container):
    """A tar archive, compressed with gzip or not, read from its beginning to its end."""

    def _entries(self) -> Iterator[tuple[tarfile.TarInfo, Callable[[int], bytes]]]:
        """Yield members' headers, each with what returns its first bytes."""
        name, packed = "", self.where.name.endswith("gz")

        def first(count: int) -> bytes:
            assert info
            try:
                file = archive.extractfile(info)
                return file.read(count) if file else b""
            except (*DAMAGE, tarfile.TarError) as error:
                raise self.damaged(name, error) from error

        with open(self.where, "rb") as raw, gzip.open(raw) if packed else raw as file:
            content: Any = Limited(file, self) if packed else file  # type: ignore[arg-type]
            try:
                with tarfile.open(fileobj=content, mode="r|" if packed else "r:", tarinfo=Header) as archive:
                    while info := archive.next():
                        archive.members = []  # type: ignore[attr-defined]  # else all are kept, a kilobyte each
                        name = info.name
                        yield info, first
                    # gzip's own check stands at the end; and another archive may follow, as `cat` puts them.
                    while block := archive.fileobj.read(1 << 20):
                        if block.strip(b"\0"):
                            raise self.fault(
                                " goes on after its end, as several in one file do", "pack it again"
                            )
            except (*DAMAGE, tarfile.TarError) as error:
                raise self.damaged(f"what follows {name}" if name else "it", error) from error

    def members(self) -> Iterator[Member]:
        """Yield the members in the archive's order; no check of contents is in it, so its own time counts."""
        seen, time = set(), self.where.stat().st_mtime_ns
        for index, (info, first) in enumerate(self._entries()):
            name = self.member_name(info.name)
            if info.isdir():
                yield Member(f"{name}/")
                continue
            if not info.isreg():
                raise self.fault(f": {name} is a link, pipe or device", "pack the files themselves")
            if name in seen:
                raise self.fault(f" holds {name} twice", "pack it again")
            seen.add(name)
            self.check(name, info.size)
            head = b"" if has_image_ending(name) else first(HEAD)
            yield Member(name, info.size, f"{info.size} {info.mtime} {time}", head, index)

    def read(self, wanted: Iterable[Member]) -> Iterator[tuple[Member, Content]]:
        """Yield members with their contents."""
        left = {member.key: member for member in wanted}
        for index, (info, first) in enumerate(self._entries()):
            if member := left.pop(index, None):
                yield member, first(info.size)
            if not left:
                return


def find(folder: Path, name: str) -> Container | None:
    """Return a folder's data set of that name, in whatever it comes."""
    for ending in ENDINGS:
        path = folder / f"{name}{ending}"
        if path.is_dir() if ending == "" else path.is_file():
            return Folder(path) if ending == "" else Zip(path) if ending == ".zip" else Tar(path)
    return None


def nfc(name: str) -> str:
    """Return a name in the one form of its letters that counts (macOS has another: NFD)."""
    return unicodedata.normalize("NFC", name)
