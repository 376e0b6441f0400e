"""Files from the network: whole and checked, or not at all; what has arrived is kept and gone on from.

pooch 1.9 neither resumes nor tries a second address; huggingface_hub's `http_get` is no public function and
believes what a server says. So HTTP, proxies and certificates are requests' work, and here is what it lacks.

`VITSCALE_DOWNLOADS` names the folder (default: ~/.cache/vitscale/downloads). A whole file stays there under
its name; part of one is `<name>.part`, and `<name>.part.json` says from where it is. `VITSCALE_MIRROR` is
looked in first.
"""

import os
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

import requests
import urllib3

from vitscale.base.answers import CONNECT, PASSING, SILENCE, Failed, Slow, asked_pause, chunks_of, reason_of
from vitscale.base.digests import digest
from vitscale.base.digests import md5 as md5_of_file
from vitscale.base.errors import UserError
from vitscale.base.files import locked, read_json, write_json
from vitscale.base.progress import progress, say

TRIES = 5  # at a source, without anything new
PAUSES = 300  # seconds at a source for a megabyte, all pauses together
LARGEST = 5 * 10**9  # bytes, of a file whose size nobody knows
MEGABYTE = 1_000_000
pause = time.sleep  # tests don't wait


def downloads() -> Path:
    """Return the folder of downloads."""
    return Path(os.environ.get("VITSCALE_DOWNLOADS") or Path.home() / ".cache/vitscale/downloads")


def fetch(
    name: str, urls: Sequence[str], *, size: int | None, md5: str | None = None, sha256: str | None = None
) -> Path:
    """Return where the file of this name lies, whole and checked: in the mirror or the folder of downloads.

    `urls` are tried in turn. `size` is in bytes, None where it isn't known; `md5`, or `sha256` or the first
    digits of it, says which file it is. Raises UserError where no source has it, with a line for each, and
    where the mirror has another file of this name.
    """
    if not md5 and not sha256:
        raise ValueError("give md5 or sha256: any server can send any file")
    wanted = _Wanted(name, size, md5, sha256)
    mirrored = Path(os.environ.get("VITSCALE_MIRROR") or "/nowhere") / name
    if mirrored.is_file():
        if fault := wanted.fault(mirrored):
            raise UserError(f"{mirrored} {fault}; copy it again, or take it out to have it fetched")
        return mirrored
    path = downloads() / name
    with locked(path.with_name(f"{name}.lock"), "set VITSCALE_DOWNLOADS to a folder on another one"):
        if not path.exists():
            download = _Download(wanted, path)
            if download.part.exists() and not download.origin.exists():  # a browser's, say
                raise UserError(f"{download.part} is no part of a download of ours; take it out of there")
            download.run(urls)
        elif fault := wanted.fault(path):
            raise UserError(f"{path} {fault}; delete it to have it fetched again")
    return path


class _Wanted:
    """What is known of a file."""

    def __init__(self, name: str, size: int | None, md5: str | None, sha256: str | None):
        self.name, self.size, self.md5, self.sha256 = name, size, md5, sha256

    def fault(self, path: Path) -> str | None:
        """Return in which way a file is another one, None where it isn't."""
        if self.size is not None and path.stat().st_size != self.size:
            return f"has {path.stat().st_size} bytes, not {self.size}"
        if self.md5 and (found := md5_of_file(path)) != self.md5:
            return f"has the md5 {found}, not {self.md5}"
        if self.sha256 and not (found := digest(path)).startswith(self.sha256):
            return f"has the sha256 {found}, not {self.sha256}"
        return None


class _Download:
    """One file's way from its sources to its place."""

    def __init__(self, wanted: _Wanted, path: Path):
        self.wanted, self.path = wanted, path
        self.part = path.with_name(f"{path.name}.part")
        self.origin = path.with_name(f"{path.name}.part.json")
        self.arrived = False  # anything, in this run
        self.rangeless: set[str] = set()  # sources that send another part than they are asked for

    def run(self, urls: Sequence[str]) -> None:
        """Try the sources in turn; one that is slow gets its second turn after all others."""
        failures: dict[str, Failed] = {}
        turns = deque(urls)
        while turns:
            url = turns.popleft()
            untried = any(other not in failures for other in turns)
            try:
                self._from(url, patient=not untried)
                os.replace(self.part, self.path)
                self.origin.unlink(missing_ok=True)
                return
            except Failed as failure:
                failures[url] = failure
                if isinstance(failure, Slow):
                    turns.append(url)
                if turns:
                    say(f"{url}: {failure}; trying the next source")
        kept = f": the {_mb(self._have())} that arrived are kept in {self.part}" if self._have() else " later"
        raise UserError(
            "\n".join(
                [f"{self.wanted.name} can't be fetched:"]
                + [f"  {url}: {failures[url]}" for url in dict.fromkeys(urls)]
                + [f"try again{kept}; or set VITSCALE_MIRROR to a folder that has {self.wanted.name}"]
            )
        )

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _from(self, url: str, patient: bool) -> None:
        """Return when the part is the whole file; raise Failed when this source's turn is over."""
        say(f"fetching {url}")
        tries, left = 0, float(PAUSES)
        most = paid = self._have()
        while True:
            try:
                return self._once(url, patient)
            except Failed as failure:
                tries += 1
                if self._have() > most:
                    tries, most = 1, self._have()
                if most >= paid + MEGABYTE:
                    left, paid = PAUSES, most
                if failure.after > left:
                    raise Failed(f"{failure}, and asks to wait {failure.after:.0f} s") from failure
                wait = max(failure.after, 2 ** (tries - 1))
                if not failure.again or tries == TRIES or wait > left:
                    raise
                left -= wait
                say(f"{url}: {failure}; {_mb(self._have())} are here; trying again in {wait:.0f} s")
            pause(wait)

    def _once(self, url: str, patient: bool) -> None:
        """Send one request for what is missing, and check the whole."""
        origin = _read(self.origin)
        total = self.wanted.size or origin.get("total")
        have = self._have() if origin else 0
        if not total or have < total:
            try:
                self._receive(url, origin, have, patient)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise reason_of(error, again=self.arrived) from error
        if fault := self.wanted.fault(self.part):
            self._begin_anew(have, f"its file {fault}")

    def _begin_anew(self, have: int, fault: str) -> NoReturn:
        """Take away what is no part of the file; where some was there before, the fault may lie in that."""
        self.part.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)
        raise Failed("its end doesn't fit what was here" if have else fault, again=have > 0)

    def _receive(self, url: str, origin: dict, have: int, patient: bool) -> None:
        """Write what an answer brings into the part."""
        headers = {"Accept-Encoding": "identity"}  # the bytes of the file, not of another packing of it
        if have and url not in self.rangeless:
            headers["Range"] = f"bytes={have}-"
            if origin.get("url") == url and origin.get("version"):
                headers["If-Range"] = origin["version"]
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT, SILENCE)) as answer:
            start, total = self._accepted(url, answer, have)
            tag = answer.headers.get("ETag", "")
            version = tag if tag.startswith('"') else answer.headers.get("Last-Modified")  # no weak tag
            chunks = progress(chunks_of(answer, patient), total, self.wanted.name, length=len, done=start)
            try:
                write_json(self.origin, {"url": url, "version": version, "total": total})
                with open(self.part, "r+b" if self.part.exists() else "w+b") as file:
                    self._write(file, chunks, start, total)
            except OSError as error:  # what the network raises is wrapped by urllib3
                raise UserError(
                    f"{self.part} can't be written ({error.strerror}); make room, or name another folder "
                    "with VITSCALE_DOWNLOADS, and try again: what arrived is kept"
                ) from error

    def _accepted(self, url: str, answer: requests.Response, have: int) -> tuple[int, int | None]:
        """Return where an answer's content begins in the file, and how long that is; raise Failed."""
        status, size = answer.status_code, self.wanted.size
        if status in PASSING:
            raise Failed(f"answers {status} {answer.reason}", True, asked_pause(answer))
        if status == 416:
            self._begin_anew(have, f"answers {status} {answer.reason}")
        if status == 206 and have:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if not found or int(found[1]) != have:
                self.rangeless.add(url)
                raise Failed("sends another part than was asked for", again=True)
            start, length = have, found[2]
        elif status == 200 and not answer.headers.get("Content-Type", "").startswith("text/html"):
            start, length = 0, answer.headers.get("Content-Length", "")
        else:
            what = "with a web page" if status == 200 else f"{status} {answer.reason}"
            raise Failed(f"answers {what}")
        total = int(length) if length.isdecimal() else size
        if size is not None and total != size:
            raise Failed(f"offers {total} bytes, not {size}")
        if total is not None and total > LARGEST:
            raise Failed(f"offers {total} bytes, which is more than any file that we know")
        return start, total

    def _write(self, file: BinaryIO, chunks: Iterator[bytes], start: int, total: int | None) -> None:
        """Write content from `start` on, each piece through to the system before the next is waited for.

        What is there already is compared, not trusted: a server may send all where a part was asked for,
        and a file that has changed there is never joined to half of the older one.
        """
        at = start
        file.seek(at)
        for chunk in chunks:
            self.arrived = True
            piece = chunk[: (total or LARGEST) - at]
            if file.read(len(piece)) != piece:
                file.seek(at)
                file.truncate()
                file.write(piece)
                file.flush()
            at += len(piece)
            if at == total:
                break
            if at == LARGEST:
                file.truncate(0)
                raise Failed(f"sends more than {LARGEST} bytes")
        if total is not None and at < total:
            raise Failed("the connection broke off", again=True)
        file.truncate(at)


def _read(origin: Path) -> dict:
    """Return what is known of where a part is from; nothing where that can't be read."""
    try:
        return read_json(origin, dict, "")
    except UserError:
        return {}


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
