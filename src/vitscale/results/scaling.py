"""The scaling curve: how a model's accuracy on the target grows with the images that it was pretrained on.

Rows that differ only in their seeds are one point; the points of one model, protocol and pretraining set are
a curve. A set with one number of images has a point beside the curves, and so has what others pretrained.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitscale.base.errors import UserError
from vitscale.data.arrays import load_split, stratified
from vitscale.results.configurations import Configuration, configurations, controls_of
from vitscale.results.metrics import weighted_sum
from vitscale.results.study import Study


@dataclass(kw_only=True)
class Point(Configuration):
    """A configuration with its data; `data` and `images` are empty and 0 for an untrained start.

    `steps` are those of its pretraining. `others` is the name of the weights where others trained them, whose
    steps aren't known. `longer` is the untrained start that was fine-tuned for the epochs of both.
    """

    data: str
    images: int
    target_images: int
    steps: int = 0
    others: str = ""
    longer: Configuration | None = None


def _of_others(study: Study) -> dict[str, dict[str, Any]]:
    """Return what a point has of each start that others trained: its data, their images and its name.

    How many images a data set has says an entry of `published` with the name of a row that starts from it;
    where none does, the start is left out.
    """
    rows = [row for row in study.published if row in study.rows]
    images = {study.pretraining_data(row): study.published[row].images for row in rows}
    return {
        start: {"data": entry.data, "images": images[entry.data], "others": entry.name}
        for start, entry in study.weights.items()
        if entry.data in images
    }


def points(study: Study, prepared: Path, batch_sizes: dict[str, int]) -> list[Point]:
    """Return the points of all rows whose start saw a known number of images, models as params.yaml has them.

    `prepared` is the folder of prepared data, `batch_sizes` has each recipe's. Raises UserError where a row's
    test images aren't those of the others, or rows of one point differ in more than their seeds, or not in
    those.
    """
    labels = {
        data: load_split(prepared / data / "train").labels
        for data in {entry.data for entry in study.pretrain.values()}
    }
    of_start = _of_others(study)
    of_start |= {f"{model}-scratch": {"data": "", "images": 0} for model in study.models}
    for start, entry in study.pretrain.items():
        its_labels = labels[entry.data]
        images = len(stratified(its_labels, entry.fraction, entry.seed))
        batch = min(batch_sizes[entry.recipe], len(its_labels))
        # as many for a fraction as for all images: see training.batches
        steps = entry.epochs * (len(its_labels) // batch)
        of_start[start] = {"data": entry.data, "images": images, "steps": steps}
    for row, its in study.rows.items():
        if its.start in of_start and not (study.score(row) and study.training("finetune", row)):
            raise UserError(f"rows.{row} has no figures yet; run `dvc repro`")
    found: dict[tuple, Point] = {}
    by_first = {each.rows[0]: each for each in configurations(study)}
    longer = {row: controls_of(row, study, more_epochs=True) for row in by_first}
    no_points = {row for controls in longer.values() for row in controls}
    for row, each in by_first.items():
        its = study.rows[row]
        if row in no_points or its.start not in of_start:
            continue
        target_images = (study.training("finetune", row) or {})["train_images"]
        control = by_first[longer[row][0]] if longer[row] else None
        point = Point(**vars(each), **of_start[its.start], target_images=target_images, longer=control)
        key = point.model, its.protocol, point.data, point.images, target_images
        if key in found:
            raise UserError(
                f"rows.{row} and rows.{found[key].rows[0]} would be one point of the curve and must differ "
                "in their seeds, and only in those"
            )
        found[key] = point
        if point.test_images != next(iter(found.values())).test_images:
            raise UserError(f"{row} was scored on other test images than the rows before it; run `dvc repro`")
    models = [*study.models, *study.weights]
    return sorted(
        found.values(),
        key=lambda it: (models.index(it.model), it.protocol, it.target_images, it.data, it.images),
    )


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
    _, half = weighted_sum((weights / errors).tolist(), curve)
    return float(weights @ np.log(errors)), half


def curves_of(found: list[Point]) -> dict[tuple[str, str, str], list[Point]]:
    """Return the curves by model, protocol and pretraining set, from the untrained start on.

    They are those at the most target images, and of our own pretraining. A set with one number of images has
    a curve of that point and the untrained start.
    """
    ours = [point for point in found if not point.others]
    most = max((point.target_images for point in ours), default=0)
    full = [point for point in ours if point.target_images == most]
    keys = sorted({(point.model, point.protocol, point.data) for point in full if point.data})
    return {
        (model, protocol, data): [
            point
            for point in full
            if (point.model, point.protocol) == (model, protocol) and point.data in ("", data)
        ]
        for model, protocol, data in keys
    }


def is_curve(curve: list[Point]) -> bool:
    """Whether a curve has several numbers of pretraining images, and isn't a single point."""
    return sum(point.images > 0 for point in curve) > 1
