"""A data set in a tar archive, which is read from its beginning to its end and never extracted."""

import gzip
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from vitscale.data.containers import ALWAYS, DAMAGE, GROWTH, Container, Content, Member
from vitscale.data.decode import HEAD, has_image_ending

# Headers that are read whole, and their bytes.
LONG_NAMES, LONGEST = (b"L", b"K", b"x", b"g", b"X"), 1 << 20
RECORD = re.compile(
    rb"(\d{1,7}) ([\w.:-]{1,256})=", re.ASCII
)  # of an extended header: its length and keyword
HOLES = "a file with holes; pack it without --sparse"


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
        if header.size < 0:
            raise tarfile.ReadError(f"a size of {header.size} bytes")  # its reader would go back, for ever
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(HOLES)
        return header

    def _proc_pax(self, archive: Any) -> Any:
        """Return the member that follows an extended header, with what that says of it.

        tarfile's own takes the square of its bytes (an hour for 1 MiB, CVE-2024-6232), keeps what is said of
        all members, and reads maps of holes without end.
        """
        body, at, found = archive.fileobj.read(self._block(self.size)), 0, {}  # type: ignore[attr-defined]
        while at < self.size:
            record = RECORD.match(body, at)
            end = at + int(record[1]) if record else 0
            if not record or not record.end() < end <= self.size:
                raise tarfile.InvalidHeaderError("an extended header's record")  # type: ignore[attr-defined]
            found[record[2].decode()] = body[record.end() : end - 1].decode("utf-8", "surrogateescape")
            at = end
        if any(name.startswith("GNU.sparse.") for name in found):
            raise tarfile.ReadError(HOLES)
        if found.get("size", "0").startswith("-"):
            raise tarfile.ReadError(f"a size of {found['size'][:20]} bytes")
        member = self.fromtarfile(archive)
        if self.type != tarfile.XGLTYPE:  # of all that follow nothing is said that counts
            member._apply_pax_info(found, archive.encoding, archive.errors)  # type: ignore[attr-defined]
            member.offset = self.offset
            if "size" in found:
                archive.offset = member.offset_data + member._block(member.size)  # type: ignore[attr-defined]
        return member


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
        seen, total, time = set(), 0, self.where.stat().st_mtime_ns
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
            total += info.size
            self.check(name, info.size, total)
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
