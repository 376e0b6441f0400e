"""A training's state after each epoch, outside the workspace, so that a killed stage goes on anywhere.

`VITSCALE_CHECKPOINTS` names the folder (default: ~/.cache/vitscale/checkpoints). A file's name holds the hash
of all that decides the result but the number of processes, so a state is only ever found by the very same
training.
"""

import hashlib
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from vitscale.base.files import locked, write_bytes
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
    folder = Path(os.environ.get("VITSCALE_CHECKPOINTS") or Path.home() / ".cache/vitscale/checkpoints")
    path = folder / f"{stage}-{key[:32]}.pt"
    with locked(path.with_suffix(".lock"), "set VITSCALE_CHECKPOINTS to a folder on another one"):
        yield Checkpoint(path)
    if RANK:
        return
    for old in folder.glob("*.pt*"):
        if time.time() - old.stat().st_mtime > KEEP_DAYS * 86_400:
            old.unlink(missing_ok=True)
