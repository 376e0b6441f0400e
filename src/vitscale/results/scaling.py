"""The scaling curve: how a model's accuracy on the target grows with the images that it was pretrained on.

Rows that differ only in their seeds are one point; the points of one model, protocol and pretraining set are
a curve.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitscale.base.errors import UserError
from vitscale.data.arrays import load_split, stratified
from vitscale.results.configurations import Configuration, configurations
from vitscale.results.metrics import weighted_sum
from vitscale.results.study import Study


@dataclass(kw_only=True)
class Point(Configuration):
    """A configuration with its data; `data` and `images` are empty and 0 for an untrained start."""

    data: str
    images: int
    target_images: int


def points(study: Study, prepared: Path) -> list[Point]:
    """Return the points of all rows whose start is one of ours; `prepared` is the folder of prepared data.

    Raises UserError where a row's test images aren't those of the others, or rows of one point differ in more
    than their seeds, or not in those.
    """
    labels = {
        data: load_split(prepared / data / "train").labels
        for data in {entry.data for entry in study.pretrain.values()}
    }
    of_start = {f"{model}-scratch": ("", 0) for model in study.models}
    for start, entry in study.pretrain.items():
        of_start[start] = entry.data, len(stratified(labels[entry.data], entry.fraction, entry.seed))
    for row, its in study.rows.items():
        if its.start in of_start and not (study.score(row) and study.training("finetune", row)):
            raise UserError(f"rows.{row} has no figures yet; run `dvc repro`")
    found: dict[tuple, Point] = {}
    for each in configurations(study):
        row = each.rows[0]
        its = study.rows[row]
        if its.start not in of_start:
            continue  # weights that others trained
        data, images = of_start[its.start]
        target_images = (study.training("finetune", row) or {})["train_images"]
        point = Point(**vars(each), data=data, images=images, target_images=target_images)
        key = point.model, its.protocol, data, images, target_images
        if key in found:
            raise UserError(
                f"rows.{row} and rows.{found[key].rows[0]} would be one point of the curve and must differ "
                "in their seeds, and only in those"
            )
        found[key] = point
        if point.test_images != next(iter(found.values())).test_images:
            raise UserError(f"{row} was scored on other test images than the rows before it; run `dvc repro`")
    return sorted(
        found.values(),
        key=lambda point: (point.model, point.protocol, point.target_images, point.data, point.images),
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
