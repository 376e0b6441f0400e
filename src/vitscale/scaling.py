"""The scaling curve: how a model's accuracy on the target grows with the images that it was pretrained on.

Rows that differ only in their seeds are one point; the points of one model, protocol and pretraining set are a curve.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from vitscale.arrays import load_split, stratified
from vitscale.files import UserError
from vitscale.metrics import Z95, hits
from vitscale.summary import read_metrics

VARIED = ("model", "start", "inputs", "seed")  # what entries of one point may differ in, beside their names


@dataclass
class Point:
    """Rows that differ in their seeds alone: what they were pretrained and fine-tuned on, and which test images they got right.

    `data` and `images` are empty and 0 for an untrained start. `correct` is (seeds, test images). `over_seeds` is half the 95%
    interval of the mean accuracy over other seeds alone; `half` that over other test images too, the two added as independent.
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
        return float(self.correct.mean())

    @property
    def half(self) -> float:
        return math.hypot(over_images(self.correct.mean(0)), self.over_seeds)

    @property
    def interval(self) -> tuple[float, float]:
        return self.accuracy - self.half, self.accuracy + self.half

    @property
    def pool(self) -> tuple[str, str, int]:
        """What points have in common whose variance over seeds is taken to be the same."""
        return self.model, self.protocol, self.target_images


def over_images(values: np.ndarray) -> float:
    """Return half the 95% interval of the mean of a value a test image, over other test images."""
    return float(Z95 * values.std() / math.sqrt(len(values)))


def model_names(models: dict) -> dict[str, str]:
    """Return, for each entry of `models`, the name of the first one that differs from it in nothing but the seed."""
    first: dict[str, str] = {}
    return {name: first.setdefault(json.dumps(common(entry), sort_keys=True), name) for name, entry in models.items()}


def common(entry: dict) -> dict:
    """Return what an entry shares with those that differ from it in their seeds alone."""
    return {name: value for name, value in entry.items() if name not in VARIED}


def points(params: dict, prepared: Path, scores: Path, history: Path) -> list[Point]:
    """Return the points of all rows whose start is one of ours, from the folders of prepared data and of the rows' metrics.

    `params` has `models`, `pretrain` and `rows`. Raises UserError where a row's test images aren't those of the others, or
    rows of one point differ in more than their seeds, or not in those.
    """
    names, pretrain = model_names(params["models"]), params["pretrain"]
    of_start = {f"{model}-scratch": (names[model], "", 0) for model in params["models"]}
    labels = {data: load_split(prepared / data / "train").labels for data in {entry["data"] for entry in pretrain.values()}}
    for start, entry in pretrain.items():
        images = len(stratified(labels[entry["data"]], entry["fraction"], entry["seed"]))
        of_start[start] = names[entry["model"]], entry["data"], images
    groups, alike, asked = defaultdict(list), {}, None
    for row, entry in params["rows"].items():
        if entry["start"] not in of_start:
            continue  # weights that others trained
        figures, training = read_metrics(scores / f"{row}.json"), read_metrics(history / f"finetune/{row}.json")
        asked = asked or figures["test_labels_sha256"]
        if figures["test_labels_sha256"] != asked:
            raise UserError(f"{row} was scored on other test images than the rows before it; run `dvc repro`")
        model, data, images = of_start[entry["start"]]
        key = model, entry["protocol"], data, images, training["train_images"]
        rest = common(entry), common(pretrain.get(entry["start"], {}))
        first, wanted = alike.setdefault(key, (row, rest))
        seeds = [params["rows"][other]["seed"] for other, _ in groups[key]]
        if rest != wanted or entry["seed"] in seeds:
            raise UserError(f"rows.{row} and rows.{first} would be one point of the curve and must differ in their seeds, and only in those")
        groups[key].append((row, hits(figures)))
    found = [Point(*key, [row for row, _ in group], np.stack([correct for _, correct in group])) for key, group in groups.items()]
    pool_seeds(found)
    return sorted(found, key=lambda point: (point.model, point.protocol, point.target_images, point.data, point.images))


def pool_seeds(found: list[Point]) -> None:
    """Set each point's `over_seeds`, from the variance over seeds at all points of its model, protocol and target images.

    A few seeds say little by themselves. A point with one seed shares in it; where no point has two, nothing is known of
    other seeds, and only test images count.
    """
    squares, freedom = defaultdict(float), defaultdict(int)
    for point in found:
        squares[point.pool] += float(((point.correct.mean(1) - point.accuracy) ** 2).sum())
        freedom[point.pool] += len(point.rows) - 1
    for point in found:
        if free := freedom[point.pool]:
            point.over_seeds = float(stats.t.ppf(0.975, free)) * math.sqrt(squares[point.pool] / free / len(point.rows))


def compared(first: Point, second: Point) -> tuple[float, float]:
    """Return how much more accurate the first point is, and half the 95% interval, paired over the same test images."""
    each = first.correct.mean(0) - second.correct.mean(0)
    return float(each.mean()), math.hypot(over_images(each), first.over_seeds, second.over_seeds)


def slope(curve: list[Point]) -> tuple[float, float] | None:
    """Return the slope of log error against log pretraining images, and half its 95% interval over seeds and test images.

    It is that of the least-squares line through the points, a sum of weighted log errors; what an error's draw does to it
    is taken to first order. None where fewer than three numbers of images stand on the curve, or an error is 0.
    """
    curve = [point for point in curve if point.images]
    if len(curve) < 3 or any(point.accuracy == 1 for point in curve):
        return None
    x, errors = np.log([point.images for point in curve]), np.array([1 - point.accuracy for point in curve])
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    each = np.stack([point.correct.mean(0) for point in curve])
    half = math.hypot(over_images(weights / errors @ each), *(weights / errors * [point.over_seeds for point in curve]))
    return float(weights @ np.log(errors)), half


def curves_of(found: list[Point]) -> dict[tuple[str, str, str], list[Point]]:
    """Return the curves by model, protocol and pretraining set, at the most target images, each from the untrained start on."""
    most = max(point.target_images for point in found)
    full = [point for point in found if point.target_images == most]
    keys = sorted({(point.model, point.protocol, point.data) for point in full if point.data})
    return {(model, protocol, data): [point for point in full if (point.model, point.protocol) == (model, protocol) and point.data in ("", data)]
            for model, protocol, data in keys}


def findings(found: list[Point]) -> list[str]:
    """Return sentences on what the curves show; the figures decide each."""
    curves, said = curves_of(found), []
    for (model, protocol, data), curve in curves.items():
        name, fit = f"{model}, {protocol}, {data}", slope(curve)
        if fit:
            value, half = fit
            kind = "neither clearly falls nor rises" if abs(value) <= half else "falls" if value < 0 else "rises"
            said.append(f"{name}: by a straight line in log-log the error {kind} with pretraining images; its slope is {value:.3f} ± {half:.3f}.")
        else:
            said.append(f"{name}: no slope, which takes three numbers of pretraining images and errors above 0.")
        nothing = next((point for point in curve if not point.images), None)
        if nothing and len(curve) > 1:
            gain, half = compared(curve[-1], nothing)
            verdict = "makes no difference beyond the interval" if abs(gain) <= half else "gains" if gain > 0 else "loses"
            said.append(f"{name}: pretraining on {curve[-1].images:,} images {verdict} against an untrained start with the same "
                        f"fine-tuning ({gain:+.2%} ± {half:.2%}).")
    for (model, protocol, data), curve in curves.items():
        said += [crossing(curve, curves[other], f"{protocol}, {data}") for other in curves if other[1:] == (protocol, data) and model < other[0]]
    return said


def crossing(first: list[Point], second: list[Point], name: str) -> str:
    """Return which of two models is ahead at each number of pretraining images that both have, and whether that turns."""
    at, ahead = {point.images: point for point in second}, {}
    for point in first:
        if point.images in at:
            gain, half = compared(point, at[point.images])
            ahead[point.images] = "neither" if abs(gain) <= half else point.model if gain > 0 else at[point.images].model
    leaders = set(ahead.values()) - {"neither"}
    if len(leaders) > 1:
        end = "the lead changes within what was measured"
    elif len(leaders) == 1 and "neither" not in ahead.values():
        end = "neither curve overtakes the other within what was measured"
    else:
        end = "whether one overtakes the other is not settled"
    listed = "; ".join(f"{model} at {images:,}" for images, model in ahead.items()) or "nothing to compare"
    return f"{name}, which of {first[0].model} and {second[0].model} is ahead beyond the interval by pretraining images: {listed}. So {end}."


def table(found: list[Point]) -> dict:
    """Return the curve as metrics keep it: each curve's slope, and each point's figures."""
    slopes = {" ".join(key): fit[0] for key, curve in curves_of(found).items() if (fit := slope(curve))}
    heads = "model", "protocol", "pretrained_on", "images", "target_images", "seeds", "accuracy", "ci95_low", "ci95_high"
    lines = [(point.model, point.protocol, point.data, point.images, point.target_images, len(point.rows), point.accuracy,
              *point.interval) for point in found]
    return {"slopes": slopes, "points": [dict(zip(heads, line, strict=True)) for line in lines]}


def page(found: list[Point], published: dict, target: str) -> str:
    """Return the Markdown page: figures, what they show, and what they don't."""
    heads = ["model", "protocol", "pretrained on", "pretraining images", f"{target} images", "seeds", "accuracy", "95% interval"]
    lines = [f"# Accuracy on {target} by pretraining images", "", "![Accuracy by pretraining images](scaling.svg)", "",
             f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {point.model} | {point.protocol} | {point.data or '—'} | {point.images:,} | {point.target_images:,} | {len(point.rows)} | "
              f"{point.accuracy:.2%} | ± {point.half:.2%}{'' if point.over_seeds else ', test images alone'} |" for point in found]
    lines += ["", "Accuracy is the mean over seeds on the test images; the best epoch was chosen on validation images. Intervals are over seeds, "
              f"whose variance is pooled over a model's points of one protocol and number of {target} images, and over test images.", "",
              "## What the curve shows", "", *(f"- {sentence}" for sentence in findings(found)), "",
              "## What it doesn't show", ""]
    measured = [point.images for point in found if point.images]
    if measured:
        lines.append(f"- Anything outside {min(measured):,} to {max(measured):,} pretraining images, or other data, sizes of the models "
                     "and longer trainings.")
    lines.append("- Points at their best: a model had one recipe and the same number of steps at every number of pretraining images, which may "
                 "suit few images less than many. An untrained start had no pretraining steps, so it had less training and not only less data.")
    if published:
        names = ", ".join(f"{name} {entry['accuracy']:.2%}" for name, entry in published.items())
        lines.append(f"- The published points ({names}): a course project's, of other models, image sizes and schedules, with the epoch "
                     "chosen on test images. They are drawn for scale and enter no figure here.")
    return "\n".join(lines) + "\n"


def drawing(found: list[Point], published: dict, target: str) -> dict:
    """Return the Vega-Lite picture: accuracy by pretraining images, and beside it by target images from the largest start."""
    counts = sorted({point.images for point in found if point.images} | {entry["images"] for entry in published.values()})
    none = counts[0] / 3  # a log axis has no 0
    curves = [figures(point) | {"curve": " ".join(key), "images": point.images or none}
              for key, curve in curves_of(found).items() for point in curve]
    known = [{"name": name, "images": entry["images"], "accuracy": entry["accuracy"]} for name, entry in published.items()]
    labels = f"datum.value < {counts[0]} ? 'none' : format(datum.value, ',')"
    first = panel(curves, "pretraining images", f"{target} test accuracy", [none, *counts], labels, 560)
    first["layer"] += [
        {"data": {"values": known}, "mark": mark | {"color": "#555555"},
         "encoding": {"x": {"field": "images", "type": "quantitative"}, "y": {"field": "accuracy", "type": "quantitative"}, **text}}
        for mark, text in (({"type": "point", "shape": "diamond"}, {}),
                           ({"type": "text", "align": "right", "dx": -8, "fontSize": 9}, {"text": {"field": "name"}}))]
    panels, largest = [first], max(point.images for point in found)
    second = [figures(point) | {"curve": f"{point.model} {point.protocol} {point.data}", "images": point.target_images}
              for point in found if point.images == largest]
    ticks = sorted({value["images"] for value in second})
    if len(ticks) > 1:
        panels.append(panel(second, f"{target} images, after pretraining on {largest:,}", None, ticks, "format(datum.value, ',')", 260))
    return {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "background": "white", "hconcat": panels,
            "resolve": {"scale": {"y": "shared"}},
            "title": f"Accuracy on {target}, with 95% intervals over seeds and test images; diamonds: a course project's figures"}


def figures(point: Point) -> dict:
    low, high = point.interval
    return {"model": point.model, "protocol": point.protocol, "accuracy": point.accuracy, "low": low, "high": high}


def panel(values: list[dict], x_title: str, y_title: str | None, ticks: list[float], labels: str, width: int) -> dict:
    """Return curves with intervals over a log axis of images."""
    x = {"field": "images", "type": "quantitative", "title": x_title, "scale": {"type": "log", "domain": [ticks[0] / 1.3, ticks[-1] * 1.5]},
         "axis": {"grid": False, "values": ticks, "labelExpr": labels, "labelOverlap": True}}
    y = {"field": "accuracy", "type": "quantitative", "title": y_title, "scale": {"zero": False}, "axis": {"format": "%"}}
    color = {"field": "model", "type": "nominal"}
    dash = {"field": "protocol", "type": "nominal", "scale": {"domain": ["full", "linear_probe"], "range": [[1, 0], [5, 4]]}}
    return {"width": width, "height": 360, "data": {"values": values}, "layer": [
        {"mark": {"type": "line", "point": True},
         "encoding": {"x": x, "y": y, "color": color, "strokeDash": dash, "detail": {"field": "curve"}}},
        {"mark": "rule", "encoding": {"x": x, "y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}, "color": color}}]}
