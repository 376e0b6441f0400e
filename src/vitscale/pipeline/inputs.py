"""The inputs of a stage, held against what made them: DVC trusts its cache, and a script by hand has no DVC.

What an input should be is in dvc.lock, or, where a script by hand made it, in the notes of this folder. An
input that neither knows is taken as it is.
"""

from pathlib import Path

from vitscale.base.config import read_yaml
from vitscale.base.digests import md5
from vitscale.base.errors import UserError
from vitscale.base.files import read_json, write_json
from vitscale.pipeline.graph import recorded_stages


def _state(path: Path) -> list:
    """Return the sizes and times of a path's files: while they stay, nothing is hashed again."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files if file.is_file()]
    return [[file.as_posix(), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


class Inputs:
    """What is known of a folder's inputs and outputs; `notes` is the file that keeps it."""

    def __init__(self, notes: Path):
        self.notes = notes
        again = "delete it: what scripts by hand have left is then taken as it is"
        self.known: dict[str, dict] = read_json(notes, dict, again) if notes.exists() else {}
        if not all(isinstance(each, dict) for each in self.known.values()):
            raise UserError(f"{notes} is damaged; {again}")

    def _md5(self, path: str) -> str:
        known, state = self.known.get(path, {}), _state(Path(path))
        if known.get("state") != state:
            known = known | {"md5": md5(Path(path)), "state": state}
            self.known[path] = known
        return known["md5"]

    def check(self, label: str, paths: list[str]) -> None:
        """Raise UserError where an input is neither what dvc.lock records nor what a script by hand left."""
        lock = read_yaml(Path("dvc.lock")) if Path("dvc.lock").exists() else {}
        outs = [out for stage in recorded_stages(lock, "dvc.lock").values() for out in stage.get("outs", [])]
        recorded = {out["path"]: out.get("md5") for out in outs}
        for path in paths:
            made = self.known.get(path, {}).get("made")
            wanted = [each for each in (recorded.get(path), made) if each]
            if wanted and Path(path).exists() and self._md5(path) not in wanted:
                keeper = f"git checkout {path}" if path.startswith("metrics/") else "dvc checkout"
                raise UserError(
                    f"{label}: {path} is not what {'dvc.lock records' if not made else 'its stage left'}; "
                    f"`{keeper}` brings it back, or run the stage that makes it again"
                )
        self._save()

    def note(self, paths: list[str]) -> None:
        """Note what a script by hand has left."""
        for path in paths:
            made = self._md5(path)
            self.known[path]["made"] = made
        self._save()

    def _save(self) -> None:
        if self.known:
            write_json(self.notes, self.known)
