"""Check a params.yaml, as every stage does before it runs.

One line for each key that is wrong, and exit code 1. For data sets that aren't pinned it prints the
fingerprints to paste, and keeps what `dvc pull` brought of one in .vitscale/imports: pinning it then needs no
source.
"""

import argparse
from pathlib import Path

from vitscale.base.config import read_yaml
from vitscale.data.pins import kept_import, unpinned_in
from vitscale.data.sources import Download, keep
from vitscale.pipeline.consistency import check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folder", nargs="?", default=".", type=Path, metavar="FOLDER", help="where it is (default: here)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run the command. Raises UserError, a line a fault."""
    path = arguments.folder / "params.yaml"
    params = read_yaml(path)
    check(params)
    print(f"{path}: good")
    for name, entry in params["download"].items():
        if None in entry["sha256"].values():
            keep(
                Download(**entry), arguments.folder / "data/raw" / name, arguments.folder / kept_import(name)
            )
    for line in unpinned_in(params["download"], arguments.folder):
        print(line)
