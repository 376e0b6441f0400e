"""Files written whole or not at all, the place of trainings' states, locks that end with their process."""

import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from vitscale.base.errors import UserError
from vitscale.base.processes import RANK

# Files of a training in the folder of states: its state, part of one that is being written, its lock.
OF_TRAINING = re.compile(r"([a-z]+@[A-Za-z0-9_-]+-[0-9a-f]{32})\.(pt|pt\.[0-9a-f]{8}\.part|lock)")
AGAIN = "`dvc checkout` brings outputs back"  # the way out where an output is damaged
MOST_OF_JSON = 16 << 20  # bytes: 100,000 epochs take 15 MB
MOST_LISTS = 200_000  # and objects in it: Python looks through all of them again and again while they grow
Kind = TypeVar("Kind", dict, list)


def hold_size(name: object, size: int, most: int) -> None:
    """Raise UserError where a file has more bytes than are read of its kind."""
    if size > most:
        raise UserError(f"{name} has {size} bytes, more than the {most} that are read of it")


def hold_file(path: Path, name: object = None) -> None:
    """Raise UserError for a pipe or device, which may have no end; opening it may wait for ever."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{name or path} is no file but a pipe, socket or device; put a file in its place")


def read_small(path: Path, most: int, name: object = None) -> bytes:
    """Return the content of a file that should be small; errors have its path, or `name`.

    Raises UserError where it has more than `most` bytes, or is a pipe or device.
    """
    name = name or path
    hold_file(path, name)
    with open(path, "rb") as file:
        hold_size(name, os.fstat(file.fileno()).st_size, most)
        content = file.read(most + 1)
    hold_size(name, len(content), most)
    return content


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of the system name this file: of a full disk it names none, or a partial one."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and through to the disk; folders above it are made.

    Of several processes that write it at the same time each does it whole, and the last one's stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with naming(path):
            with open(part, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def parse_json(content: bytes, name: object, kind: type[Kind], way_out: str) -> Kind:
    """Return the mapping or list (`kind`) that a JSON file's text holds.

    Raises UserError, with the file's name and the way out, where it holds none, or too many.
    """
    if content.count(b"[") + content.count(b"{") > MOST_LISTS:
        raise UserError(f"{name} has more than {MOST_LISTS} lists and objects; {way_out}")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is damaged ({error}); {way_out}") from None
    if not isinstance(value, kind):
        raise UserError(f"{name} is damaged (it holds no {kind.__name__}); {way_out}")
    return value


def read_json(path: Path, kind: type[Kind], way_out: str, name: object = None) -> Kind:
    """Return the mapping or list in a JSON file; errors have its path, or `name`.

    Raises UserError, for an absent or a large one too.
    """
    name = name or path
    try:
        return parse_json(read_small(path, MOST_OF_JSON, name), name, kind, way_out)
    except OSError as error:
        raise UserError(f"{name} can't be read ({error.strerror}); {way_out}") from None


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_metrics(path: Path, content: dict) -> None:
    """Write a metrics file: a figure a line, and a line for each entry of a mapping or a list of mappings.

    DVC shows a metrics file's numbers and leaves its lists out, so that a row's predictions and a training's
    epochs can stand beside them in git.
    """

    def lay_out(value: object) -> str:
        if isinstance(value, dict):
            inner = [
                f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(each)}"
                for name, each in value.items()
            ]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            inner = [f"    {json.dumps(each)}" for each in value]
        else:
            return json.dumps(value)
        first, last = "{}" if isinstance(value, dict) else "[]"
        return "\n".join([first, ",\n".join(inner), f"  {last}"])

    lines = ",\n".join(f'  "{name}": {lay_out(value)}' for name, value in content.items())
    write_bytes(path, f"{{\n{lines}\n}}\n".encode())


def link(source: str, target: str) -> None:
    """Give a file another name, or where the file system can't a copy; neither may be written to then."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def states() -> Path:
    """Return the folder of trainings' states: one of our own in that which VITSCALE_CHECKPOINTS names."""
    folder = os.environ.get("VITSCALE_CHECKPOINTS") or Path.home() / ".cache/vitscale/checkpoints"
    return Path(folder) / "vitscale-states"


def discard(path: Path) -> None:
    """Delete a file where that can be done; nothing but a file, so no folder and no link."""
    with suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            path.unlink()


def take_away(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def lock(path: Path, way_out: str) -> FileLock | None:
    """Return a file's exclusive lock, taken for as long as it is referred to; None where another has it.

    The system takes it back when the process ends, however it ends; the file stays. Who deletes it must hold
    it, and a process that had opened it then takes the new one of that name. Raises UserError where its file
    system has no locks; `way_out` says in it what has the file lie on another one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # To preserve the file rules out filelock's substitute too, a file that a killed process leaves behind.
    held = FileLock(path, preserve_lock_file=True)
    try:
        held.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            error.filename = str(path)
            raise
        raise UserError(
            f"{path} can't be locked, as its file system has no locks ({error.strerror}); {way_out}"
        ) from error
    return held


@contextmanager
def locked(path: Path, way_out: str) -> Iterator[None]:
    """Hold a file's exclusive lock; a second process says so and waits. Raises UserError as `lock` does.

    Of the processes of one stage the first holds it for all.
    """
    if RANK:
        yield
        return
    held = lock(path, way_out)
    if held is None:
        message = f"another process is at the same work ({path}); waiting for it to end"
        print(message, file=sys.stderr, flush=True)
    while held is None:
        time.sleep(0.2)
        held = lock(path, way_out)
    try:
        yield
    finally:
        held.release()
