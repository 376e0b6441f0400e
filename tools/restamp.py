"""Write the code's hashes into every committed dvc.lock, after showing that it gives the bytes of the code before.

    python -m tools.restamp [BASE] [--pipeline examples/digits]

It runs one pipeline twice from nothing, with the code of BASE (default: HEAD) and with the workspace's. Where every
output has the same hash, the stages whose code alone differs from what dvc.lock has of BASE take the new hashes, in all
pipelines. A stage of a kind that wasn't run, or that differs in more than its code, stays as it is and is named. Where
an output differs, it is named, nothing is written, and the exit code is 1. CONTRIBUTING.md says when this is honest.
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

from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from dvc.utils.serialize import load_yaml, modify_yaml


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def clone(root: Path, folder: Path, base: str | None) -> None:
    """Lay out a commit's files, or with None the workspace's: tracked and untracked, not ignored."""
    git(root, "clone", "-q", "--no-checkout", str(root), str(folder))
    if base:
        git(folder, "checkout", "-q", "--detach", base)
        return
    for name in filter(None, git(root, "ls-files", "-co", "--exclude-standard", "-z").split("\0")):
        if os.path.lexists(root / name):  # else it is deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name, follow_symlinks=False)


def run(name: str, folder: Path, scratch: Path) -> dict[str, dict[str, str]]:
    """Run a pipeline with no cache, lock or saved training to take from; return each stage's outputs with their hashes."""
    (folder / "dvc.lock").unlink(missing_ok=True)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "cache", "dir", "-q", "--local", scratch / "cache"], cwd=folder, check=True)
    environment = os.environ | {"VITSCALE_CHECKPOINTS": str(scratch / "checkpoints")}
    said, began = [], time.monotonic()
    with subprocess.Popen([*dvc, "repro"], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            said.append(line)
            if line.startswith("Running stage '"):
                label = line.split("'")[1]
                print(f"{name} code, {time.monotonic() - began:.0f} s: {label}", flush=True)
    if process.returncode:
        sys.exit(f"{''.join(said[-20:])}error: with the {name} code the pipeline fails")
    stages = load_yaml(folder / "dvc.lock")["stages"]
    return {label: {out["path"]: out["md5"] for out in stage["outs"]} for label, stage in stages.items()}


def compare(old: dict, new: dict) -> tuple[list[str], set[str]]:
    """Return a line for each output that isn't the same, and the kinds of stages whose outputs all are.

    An output that only the new code leaves is no difference, but its kind isn't shown to be the same either.
    """
    lines = [f"only the {side} code has the stage {label}"
             for side, here, there in (("old", old, new), ("new", new, old)) for label in here if label not in there]
    same = {label.split("@")[0] for label in old}
    for label in old.keys() & new.keys():
        lines += [f"{label}: {path}" for path, md5 in old[label].items() if new[label].get(path) != md5]
        if new[label].keys() - old[label].keys():
            same.discard(label.split("@")[0])
    return sorted(lines), same


def md5(path: Path) -> str | None:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else None


def entry(folder: Path, path: str) -> dict:
    """Return what DVC records of a file."""
    return {"path": path, "hash": "md5", "md5": md5(folder / path), "size": (folder / path).stat().st_size}


def restamp(folder: Path, base: Path, same: set[str]) -> tuple[int, list[str]]:
    """Write the code's hashes into a pipeline's dvc.lock; `base` is that pipeline's folder with the old code.

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
            paths = sorted(dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency))
            code = {path for path in paths if path.endswith(".py")}
            old_code = {path for path in had if path.endswith(".py")}
            if code == old_code and all(had[path]["md5"] == md5(folder / path) for path in code):
                continue
            params = {name: value for dep in stage.params for name, value in dep.read_params(flatten=True).items()}
            if stage.name.split("@")[0] not in same:
                rerun.append(f"{stage.name}: no such stage was compared, or it leaves a new output")
            elif any(had[path]["md5"] != md5(base / path) for path in old_code):
                rerun.append(f"{stage.name}: it ran with other code than the old one here; give an older BASE")
            elif ((stage.cmd, params, set(paths) - code, {out.def_path for out in stage.outs})
                  != (ran["cmd"], ran.get("params", {}).get("params.yaml", {}), had.keys() - old_code,
                      {out["path"] for out in ran["outs"]})):
                rerun.append(f"{stage.name}: its command, parameters, inputs or outputs are other ones too")
            else:
                ran["deps"] = [entry(folder, path) if path in code else had[path] for path in paths]
                written += 1
    return written, rerun


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.restamp", description=__doc__.splitlines()[0])
    parser.add_argument("base", metavar="BASE", nargs="?", default="HEAD",
                        help="the commit whose code the locks have; default: HEAD")
    parser.add_argument("--pipeline", default="examples/digits", metavar="FOLDER",
                        help="the pipeline to run, from the root; default: examples/digits")
    arguments = parser.parse_args()
    root = Path(git(Path("."), "rev-parse", "--show-toplevel").strip())
    base = git(root, "rev-parse", "--verify", "--end-of-options", f"{arguments.base}^{{commit}}").strip()
    with tempfile.TemporaryDirectory() as name:
        old, new = Path(name) / "old/repo", Path(name) / "new/repo"
        clone(root, old, base)
        clone(root, new, None)
        found = [run(side, folder / arguments.pipeline, folder.parent) for side, folder in (("old", old), ("new", new))]
        differences, same = compare(*found)
        if differences:
            sys.exit("\n".join(["not the same with old and new code, so no dvc.lock was touched:", *differences]))
        count = sum(map(len, found[0].values()))
        print(f"{arguments.pipeline}: the same {count} outputs of {len(found[0])} stages with the old and the new code")
        for path in git(root, "ls-files", "dvc.lock", "*/dvc.lock").splitlines():
            written, rerun = restamp((root / path).parent, (old / path).parent, same)
            print("\n".join([f"{path}: {written} stages written", *(f"  rerun {line}" for line in rerun)]))


if __name__ == "__main__":
    main()
