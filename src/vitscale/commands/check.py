"""Check a params.yaml, as every stage does before it runs.

One line for each key that is wrong, and exit code 1.
"""

import argparse
from pathlib import Path

from vitscale.base.config import read_yaml
from vitscale.pipeline.consistency import check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folder", nargs="?", default=".", type=Path, metavar="FOLDER", help="where it is (default: here)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run the command. Raises UserError, a line a fault."""
    path = arguments.folder / "params.yaml"
    check(read_yaml(path))
    print(f"{path}: good")
