"""The `dvc` that started a stage: with it the stage ends, and without it no output is moved.

DVC's lock goes with `dvc`. A stage that outlived a `kill -9` would move its outputs over what the next `dvc`
has restored. A script that was started by hand has no such parent and goes on whatever ends.
"""

import os
import select
import signal
import sys
import threading
from pathlib import Path

from vitscale.base.errors import UserError


def _is_dvc(command: list[str]) -> bool:
    """Tell whether a process's arguments are DVC's: `python /venv/bin/dvc repro`, `python -m dvc …`."""
    program = [os.path.basename(each) for each in command[:2]]
    return (
        "dvc" in program
        or command[1:3] == ["-m", "dvc"]
        or any(each.endswith("/dvc/__main__.py") for each in command[1:2])
    )


def find_dvc(processes: Path = Path("/proc")) -> int | None:
    """Return the nearest ancestor that is DVC: a shell, or torchrun, may stand between."""
    number = os.getpid()
    try:
        while number > 1:
            status = (processes / f"{number}/stat").read_text(encoding="utf-8", errors="replace")
            number = int(status.rpartition(")")[2].split()[1])
            command = (processes / f"{number}/cmdline").read_text(encoding="utf-8", errors="replace")
            if _is_dvc(command.split("\0")[:-1]):
                return number
    except (OSError, ValueError):  # no Linux, or one that has just ended
        pass
    return None


def stage_of_dvc() -> str:
    """Return the label of the stage that DVC says it runs (`finetune@vit-scratch`), "" where it says none.

    It says so in DVC_STAGE, which all that a stage starts inherits: torchrun's processes, a job that it
    submits. Before the label stands the path of a dvc.yaml that is in another folder than `dvc` was typed in.
    """
    return os.environ.get("DVC_STAGE", "").rpartition(":")[2]


class Parent:
    """The `dvc` that runs the stage with this label, where there is one: a script by hand has none."""

    def __init__(self, label: str) -> None:
        self.handle: int | None = None
        number = find_dvc() if stage_of_dvc() == label and hasattr(os, "pidfd_open") else None
        if number is None:
            return
        try:
            self.handle = os.pidfd_open(number)
        except OSError:  # it has just ended, or the system has no such handles
            return
        threading.Thread(target=self._watch, args=[self.handle], daemon=True).start()

    def _watch(self, handle: int) -> None:
        select.select([handle], [], [])
        try:
            print(
                "error: dvc has ended, so this stage ends too; `dvc repro` goes on",
                file=sys.stderr,
                flush=True,
            )
        finally:  # its terminal may have gone as well
            os.kill(os.getpid(), signal.SIGTERM)

    def check(self) -> None:
        """Raise UserError where `dvc` has ended."""
        if self.handle is not None and select.select([self.handle], [], [], 0)[0]:
            raise UserError("dvc has ended, so nothing was moved into place; `dvc repro` goes on")
