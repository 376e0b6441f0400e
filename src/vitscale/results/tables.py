"""What is read back from metrics files, predictions among it, and CSV tables: the one place for each."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np
from pydantic import BaseModel, FiniteFloat, ValidationError

from vitscale.base.errors import UserError
from vitscale.base.files import parse_json, read_json, write_bytes

AGAIN = "`dvc repro` makes it again, `dvc checkout` and git bring it back"


class _Known(BaseModel):
    """What figures must be, where they are there; others may be anything."""

    accuracy: FiniteFloat = 0.0
    ci95_low: FiniteFloat = 0.0
    ci95_high: FiniteFloat = 0.0
    ece: FiniteFloat = 0.0
    validation_accuracy: FiniteFloat = 0.0
    parameters: int = 0
    train_images: int = 0
    best_epoch: int = 0
    test_labels_sha256: list[str] = []
    weights_sha256: list[str] = []
    predicted: dict[str, list[int] | list[list[int]]] = {}
    epochs: list[dict[str, float | None]] = []
    trainings: list[dict] = []


class Figures(dict):
    """A metrics file's figures; one that isn't there is an error of that file, `name`."""

    def __init__(self, name: str, content: dict) -> None:
        super().__init__(content)
        self.name = name

    def __missing__(self, key: str) -> NoReturn:
        raise UserError(f"{self.name} has no {key}; {AGAIN}")

    def __or__(self, other: dict) -> "Figures":
        return Figures(self.name, {**self, **other})


def parse_metrics(content: bytes, name: str) -> Figures:
    """Return the figures that a metrics file's text holds.

    Raises UserError, with the file's name, where it is damaged or a figure is none.
    """
    return _figures(parse_json(content, name, dict, AGAIN), name)


def _figures(found: dict, name: str) -> Figures:
    if not found:  # a table would take it for a row that hasn't run
        raise UserError(f"{name} is damaged (it holds no figures); {AGAIN}")
    try:
        _Known.model_validate(found)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"][:3]))
        raise UserError(f"{name} is damaged ({key}: {fault['msg']}); {AGAIN}") from None
    return Figures(name, found)


def read_metrics(path: Path) -> dict | None:
    """Return a metrics file's figures, or None where it has not been run. Raises UserError as above."""
    return _figures(read_json(path, dict, AGAIN), str(path)) if path.exists() else None


def figures_in(folder: Path) -> Callable[[str], dict | None]:
    """Return what gives the figures in a file of a folder, by its name there."""
    return lambda name: read_metrics(folder / name)


def write_csv(path: Path, header: list[str], rows: Iterable[list]) -> None:
    """Write a table; floats in the shortest form that reads back exactly."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_bytes(path, text.getvalue().encode())


def parse_csv(content: bytes, name: str, **columns: Callable[[str], object]) -> list[dict]:
    """Return a table's lines by its header; `columns` it must have, and they turn its texts into values.

    Raises UserError, with the file's name, where it is no such table.
    """
    try:
        lines: list[dict] = list(csv.DictReader(io.StringIO(content.decode()), strict=True))
        for line in lines:
            line.update({column: read(line[column]) for column, read in columns.items()})
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        said = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{name} is damaged ({said}); {AGAIN}") from None
    return lines


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
    """Return which test images a row got right (trainings, n), class by class, from its metrics.

    Raises UserError where its trainings have other numbers of images.
    """
    try:
        each = [
            np.atleast_2d(np.array(numbers, dtype=int)) == i
            for i, numbers in enumerate(figures["predicted"].values())
        ]
        return np.concatenate(each, axis=1)
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{getattr(figures, 'name', 'a row')} is damaged (predicted: {error}); {AGAIN}"
        ) from None
