"""What every stage script stands on: it may use what dvc.yaml lists for it, all of that, and nothing else.

`run(main, __file__)` calls `main(stage)` in the folder of the pipeline. Outputs are built aside and moved
into place when all of them are whole, so a stage that fails or is killed leaves nothing behind. Of several
processes that torchrun starts each builds them, and the first one's are kept.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from vitscale.base.digests import digest, md5
from vitscale.base.endings import in_words
from vitscale.base.errors import UserError
from vitscale.base.files import locked, write_bytes
from vitscale.base.processes import PROCESSES, RANK
from vitscale.pipeline.consistency import check
from vitscale.pipeline.graph import declared, find, pipeline_in
from vitscale.pipeline.inputs import Inputs, by_hand
from vitscale.pipeline.parent import Parent
from vitscale.pipeline.unchanged import Given

# Partial outputs, locks, notes of finished trainings: on the outputs' file system, ignored by git and DVC.
STATE = Path(".vitscale")
PUT_BACK = (
    "`git checkout params.yaml && dvc repro` for the committed parameters: either brings back what DVC has "
    "removed"
)
# End, stage, seconds, CPU seconds of each run; ignored too, since no two take equally long.
TIMINGS = Path("timings.csv")


class Stage:
    """One stage as dvc.yaml declares it.

    `key` is the entry of its `foreach` mapping, empty where it has none.
    """

    def __init__(self, name: str, key: str | None):
        self.name, self.key, self.label = name, key or "", f"{name}@{key}" if key else name
        pipeline, self.params = pipeline_in(Path())
        try:
            check(self.params)
        except UserError as error:  # DVC has removed the stage's outputs by now; the run cache has them
            raise UserError(f"{error}\nput that right, then `dvc repro`, or {PUT_BACK}") from None
        stages = declared(pipeline, self.params)
        if self.label not in stages:
            keys = [label.removeprefix(f"{name}@") for label in stages if label.startswith(f"{name}@")]
            raise UserError(f"{name} has no entry {key}; params.yaml has {', '.join(keys)}")
        self.declared = stages[self.label]
        self.given, self.parent = Given(self.declared, self.params), Parent()
        self.used: dict[str, set[str]] = {kind: set() for kind in self.declared}
        self.states: list[Path] = []
        self.shown_by = ""
        self.partial = STATE / "partial" / (f"{self.label}.{RANK}" if RANK else self.label)

    def _use(self, kind: str, wanted: str, separator: str) -> None:
        for entry in self.declared[kind]:
            if wanted == entry or wanted.startswith(entry + separator):
                self.used[kind].add(entry)
                return
        raise LookupError(f"{self.label} uses {wanted}, which dvc.yaml doesn't list among its {kind}")

    def param(self, dotted: str) -> Any:
        """Return a parameter that dvc.yaml lists for this stage, by its own name or that of its mapping."""
        self._use("params", dotted, ".")
        return find(self.params, dotted)

    def dep(self, path: str) -> Path:
        """Return the path of a listed dependency or of something inside it."""
        self._use("deps", path, "/")
        return Path(path)

    def out(self, path: str) -> Path:
        """Return where to build a listed output."""
        self._use("outs", path, "/")
        built = self.partial / path
        built.parent.mkdir(parents=True, exist_ok=True)
        return built

    def digest(self, *extra: object) -> str:
        """Return a hash of all that decides the outputs.

        Code, inputs, parameters, and what the caller adds.
        """
        content = {
            "stage": self.label,
            "extra": extra,
            "params": {name: find(self.params, name) for name in self.declared["params"]},
            "deps": self._digests,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {path: digest(Path(path)) for path in self.declared["deps"]}

    def trained(self, state: Path) -> None:
        """Say that a training is over whose state is saved there."""
        self.states.append(state)

    def keep_states_until(self, out: str) -> None:
        """Keep the states of the trainings that are over until dvc.lock records `out`, a file of theirs."""
        self.shown_by = md5(self.partial / out)

    def finish(self) -> None:
        """Move the outputs into place.

        Raises LookupError where dvc.yaml lists something that was never used, and UserError where the stage
        was given something else than what is there now, or its `dvc` has ended.
        """
        for kind, entries in self.declared.items():
            for entry in entries:
                if entry not in self.used[kind] and not entry.endswith(".py"):
                    raise LookupError(
                        f"dvc.yaml lists {entry} among the {kind} of {self.label}, which never used it"
                    )
        if RANK:
            return
        self.given.check(self.label)
        self.parent.check()
        for path in map(Path, self.declared["outs"]):
            path.parent.mkdir(parents=True, exist_ok=True)
        for path in map(Path, self.declared["outs"]):
            if path.is_dir():  # a process that outlived its `dvc repro` was here first
                shutil.rmtree(path)
            os.replace(self.partial / path, path)
        for state in self.states:
            write_bytes(STATE / "trained" / state.stem, f"{self.shown_by} {state}".encode())


def release_states(label: str) -> None:
    """Delete the states of finished trainings whose outputs dvc.lock records: DVC's cache has those by then.

    Not before: a training whose `dvc` is killed between its end and that record must not run again. Nor those
    of the stage that starts, by its label: DVC would not run it if it had them, whatever a lock says that
    came with a clone.
    """
    notes, lock = sorted((STATE / "trained").glob("*@*")), Path("dvc.lock")
    recorded = lock.read_text(encoding="utf-8") if notes and lock.exists() else ""
    for note in notes:
        known, state = note.read_text(encoding="utf-8").split(" ", 1)
        if known in recorded and note.name.rsplit("-", 1)[0] != label:
            Path(state).unlink(missing_ok=True)
            note.unlink(missing_ok=True)


def run(main: Callable[[Stage], None], script: str) -> None:
    """Run a stage script: `script` is its `__file__`, its one argument the entry's key."""
    started, cpu = time.monotonic(), time.process_time()
    with in_words():
        stage = Stage(Path(script).stem, sys.argv[1] if len(sys.argv) > 1 else None)
        with locked(STATE / "locks" / stage.label, "put the repository on another one"):
            for old in [
                stage.partial,
                *(stage.partial.parent.glob(f"{stage.label}.*") if PROCESSES == 1 else []),
            ]:
                shutil.rmtree(old, ignore_errors=True)
            if not RANK:
                release_states(stage.label)
            inputs = Inputs(STATE / "inputs.json") if by_hand() else None
            try:
                if inputs:
                    inputs.check(stage.label, [path for path in stage.declared["deps"] if path[-3:] != ".py"])
                main(stage)
                stage.finish()
                if inputs:
                    inputs.note(stage.declared["outs"])
            finally:
                shutil.rmtree(stage.partial, ignore_errors=True)
        if RANK:
            return
        with open(TIMINGS, "a", encoding="utf-8") as log:
            log.write(
                f"{time.strftime('%Y-%m-%dT%H:%M:%S')},{stage.label},{time.monotonic() - started:.1f},"
                f"{time.process_time() - cpu:.1f}\n"
            )
