"""Take away what entries that params.yaml no longer has left behind.

Those are their stages in dvc.lock and the outputs that it records of them. An output that is no longer what
the run left stays where it is. DVC's cache keeps the runs, so that an entry that comes back runs nothing;
`dvc gc -w` empties it.
"""

import argparse
import os
import re
from pathlib import Path

from vitscale.base.config import read_yaml
from vitscale.base.digests import md5
from vitscale.base.files import take_away
from vitscale.commands.main import add_pipeline
from vitscale.data.pins import kept_import
from vitscale.pipeline.consistency import check
from vitscale.pipeline.graph import declared, pipeline_in, recorded_stages
from vitscale.pipeline.recorded import leftovers
from vitscale.pipeline.schema import NAME


def take_away_with_folders(path: Path, pipeline: Path) -> None:
    """Delete a file or folder, and the folders above it in the pipeline's that are empty then."""
    take_away(path)
    for folder in path.parents:
        if folder == pipeline or any(folder.iterdir()):
            return
        folder.rmdir()


def is_output(path: str, pipeline: Path, places: set[str]) -> bool:
    """Tell whether a path is there and in a folder of the pipeline's for outputs: a lock may say anything."""
    full = pipeline / path
    inside = pipeline.resolve() in full.parent.resolve().parents  # itself it may be a link into DVC's cache
    return inside and full.exists() and ".." not in full.parts and Path(path).parts[0] in places


def prune(pipeline: Path, dry: bool) -> list[str]:
    """Take the leftovers of a pipeline's folder away, or with `dry` only name them; return a line for each.

    Raises UserError where params.yaml is not good: an entry that is only mistyped shall not lose its outputs.
    """
    from dvc.utils.serialize import modify_yaml  # DVC's own way to write a lock; takes a second to import

    stages, params = pipeline_in(pipeline)
    check(params)
    lock = recorded_stages(read_yaml(pipeline / "dvc.lock"), str(pipeline / "dvc.lock"))
    gone = leftovers(stages, params, lock)
    places = {Path(out).parts[0] for each in declared(stages, params).values() for out in each["outs"]}
    lines = []
    for label, outs in gone.items():
        lines.append(f"dvc.lock: {label}")
        for out in outs:
            path = pipeline / out["path"]
            if not is_output(out["path"], pipeline, places):
                continue
            if md5(path) != out.get("md5"):
                lines.append(f"{path} stays: it is not what {label} left")
                continue
            lines.append(str(path))
            if not dry:
                take_away_with_folders(path, pipeline)
        kind, _, key = label.partition("@")
        kept = pipeline / kept_import(key)
        if kind == "download" and re.fullmatch(NAME, key) and kept.is_dir():
            lines.append(str(kept))
            if not dry:
                take_away(kept)
    if gone and not dry:
        with modify_yaml(os.fspath(pipeline / "dvc.lock")) as content:
            for label in gone:
                del content["stages"][label]
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_pipeline(parser)
    parser.add_argument("--dry", action="store_true", help="name it only")


def main(arguments: argparse.Namespace) -> None:
    """Run the command. Raises UserError where params.yaml is not good."""
    lines = prune(arguments.pipeline, arguments.dry)
    print("\n".join(lines) or "nothing is left over")
    if lines and not arguments.dry:
        print("now `dvc repro` makes the tables without it")
