"""Images of a data set to arrays: decoded on all cores, then in the one order that no source's own changes.

What is decoded stands in a folder of its own, image after image as they came, with a list of which they are.
An import that was stopped goes on from there, and one that is asked for again decodes what is new.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vitscale.base.cpus import cores, threads
from vitscale.base.digests import digest
from vitscale.base.errors import UserError, shown
from vitscale.base.files import naming
from vitscale.base.progress import progress, say
from vitscale.data import decode
from vitscale.data.arrays import SplitWriter, load_split
from vitscale.data.containers import Container, Content, Member, content_of

LITTLE = 32 << 20  # bytes of files for which starting processes takes longer than they save,
EACH = 8 << 10  # where opening a file counts as so many
CHUNK, CHUNK_BYTES = 64, 16 << 20  # images and bytes handed to a process at a time
HELD = 64 << 20  # bytes of images in memory while they are put in order
FAULTS = 1000  # of so many images that can't be decoded each has its line

Read = Callable[
    [int, int, int], bytes
]  # an image's place, the first of its bytes that are wanted, the end of them


class Chunk(NamedTuple):
    """Files to be decoded, each with what it is, and the file and place for their images."""

    path: Path
    first: int
    side: int
    resize: bool
    contents: list[tuple[str, Content]]


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, however that was."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _decode(chunk: Chunk) -> list[str]:
    """Write a chunk's images to their places in the file; return for each what is wrong, or nothing."""
    faults, images = [], np.zeros((len(chunk.contents), chunk.side, chunk.side, 3), np.uint8)
    for i, (_, content) in enumerate(chunk.contents):
        try:
            images[i] = decode.square(content_of(content), chunk.side, chunk.resize)
            faults.append("")
        except ValueError as error:
            faults.append(str(error))
    with naming(chunk.path), open(chunk.path, "r+b") as file:
        file.seek(chunk.first * images[0].nbytes)
        file.write(images.data)
    return faults


def _in_order(chunks: Iterable[Chunk], workers: int) -> Iterator[tuple[Chunk, list[str]]]:
    """Yield each chunk with its faults; a few are under way at a time."""
    if workers == 1:
        yield from ((chunk, _decode(chunk)) for chunk in chunks)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        waiting: deque = deque()
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_decode, chunk)))
            if len(waiting) > 2 * workers:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that decodes images was killed, perhaps for want of memory; run it again, it goes on "
            "where it was, or set VITSCALE_THREADS=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class Decoded:
    """The images decoded so far: `pixels`, image after image, and `names`, a line for each of what it is."""

    def __init__(self, folder: Path, side: int, resize: bool) -> None:
        self.side, self.resize, self.size = side, resize, 3 * side * side
        self.pixels, self.names = folder / "pixels", folder / "names"
        rules = json.dumps([side, resize, Image.__version__, digest(Path(decode.__file__))])
        text = self.names.read_text(encoding="utf-8") if self.names.exists() else ""
        lines = text.split("\n")[:-1]  # without a last one that was cut short
        if lines[:1] != [rules]:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self.pixels.touch()
            lines = [rules]
        del lines[1 + self.pixels.stat().st_size // self.size :]  # after a power cut
        with naming(self.names):
            self.names.write_text("\n".join([*lines, ""]), encoding="utf-8")
        self.count = len(lines) - 1
        self.places = {line: place for place, line in enumerate(lines[1:]) if line}

    @staticmethod
    def line(member: Member) -> str:
        """Return what says which file an image was, and in which state."""
        return json.dumps([member.name, member.stamp])

    def _chunks(self, container: Container, missing: list[Member]) -> Iterator[Chunk]:
        contents: list[tuple[str, Content]] = []
        first, held, most = self.count, 0, max(1, min(CHUNK, CHUNK_BYTES // self.size))
        for member, content in container.read(missing):
            contents.append((self.line(member), content))
            held += member.size
            if len(contents) == most or held > CHUNK_BYTES:
                yield Chunk(self.pixels, first, self.side, self.resize, contents)
                first, held, contents = first + len(contents), 0, []
        if contents:
            yield Chunk(self.pixels, first, self.side, self.resize, contents)

    def _note(self, chunks: Iterable[tuple[Chunk, list[str]]]) -> Iterator[tuple[str, str]]:
        """Yield each image's line and what is wrong with it, and note where it stands."""
        for chunk, faults in chunks:
            found = [(line, fault) for (line, _), fault in zip(chunk.contents, faults, strict=True)]
            with naming(self.names), open(self.names, "a", encoding="utf-8") as names:
                names.writelines("\n" if fault else f"{line}\n" for line, fault in found)
            for line, fault in found:
                if not fault:
                    self.places[line] = self.count
                self.count += 1
                yield line, fault

    def add(self, container: Container, members: list[Member], name: str) -> None:
        """Decode those of a container's files that aren't yet, in its order.

        Raises UserError with a line for each that can't be.
        """
        missing = [each for each in members if self.line(each) not in self.places]
        if 0 < len(missing) < len(members):
            say(f"{name}: {len(members) - len(missing)} of {len(members)} images are decoded already")
        little = sum(EACH + each.size for each in missing) < LITTLE
        chunks = _in_order(self._chunks(container, missing), threads() or (1 if little else cores()))
        faults = [
            f"{shown(f'{container.where}: {json.loads(line)[0]}')} can't be decoded as an image ({fault}); "
            "replace it or take it out"
            for line, fault in progress(self._note(chunks), len(missing), name, unit="images")
            if fault
        ]
        if faults:
            more = [f"… and {len(faults) - FAULTS} more"] if len(faults) > FAULTS else []
            raise UserError("\n".join(sorted(faults)[:FAULTS] + more))

    @contextmanager
    def reader(self) -> Iterator[Read]:
        """Give what returns some of an image's bytes."""
        with open(self.pixels, "rb") as file:
            yield lambda place, start, stop: os.pread(file.fileno(), stop - start, place * self.size + start)


def _sorted(places: list[int], read: Read, size: int, start: int = 0) -> Iterator[int]:
    """Yield images in the order of their bytes from `start` on, holding at most `HELD` of them."""
    if len(places) < 2 or start == size:
        yield from places
        return
    # A few bytes tell most apart; of those that are alike more are read at a time.
    stop = min(size, start + max(64, size // 500, min(HELD // len(places), 1024 + 64 * start)))
    keys = {place: read(place, start, stop) for place in places}
    alike = [list(group) for _, group in groupby(sorted(places, key=keys.__getitem__), keys.__getitem__)]
    del keys
    for group in alike:
        yield from _sorted(group, read, size, stop)


def write_split(folder: Path, classes: list[str], places: list[list[int]], read: Read, side: int) -> None:
    """Write a split class by class, each class in the order of its images' bytes.

    `places` are each class's images; `read` returns some bytes of one.
    """
    writer, size = SplitWriter(folder, sum(map(len, places)), side, classes), 3 * side * side
    for label, of_class in progress(enumerate(places), len(places), folder.name):
        for place in _sorted(of_class, read, size):
            image = np.frombuffer(read(place, 0, size), np.uint8).reshape(1, side, side, 3)
            writer.add(image, np.array([label]))
    writer.close()


def fingerprint(folder: Path) -> str:
    """Return the sha256 by which params.yaml knows a split on the disk.

    It is over the names of the classes (as JSON, UTF-8, a line) and, image after image, the class id (four
    bytes, big-endian) and the pixels (row-major, channel last), in the order (class id, pixels).
    """
    split = load_split(folder)
    total = hashlib.sha256((json.dumps(split.classes, ensure_ascii=False) + "\n").encode())
    with open(folder / "images.npy", "rb") as file:  # memory-mapped, all of it would count as this process's
        file.seek(-split.images.nbytes, os.SEEK_END)
        for label in split.labels.tolist():
            total.update(label.to_bytes(4, "big") + file.read(split.images[0].nbytes))
    return total.hexdigest()
