"""Write the code's hashes into every committed dvc.lock, once it has given the bytes of the code before.

    python -m tools.restamp [BASE] [--pipeline examples/digits] [--but compare]

It runs one pipeline twice from nothing, with the code of BASE (default: HEAD) and with the workspace's. Where
every output has the same hash, the stages whose code alone differs from what dvc.lock has of BASE take the
new hashes, in all pipelines. A stage of a kind that wasn't run, or that differs in more than its code, stays
and is named. Where an output differs, it is named, nothing is written, and the exit code is 1. `--but` names
the kinds of stages that are meant to leave something else: they aren't compared, and must run again.
CONTRIBUTING.md says when this is honest.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vitscale.base.endings import begin, in_words

if __name__ == "__main__":
    begin()

from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from dvc.utils.serialize import load_yaml, modify_yaml


def git(root: Path, *arguments: str) -> str:
    """Return what git prints, or stop with its error."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def clone(root: Path, folder: Path, base: str | None) -> None:
    """Lay out a commit's files, or with None the workspace's: tracked and untracked, not ignored."""
    git(root, "clone", "-q", "--no-checkout", str(root), str(folder))
    if base:
        git(folder, "checkout", "-q", "--detach", base)
        # Without it, as before there were rooms, an installed vitscale would come first.
        (folder / "src/vitscale/__init__.py").touch()
        return
    for name in filter(None, git(root, "ls-files", "-co", "--exclude-standard", "-z").split("\0")):
        if os.path.lexists(root / name):  # else it is deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name, follow_symlinks=False)


def run(name: str, folder: Path, scratch: Path) -> dict[str, dict[str, str]]:
    """Run a pipeline with no cache, lock or saved training; return each stage's outputs with their hashes."""
    (folder / "dvc.lock").unlink(missing_ok=True)
    subprocess.run(["dvc", "cache", "dir", "-q", "--local", str(scratch / "cache")], cwd=folder, check=True)
    env = os.environ | {"VITSCALE_CHECKPOINTS": str(scratch / "checkpoints")}
    said, began = [], time.monotonic()
    command = ["sh", "-c", "exec dvc repro 2>&1"]
    with subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE) as process:
        for line in process.stdout or []:
            said.append(line)
            if line.startswith("Running stage '"):
                label = line.split("'")[1]
                print(f"{name} code, {time.monotonic() - began:.0f} s: {label}", flush=True)
    if process.returncode:
        sys.exit(f"{''.join(said[-20:])}error: with the {name} code the pipeline fails")
    stages = load_yaml(folder / "dvc.lock")["stages"]
    return {label: {out["path"]: out["md5"] for out in stage["outs"]} for label, stage in stages.items()}


def compare(old: dict, new: dict, but: list[str]) -> tuple[list[str], set[str]]:
    """Return a line for each output that isn't the same, and the kinds of stages whose outputs all are.

    Kinds in `but` are neither.

    An output that only the new code leaves is no difference, but its kind isn't shown to be the same either.
    """
    lines = [f"only the old code has the stage {label}" for label in old.keys() - new.keys()]
    lines += [f"only the new code has the stage {label}" for label in new.keys() - old.keys()]
    same = {label.split("@")[0] for label in old} - set(but)
    for label in (label for label in old.keys() & new.keys() if label.split("@")[0] not in but):
        lines += [f"{label}: {path}" for path, md5 in old[label].items() if new[label].get(path) != md5]
        if new[label].keys() - old[label].keys():
            same.discard(label.split("@")[0])
    return sorted(lines), same


def recorded(path: Path) -> dict:
    """Return what DVC records of a file beside its path; nothing where there is none."""
    if not path.is_file():
        return {}
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return {"hash": "md5", "md5": md5, "size": path.stat().st_size}


def restamp(folder: Path, base: Path, same: set[str]) -> tuple[int, list[str]]:
    """Write the code's hashes into a folder's dvc.lock, of which `base` is the folder with the old code.

    Return how many stages it wrote, and a line for each that must run instead.
    """
    written, rerun = 0, []
    with Repo(folder) as repo, modify_yaml(folder / "dvc.lock") as lock:
        for stage in repo.index.stages:
            if stage.name not in lock["stages"]:
                rerun.append(f"{stage.name}: was never run")
                continue
            ran = lock["stages"][stage.name]
            had = {dep["path"]: dep for dep in ran["deps"]}
            old_code = {path for path in had if path.endswith(".py")}
            paths = sorted(dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency))
            code = {path: {"path": path, **recorded(folder / path)} for path in paths if path.endswith(".py")}
            if {path: had[path] for path in old_code} == code:
                continue
            params: dict = {}
            for dep in stage.params:
                params |= dep.read_params(flatten=True)
            asked = stage.cmd, params, set(paths) - code.keys(), {out.def_path for out in stage.outs}
            params = ran.get("params", {}).get("params.yaml", {})
            if stage.name.split("@")[0] not in same:
                rerun.append(f"{stage.name}: no such stage was compared, or it leaves a new output")
            elif any(had[path]["md5"] != recorded(base / path).get("md5") for path in old_code):
                rerun.append(f"{stage.name}: it ran with other code than that of BASE")
            elif asked != (ran["cmd"], params, had.keys() - old_code, {out["path"] for out in ran["outs"]}):
                rerun.append(f"{stage.name}: its command, parameters, inputs or outputs are other ones too")
            else:
                ran["deps"] = [code.get(path) or had[path] for path in paths]
                written += 1
    return written, rerun


def main() -> None:
    """Run both, compare, write."""
    parser = argparse.ArgumentParser(prog="python -m tools.restamp", description=__doc__.splitlines()[0])
    parser.add_argument("base", metavar="BASE", nargs="?", default="HEAD", help="whose code the locks have")
    parser.add_argument("--pipeline", default="examples/digits", metavar="FOLDER", help="which to run")
    parser.add_argument("--but", action="append", default=[], metavar="KIND", help="is meant to differ")
    arguments = parser.parse_args()
    root = Path(git(Path("."), "rev-parse", "--show-toplevel").strip())
    base = git(root, "rev-parse", "--verify", "--end-of-options", f"{arguments.base}^{{commit}}").strip()
    with tempfile.TemporaryDirectory() as name:
        ran = []
        for side, commit in (("old", base), ("new", None)):
            scratch = Path(name) / side
            clone(root, scratch / "repo", commit)
            ran.append(run(side, scratch / "repo" / arguments.pipeline, scratch))
        differences, same = compare(*ran, arguments.but)
        if differences:
            print("not the same with the old and the new code; no dvc.lock was touched:", file=sys.stderr)
            sys.exit("\n".join(differences))
        asked = [outs for label, outs in ran[0].items() if label.split("@")[0] not in arguments.but]
        count = f"{sum(map(len, asked))} outputs of {len(asked)} stages"
        print(f"{arguments.pipeline}: the same {count} with the old and the new code")
        for path in git(root, "ls-files", "dvc.lock", "*/dvc.lock").splitlines():
            written, rerun = restamp((root / path).parent, (Path(name) / "old/repo" / path).parent, same)
            print("\n".join([f"{path}: {written} stages written", *(f"  rerun {line}" for line in rerun)]))


if __name__ == "__main__":
    with in_words():
        main()
