"""A training's state after each epoch, outside the workspace, so that a killed stage goes on anywhere.

It stands in `vitscale-states/` of the folder that `VITSCALE_CHECKPOINTS` names (default:
~/.cache/vitscale/checkpoints). A file's name holds the hash of all that decides the result but the number of
processes, so a state is only ever found by the very same training.
"""

import hashlib
import io
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from vitscale.base.errors import UserError
from vitscale.base.files import OF_TRAINING, discard, lock, locked, states, write_bytes
from vitscale.base.processes import RANK
from vitscale.runtime.distributed import of_first

KEEP_DAYS = 14


class Checkpoint:
    """A training's state in one file, with a digest of its own in front."""

    def __init__(self, path: Path):
        self.path = path

    def load(self) -> dict | None:
        """Return the saved state, or None where there is none or (with a warning) where it is damaged.

        Of several processes the first reads it for all.
        """
        return of_first(None if RANK else self._read())

    def _read(self) -> dict | None:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
        print(
            f"warning: the checkpoint {self.path} is damaged; training starts over",
            file=sys.stderr,
            flush=True,
        )
        return None

    def save(self, state: dict) -> None:
        """Write the state, whole or not at all; of several processes the first does it."""
        if RANK:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.path, hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())


@contextmanager
def checkpoint_for(stage: str, key: str) -> Iterator[Checkpoint]:
    """Hold the checkpoint of a training, locked against a second process that is at the very same one."""
    path = states() / f"{stage}-{key[:32]}.pt"
    with locked(path.with_suffix(".lock"), "set VITSCALE_CHECKPOINTS to a folder on another one"):
        if not RANK:
            for part in path.parent.glob(f"{path.name}.????????.part"):  # of one that was killed as it wrote
                discard(part)
        yield Checkpoint(path)
    if not RANK:
        with suppress(OSError):  # a training that is over doesn't fail for what lies beside it
            _clean_up(path.parent)


def _clean_up(folder: Path) -> None:
    """Delete the files of each training that none has gone on with for days."""
    found: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if name := OF_TRAINING.fullmatch(path.name):
            found.setdefault(name[1], []).append(path)
    for training, files in found.items():
        with suppress(OSError, UserError):  # gone, as another process cleans up too, or somebody else's
            if all(map(_is_old, files)):
                _delete(files, folder / f"{training}.lock")


def _delete(files: list[Path], lock_file: Path) -> None:
    held = lock(lock_file, "nothing")
    if held is None:
        return
    try:
        if all(map(_is_old, files)):  # still, now that no other process is at that training
            for file in [*(each for each in files if each != lock_file), lock_file]:
                discard(file)  # the lock last: without one the next process would begin
    finally:
        held.release()


def _is_old(path: Path) -> bool:
    """Tell whether this is a file, no link or folder, that was not written for KEEP_DAYS."""
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > KEEP_DAYS * 86_400
