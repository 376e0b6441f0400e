"""Where trainings disagree: test images that one got right and another wrong, by their predictions."""

from dataclasses import dataclass

import numpy as np

from vitscale.base.errors import UserError
from vitscale.data.arrays import Split
from vitscale.results.study import Study
from vitscale.results.tables import AGAIN, by_class, hits


@dataclass(frozen=True)
class Predictions:
    """What trainings made of the same n test images, which stand class by class, as metrics keep them.

    `actual` (n,) and each training's `said` (n,) are numbers of `classes`. A row with several seeds is a
    training for each.
    """

    classes: list[str]
    test_labels_sha256: list[str]
    actual: np.ndarray
    said: dict[str, np.ndarray]

    def between(self, right: str, wrong: str) -> np.ndarray:
        """Return the images (m,) that one training got right and another wrong, as places in `actual`."""
        return np.flatnonzero((self.said[right] == self.actual) & (self.said[wrong] != self.actual))

    def places(self, split: Split) -> np.ndarray:
        """Return where each test image (n,) stands in a split that has all of them, or the first; else -1.

        Raises UserError where the split's images can't be those.
        """
        found = np.full(len(self.actual), -1)
        counts, all_counts = (
            np.bincount(labels, minlength=len(self.classes)) for labels in (split.labels, self.actual)
        )
        sha256 = by_class(split.labels, split.labels, split.classes)["test_labels_sha256"]
        fits = split.classes == self.classes and (counts <= all_counts).all()
        if not fits or (len(split) == len(self.actual) and sha256 != self.test_labels_sha256):
            raise UserError(
                "metrics/rows was scored on other test images than those that are here; run `dvc repro`"
            )
        for number in range(len(self.classes)):
            there = np.flatnonzero(split.labels == number)
            found[np.flatnonzero(self.actual == number)[: len(there)]] = there
        return found


def predictions(study: Study) -> Predictions | None:
    """Return what all rows that have been scored said, or None where none has been.

    Raises UserError where their figures are damaged, or of different test images.
    """
    found: Predictions | None = None
    for row, entry in study.rows.items():
        figures = study.score(row)
        if not figures:
            continue
        hits(figures)  # refuses lists of unequal lengths
        each = [np.atleast_2d(np.array(numbers, dtype=int)) for numbers in figures["predicted"].values()]
        said, classes = np.concatenate(each, axis=1), list(figures["predicted"])
        if not ((said >= 0) & (said < len(classes))).all():
            raise UserError(f"metrics/rows/{row}.json is damaged (predicted: no such class); {AGAIN}")
        actual = np.repeat(np.arange(len(classes)), [numbers.shape[1] for numbers in each])
        if found is None:
            found = Predictions(classes, figures["test_labels_sha256"], actual, {})
        if (classes, figures["test_labels_sha256"]) != (found.classes, found.test_labels_sha256):
            first = next(iter(found.said))
            raise UserError(f"{row} was scored on other test images than {first}; run `dvc repro`")
        seeds = sorted(entry.seeds)
        if len(said) != len(seeds):
            raise UserError(f"{row} was scored with other seeds than params.yaml names; run `dvc repro`")
        names = [row] if len(said) == 1 else [f"{row}/seed-{seed}" for seed in seeds]
        found.said.update(zip(names, said, strict=True))
    return found
