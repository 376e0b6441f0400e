"""Take away what entries that left params.yaml have left behind: `python -m vitscale.prune`.

Those are their stages in dvc.lock and the outputs that it records of them. An output that is no longer what the run left
stays where it is. DVC's cache keeps the runs, so that an entry that comes back runs nothing; `dvc gc -w` empties it.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from vitscale.files import UserError, read_yaml
from vitscale.params import check
from vitscale.recorded import leftovers
from vitscale.stage import read_pipeline


def md5(path: Path) -> str:
    """Return a file's or folder's hash as DVC records it: a folder's is that of the list of its files, by their names."""
    if path.is_dir():
        files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
        listing = json.dumps([{"md5": md5(file), "relpath": name} for name, file in files])
        return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def take_away(path: Path, pipeline: Path) -> None:
    """Delete a file or folder, and the folders above it in the pipeline's that are empty then."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in path.parents:
        if folder == pipeline or any(folder.iterdir()):
            return
        folder.rmdir()


def prune(pipeline: Path, dry: bool) -> list[str]:
    """Take the leftovers of a pipeline's folder away, or with `dry` only name them; return a line for each.

    Raises UserError where params.yaml is not good: an entry that is only mistyped shall not lose its outputs.
    """
    from dvc.utils.serialize import modify_yaml  # DVC's own way to write a lock; takes a second to import

    stages, params = read_pipeline(lambda file: read_yaml(pipeline / file))
    check(params)
    lock = read_yaml(pipeline / "dvc.lock")["stages"]
    gone, lines = leftovers(stages, params, lock), []
    for label, outs in gone.items():
        lines.append(f"dvc.lock: {label}")
        for out in outs:
            path = pipeline / out["path"]
            if not path.exists():
                continue
            if md5(path) != out["md5"]:
                lines.append(f"{path} stays: it is not what {label} left")
                continue
            lines.append(str(path))
            if not dry:
                take_away(path, pipeline)
    if gone and not dry:
        with modify_yaml(os.fspath(pipeline / "dvc.lock")) as content:
            for label in gone:
                del content["stages"][label]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vitscale.prune", description=__doc__.splitlines()[0])
    parser.add_argument("--pipeline", default=".", type=Path, metavar="FOLDER", help="folder of its dvc.yaml; default: this one")
    parser.add_argument("--dry", action="store_true", help="name it only")
    arguments = parser.parse_args()
    try:
        lines = prune(arguments.pipeline, arguments.dry)
    except UserError as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines) or "nothing is left over")
    if lines and not arguments.dry:
        print("now `dvc repro` makes the tables without it")


if __name__ == "__main__":
    main()
