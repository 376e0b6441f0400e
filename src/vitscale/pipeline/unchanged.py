"""What a stage was given, held against what is there when it ends: an edit under a running stage is refused.

DVC hashes a stage's inputs when the stage has ended. Without this check dvc.lock would give outputs to code,
parameters or inputs that they weren't made from.
"""

from pathlib import Path
from typing import Any

from vitscale.base.digests import digest
from vitscale.base.errors import UserError, shown
from vitscale.pipeline.graph import find, pipeline_in

SMALL = 1_000_000  # bytes; of a larger file its size and time must do, since hashing takes too long


def _seen(path: Path) -> tuple:
    """Return a file's size, and its digest, or where it is large its time."""
    size, time = path.stat().st_size, path.stat().st_mtime_ns
    return (size, digest(path)) if size < SMALL else (size, time)


def _files(paths: list[str]) -> dict[str, tuple]:
    found = {}
    for path in map(Path, paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found[file.as_posix()] = _seen(file)
    return found


class Given:
    """A stage's parameters by dotted name, and its dependencies' files, as they were at its start.

    Raises UserError where dvc.yaml lists a parameter that there isn't.
    """

    def __init__(self, declared: dict[str, list[str]], params: dict):
        self.deps = declared["deps"]
        self.params: dict[str, Any] = {}
        for name in declared["params"]:
            try:
                self.params[name] = find(params, name)
            except (LookupError, TypeError):
                raise UserError(
                    f"dvc.yaml lists {shown(name)} among a stage's params, and params.yaml doesn't have it; "
                    "`git checkout dvc.yaml` brings the committed one back"
                ) from None
        self.files = _files(self.deps)

    def check(self, label: str) -> None:
        """Raise UserError, naming what it is, where something has changed."""
        _, params = pipeline_in(Path())
        changed = []
        for name, had in self.params.items():
            try:
                same = find(params, name) == had
            except (LookupError, TypeError):
                same = False
            changed += [] if same else [f"{name} of params.yaml"]
        files = _files(self.deps)
        changed += [path for path in {**self.files, **files} if self.files.get(path) != files.get(path)]
        if changed:
            names = ", ".join(changed[:3]) + (" …" if changed[3:] else "")
            raise UserError(
                f"{label}: {names} changed while the stage ran, "
                "so nothing was moved into place; put it back, or run the stage again"
            )
