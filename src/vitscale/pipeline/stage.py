"""What every stage script stands on: it may use what dvc.yaml lists for it, all of that, and nothing else.

`run(main, __file__)` calls `main(stage)` in the folder of the pipeline. Outputs are built aside and moved
into place when all of them are whole, so a stage that fails or is killed leaves nothing behind. Of several
processes that torchrun starts each builds them, and the first one's are kept.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from vitscale.base.digests import digest, md5
from vitscale.base.endings import in_words, memory
from vitscale.base.errors import UserError, shown
from vitscale.base.files import OF_TRAINING, discard, locked, states, take_away, write_bytes
from vitscale.base.processes import PROCESSES, RANK
from vitscale.pipeline.consistency import check
from vitscale.pipeline.graph import declared, find, pipeline_in
from vitscale.pipeline.inputs import Inputs
from vitscale.pipeline.parent import Parent, stage_of_dvc
from vitscale.pipeline.unchanged import Given

# Partial outputs, locks, notes of finished trainings: on the outputs' file system, ignored by git and DVC.
STATE = Path(".vitscale")
# What the stage `check` leaves and every other waits for. It says nothing, so a script by hand does without.
CHECKED = "data/checked.txt"
FOR_DVC_YAML = "list what it uses, or `git checkout dvc.yaml` brings the committed one back"
# End, stage, seconds, CPU seconds of each run; ignored too, since no two take equally long.
TIMINGS = Path("timings.csv")


class Stage:
    """One stage as dvc.yaml declares it.

    `key` is the entry of its `foreach` mapping, empty where it has none.
    """

    def __init__(self, name: str, key: str | None):
        self.name, self.key, self.label = name, key or "", f"{name}@{key}" if key else name
        pipeline, self.params = pipeline_in(Path())
        check(self.params)
        stages = declared(pipeline, self.params)
        if self.label not in stages:
            raise UserError(_no_such(name, self.key, list(stages)))
        self.declared = stages[self.label]
        self.made = [path for each in stages.values() for path in each["outs"]]
        self.given, self.parent = Given(self.declared, self.params), Parent(self.label)
        self.used: dict[str, set[str]] = {kind: set() for kind in self.declared}
        if name != "check":
            self.dep(CHECKED)
        self.states: list[Path] = []
        self.shown_by = ""
        self.partial = STATE / "partial" / (f"{self.label}.{RANK}" if RANK else self.label)

    def _use(self, kind: str, wanted: str, separator: str) -> None:
        for entry in self.declared[kind]:
            if wanted == entry or wanted.startswith(entry + separator):
                self.used[kind].add(entry)
                return
        raise UserError(
            f"{self.label} uses {wanted}, which dvc.yaml doesn't list among its {kind}; {FOR_DVC_YAML}"
        )

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

    def inputs(self) -> list[str]:
        """Return its dependencies that are no code, and of a folder the outputs in it that stages make."""
        folders = [path for path in self.declared["deps"] if not path.endswith(".py")]
        within = [path for path in self.made if any(path.startswith(f"{each}/") for each in folders)]
        return folders + within

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
        return {path: digest(Path(path)) for path in self.declared["deps"] if path != CHECKED}

    def trained(self, state: Path) -> None:
        """Say that a training is over whose state is saved there."""
        self.states.append(state)

    def keep_states_until(self, out: str) -> None:
        """Keep the states of the trainings that are over until dvc.lock records `out`, a file of theirs."""
        self.shown_by = md5(self.partial / out)

    def finish(self) -> None:
        """Move the outputs into place.

        Raises UserError where dvc.yaml lists something that was never used, where the stage was given
        something else than what is there now, or its `dvc` has ended.
        """
        for kind, entries in self.declared.items():
            for entry in entries:
                if entry not in self.used[kind] and not entry.endswith(".py"):
                    raise UserError(
                        f"dvc.yaml lists {shown(entry)} among the {kind} of {self.label}, which never used "
                        f"it; {FOR_DVC_YAML}"
                    )
        if RANK:
            return
        self.given.check(self.label)
        self.parent.check()
        for path in map(Path, self.declared["outs"]):
            path.parent.mkdir(parents=True, exist_ok=True)
        for path in map(Path, self.declared["outs"]):
            take_away(path)  # DVC has, but where a process that outlived its `dvc repro` was here first
            os.replace(self.partial / path, path)
        for state in self.states:
            write_bytes(STATE / "trained" / state.stem, self.shown_by.encode())


def key_for(name: str, arguments: list[str]) -> str | None:
    """Return the entry that a script is to work on: its one argument, else what DVC says; None without both.

    dvc.yaml gives no argument, so that no name of params.yaml gets into a shell's line. Raises UserError for
    several.
    """
    if len(arguments) > 1:
        raise UserError(f"{name} takes one argument, the entry's name, not {len(arguments)}")
    group, _, key = stage_of_dvc().partition("@")
    return arguments[0] if arguments else key if group == name else None


def _no_such(name: str, key: str, labels: list[str]) -> str:
    """Say why no stage has that name and key, and which keys there are."""
    if name in labels:
        return f"{name} is one stage and takes no argument, not {shown(key)}"
    keys = ", ".join(label.partition("@")[2] for label in labels if label.partition("@")[0] == name)
    if not keys:
        return f"{name} has nothing to do: params.yaml has no entry for it"
    if key:
        return f"{name} has no entry {shown(key)}; params.yaml has {keys}"
    other = f" (DVC_STAGE is {shown(stage_of_dvc())}, another script's)" if stage_of_dvc() else ""
    return f"{name} needs the name of an entry as its argument{other}; params.yaml has {keys}"


def release_states(label: str) -> None:
    """Delete the states of finished trainings whose outputs dvc.lock records: DVC's cache has those by then.

    Not before: a training whose `dvc` is killed between its end and that record must not run again. Nor those
    of the stage that starts, by its label: DVC would not run it if it had them, whatever a lock says that
    came with a clone.
    """
    notes, lock = sorted((STATE / "trained").glob("*@*")), Path("dvc.lock")
    recorded = lock.read_bytes() if notes and lock.exists() else b""
    for note in notes:
        state = states() / f"{note.name}.pt"
        with suppress(OSError):  # another stage releases it too
            shown_by = note.read_bytes()
            if (
                OF_TRAINING.fullmatch(state.name)
                and re.fullmatch(b"[0-9a-f]{32}", shown_by)
                and shown_by in recorded
                and note.name.rsplit("-", 1)[0] != label
            ):
                discard(state)
                discard(note)


def run(main: Callable[[Stage], None], script: str) -> None:
    """Run a stage script: `script` is its `__file__`."""
    started, cpu = time.monotonic(), time.process_time()
    with in_words():
        name = Path(script).stem
        stage = Stage(name, key_for(name, sys.argv[1:]))
        with locked(STATE / "locks" / stage.label, "put the repository on another one"):
            for old in [
                stage.partial,
                *(stage.partial.parent.glob(f"{stage.label}.*") if PROCESSES == 1 else []),
            ]:
                take_away(old)
            if not RANK:
                release_states(stage.label)
            inputs = None if RANK else Inputs(STATE / "inputs.json")
            try:
                if inputs:
                    inputs.check(stage.label, stage.inputs())
                main(stage)
                stage.finish()
                if inputs and stage_of_dvc() != stage.label:  # else dvc.lock will have it
                    inputs.note(stage.declared["outs"])
            except Exception as error:
                trains = any(name.startswith("recipes.") for name in stage.declared["params"])
                if trains and (said := memory(error, trains)):
                    raise UserError(said) from error
                raise
            finally:
                shutil.rmtree(stage.partial, ignore_errors=True)
        if RANK:
            return
        with suppress(OSError), open(TIMINGS, "a", encoding="utf-8") as log:  # its outputs are in place
            log.write(
                f"{time.strftime('%Y-%m-%dT%H:%M:%S')},{stage.label},{time.monotonic() - started:.1f},"
                f"{time.process_time() - cpu:.1f}\n"
            )
