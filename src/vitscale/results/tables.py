"""What is read back from metrics files, predictions among it, and CSV tables: the one place for each."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from vitscale.base.files import write_bytes


def parse_metrics(content: bytes) -> dict:
    """Return the figures that a metrics file's text holds."""
    return json.loads(content)


def read_metrics(path: Path) -> dict | None:
    """Return a metrics file's figures, or None where it has not been run."""
    return parse_metrics(path.read_bytes()) if path.exists() else None


def figures_in(folder: Path) -> Callable[[str], dict | None]:
    """Return what gives the figures in a file of a folder, by its name there."""
    return lambda name: read_metrics(folder / name)


def write_csv(path: Path, header: list[str], rows: Iterable[list]) -> None:
    """Write a table; floats in the shortest form that reads back exactly."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_bytes(path, text.getvalue().encode())


def parse_csv(content: bytes) -> list[dict[str, str]]:
    """Return a table's lines by its header."""
    return list(csv.DictReader(io.StringIO(content.decode())))


def by_class(labels: np.ndarray, predicted: np.ndarray, classes: list[str]) -> dict[str, list | dict]:
    """Return a row's predictions (n,), or several trainings' (trainings, n), as its metrics keep them.

    For each actual class those are the predicted ones' numbers, in the order of the test images, a list a
    training where there are several; a fingerprint of the labels tells whether two rows have the same test
    images.
    """
    return {
        "test_labels_sha256": [hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()],
        "predicted": {name: predicted[..., labels == i].tolist() for i, name in enumerate(classes)},
    }


def hits(figures: dict) -> np.ndarray:
    """Return which test images a row got right (trainings, n), class by class, from its metrics."""
    each = [
        np.atleast_2d(np.array(numbers, dtype=int)) == i
        for i, numbers in enumerate(figures["predicted"].values())
    ]
    return np.concatenate(each, axis=1)
