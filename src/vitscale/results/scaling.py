"""The scaling curve: how a model's accuracy on the target grows with the images that it was pretrained on.

Rows that differ only in their seeds are one point; the points of one model, protocol and pretraining set are
a curve.
"""

import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from vitscale.base.entries import Entry
from vitscale.base.errors import UserError
from vitscale.data.arrays import load_split, stratified
from vitscale.results.metrics import half_width, paired_difference
from vitscale.results.study import Study
from vitscale.results.tables import hits

VARIED = ("model", "start", "inputs", "seed")  # what entries of one point may differ in, beside their names


@dataclass
class Point:
    """Rows that differ in their seeds alone: their data, and which test images they got right.

    `data` and `images` are empty and 0 for an untrained start. `correct` is (seeds, test images).
    `over_seeds` is half the 95% interval of the mean accuracy over other seeds alone; `half` that over other
    test images too, the two added as independent.
    """

    model: str
    protocol: str
    data: str
    images: int
    target_images: int
    rows: list[str]
    correct: np.ndarray
    over_seeds: float = 0.0

    @property
    def accuracy(self) -> float:
        """The mean over seeds and test images."""
        return float(self.correct.mean())

    @property
    def half(self) -> float:
        """Half the 95% interval of the accuracy."""
        return math.hypot(half_width(self.correct.mean(0)), self.over_seeds)

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the accuracy's 95% interval."""
        return self.accuracy - self.half, self.accuracy + self.half

    @property
    def pool(self) -> tuple[str, str, int]:
        """What points have in common whose variance over seeds is taken to be the same."""
        return self.model, self.protocol, self.target_images


def common(entry: dict) -> str:
    """Return what an entry shares with those that differ from it in their seeds alone, as one text."""
    return json.dumps({name: value for name, value in entry.items() if name not in VARIED}, sort_keys=True)


def model_names(models: dict[str, dict]) -> dict[str, str]:
    """Return, for each entry of `models`, the name of the first that differs from it in the seed alone."""
    first: dict[str, str] = {}
    return {name: first.setdefault(common(entry), name) for name, entry in models.items()}


def alike(row: Entry, pretraining: Entry | None) -> tuple[str, str]:
    """Return what the rows of one point have in common.

    All but the seeds, of the row and of its pretraining.
    """
    return common(asdict(row)), common(asdict(pretraining) if pretraining else {})


def points(study: Study, prepared: Path) -> list[Point]:
    """Return the points of all rows whose start is one of ours; `prepared` is the folder of prepared data.

    Raises UserError where a row's test images aren't those of the others, or rows of one point differ in more
    than their seeds, or not in those.
    """
    names, pretrain = model_names(study.models), study.pretrain
    of_start = {f"{model}-scratch": (names[model], "", 0) for model in study.models}
    labels = {
        data: load_split(prepared / data / "train").labels
        for data in {entry.data for entry in pretrain.values()}
    }
    for start, pretraining in pretrain.items():
        images = len(stratified(labels[pretraining.data], pretraining.fraction, pretraining.seed))
        of_start[start] = names[pretraining.model], pretraining.data, images
    groups: dict[tuple[str, str, str, int, int], list[tuple[str, np.ndarray]]] = defaultdict(list)
    first_of: dict[tuple, tuple[str, tuple]] = {}
    asked = None
    for row, entry in study.rows.items():
        if entry.start not in of_start:
            continue  # weights that others trained
        figures, training = study.score(row), study.training("finetune", row)
        if not figures or not training:
            raise UserError(f"rows.{row} has no figures yet; run `dvc repro`")
        asked = asked or figures["test_labels_sha256"]
        if figures["test_labels_sha256"] != asked:
            raise UserError(f"{row} was scored on other test images than the rows before it; run `dvc repro`")
        model, data, images = of_start[entry.start]
        key = model, entry.protocol, data, images, training["train_images"]
        rest = alike(entry, pretrain.get(entry.start))
        first, wanted = first_of.setdefault(key, (row, rest))
        seeds = [study.rows[other].seed for other, _ in groups[key]]
        if rest != wanted or entry.seed in seeds:
            raise UserError(
                f"rows.{row} and rows.{first} would be one point of the curve and must differ in their "
                "seeds, and only in those"
            )
        groups[key].append((row, hits(figures)))
    found = [
        Point(*key, [row for row, _ in group], np.stack([correct for _, correct in group]))
        for key, group in groups.items()
    ]
    pool_seeds(found)
    return sorted(
        found, key=lambda point: (point.model, point.protocol, point.target_images, point.data, point.images)
    )


def pool_seeds(found: list[Point]) -> None:
    """Set each point's `over_seeds`, from the variance at all points of its `pool`.

    A few seeds say little by themselves. A point with one seed shares in it; where no point has two, nothing
    is known of other seeds, and only test images count.
    """
    squares: dict[tuple, float] = defaultdict(float)
    freedom: dict[tuple, int] = defaultdict(int)
    for point in found:
        squares[point.pool] += float(((point.correct.mean(1) - point.accuracy) ** 2).sum())
        freedom[point.pool] += len(point.rows) - 1
    for point in found:
        if free := freedom[point.pool]:
            point.over_seeds = float(stats.t.ppf(0.975, free)) * math.sqrt(
                squares[point.pool] / free / len(point.rows)
            )


def compared(first: Point, second: Point) -> tuple[float, float]:
    """Return how much more accurate the first point is, and half the paired 95% interval."""
    difference, half = paired_difference(first.correct.mean(0), second.correct.mean(0))
    return difference, math.hypot(half, first.over_seeds, second.over_seeds)


def slope(curve: list[Point]) -> tuple[float, float] | None:
    """Return the slope of log error against log pretraining images, and half its 95% interval.

    The interval is over seeds and test images. The slope is that of the least-squares line through the
    points, a sum of weighted log errors; what an error's draw does to it is taken to first order. None where
    fewer than three numbers of images stand on the curve, or an error is 0.
    """
    curve = [point for point in curve if point.images]
    if len(curve) < 3 or any(point.accuracy == 1 for point in curve):
        return None
    x, errors = np.log([point.images for point in curve]), np.array([1 - point.accuracy for point in curve])
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    each = np.stack([point.correct.mean(0) for point in curve])
    half = math.hypot(
        half_width(weights / errors @ each), *(weights / errors * [point.over_seeds for point in curve])
    )
    return float(weights @ np.log(errors)), half


def curves_of(found: list[Point]) -> dict[tuple[str, str, str], list[Point]]:
    """Return the curves by model, protocol and pretraining set, from the untrained start on.

    They are those at the most target images.
    """
    most = max(point.target_images for point in found)
    full = [point for point in found if point.target_images == most]
    keys = sorted({(point.model, point.protocol, point.data) for point in full if point.data})
    return {
        (model, protocol, data): [
            point
            for point in full
            if (point.model, point.protocol) == (model, protocol) and point.data in ("", data)
        ]
        for model, protocol, data in keys
    }
