"""Classify images with a finished row: class, probability and the five most probable classes of each.

IMAGE is a file of any size, or a folder, of which every image is taken. An image that can't be read is named,
the rest go on, and the exit code is 1. Images go the way of the test images: as `data.decode` says to the
size that the target's images have, then resized to the model's. The model computes in float32: the one that
was trained here, in `models/finetuned`, or the one that came with the clone, in `models/released`, which
needs no torch.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitscale.base.errors import UserError, one_line, shown
from vitscale.commands.main import add_pipeline
from vitscale.data.decode import HEAD, MAX_BYTES, is_image, square
from vitscale.models.finished import load_finished

BATCH_SIZE = 32


def read_image(path: Path, side: int) -> np.ndarray:
    """Return an image file as a data set would store it, uint8 (side, side, 3).

    Raises UserError where it can't be read.
    """
    try:
        with open(path, "rb") as file:
            return square(file.read(MAX_BYTES + 1), side)
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(str(path))} can't be read as an image ({one_line(error)})") from error


def image_files(path: Path) -> list[Path]:
    """Return a file, or the images in a folder and those below. Raises UserError for a folder without."""
    if not path.is_dir():
        return [path]
    inside = []
    for file in sorted(path.rglob("*")):
        if not file.is_file():
            continue
        try:
            with open(file, "rb") as content:
                head = content.read(HEAD)
        except OSError:
            inside.append(file)  # which says why when it is read
            continue
        if is_image(file.name, head):
            inside.append(file)
    if not inside:
        raise UserError(f"{shown(str(path))} holds no image")
    return inside


class Reader:
    """Reads images as squares of `side` pixels and says which can't be read; `failed`: there was one."""

    def __init__(self, side: int) -> None:
        self.side, self.failed = side, False

    def fail(self, error: UserError) -> None:
        """Say what can't be read."""
        self.failed = True
        print(f"error: {error}", file=sys.stderr, flush=True)

    def files(self, paths: list[Path]) -> list[Path]:
        """Return the files that the paths name."""
        found = []
        for path in paths:
            try:
                found += image_files(path)
            except UserError as error:
                self.fail(error)
        return found

    def batches(self, files: list[Path]) -> Iterator[tuple[list[Path], list[np.ndarray]]]:
        """Yield the images that can be read, some at a time: photographs are large."""
        for start in range(0, len(files), BATCH_SIZE):
            paths, images = [], []
            for path in files[start : start + BATCH_SIZE]:
                try:
                    images.append(read_image(path, self.side))
                    paths.append(path)
                except UserError as error:
                    self.fail(error)
            if images:
                yield paths, images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("row", metavar="ROW")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--json", action="store_true", help="a list of objects in place of the table")
    add_pipeline(parser)


def main(arguments: argparse.Namespace) -> None:
    """Run the command; exit code 1 where an image can't be read.

    Raises UserError where the row isn't there.
    """
    finished, answers = load_finished(arguments.row, arguments.pipeline), []
    reader, classes = Reader(finished.stored_side), finished.classes
    files = reader.files(arguments.images)
    width = max([len(shown(str(path))) for path in files] + [5])
    if files and not arguments.json:
        print(f"{'image':{width}}  {'class':20}  probability  top 5")
    for paths, images in reader.batches(files):
        for path, values in zip(paths, finished(images).probabilities, strict=True):
            best = values.argsort()[::-1][:5]
            top = [{"class": classes[i], "probability": float(values[i])} for i in best]
            answers.append({"image": str(path), **top[0], "top5": top})
            if not arguments.json:
                name = f"{shown(str(path)):{width}}"
                text = ", ".join(f"{each['class']} {each['probability']:.1%}" for each in top)
                print(
                    f"{name}  {top[0]['class']:20}  {top[0]['probability']:11.1%}  {text}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps(answers, indent=2))
    sys.exit(1 if reader.failed else 0)
