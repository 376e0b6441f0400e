"""The program `vitscale`: each command is a module of its own, with `add_arguments` and `main`."""

import argparse
import importlib
import sys
from pathlib import Path

from vitscale.base.endings import begin, in_words

COMMANDS = {
    "check": "check a params.yaml",
    "predict": "classify images with a finished row",
    "export": "export a finished row for transformers and ONNX",
    "report": "say what a change did to the accuracies, as a page for a pull request",
    "demo": "open a page to play with: images, disagreements, results",
    "plots": "let the page of `dvc plots` work without a network",
    "dag": "print the stages as a picture, a box a stage",
    "prune": "take away what entries that params.yaml no longer has left behind",
    "inspect-weights": "say whether weights that others trained fit, and print their entry",
    "runs": "share every run with colleagues through the DVC remote, of values changed since too",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command that the arguments name; by default those of the command line."""
    if arguments is None:
        begin()
    with in_words():
        _run(sys.argv[1:] if arguments is None else arguments)


def _run(given: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="vitscale",
        description="What people run beside `dvc repro`.",
        epilog="`vitscale COMMAND --help` says more.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, line in COMMANDS.items():
        command = commands.add_parser(name, help=line, formatter_class=argparse.RawDescriptionHelpFormatter)
        if given[:1] == [name]:  # the others aren't imported: torch takes seconds
            module = importlib.import_module(f"vitscale.commands.{name.replace('-', '_')}")
            command.description = module.__doc__
            module.add_arguments(command)
            command.set_defaults(main=module.main)
    chosen = parser.parse_args(given)
    chosen.main(chosen)


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a pipeline's folder."""
    parser.add_argument(
        "--pipeline",
        default=".",
        type=Path,
        metavar="FOLDER",
        help="the folder of its dvc.yaml (default: this one)",
    )
