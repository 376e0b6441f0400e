"""The scaling curve: how a model's accuracy on the target grows with the images that it was pretrained on.

Rows that differ only in their seeds are one point; the points of one model, protocol and pretraining set are a line.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from vitscale.files import UserError
from vitscale.metrics import Z95
from vitscale.summary import read_table

NOTHING = "—"  # where a pretraining set's name stands: nothing was pretrained on


@dataclass(frozen=True)
class Line:
    """What the points of one curve have in common."""

    model: str
    protocol: str


@dataclass
class Point:
    """Rows that differ in their seeds alone: how many images they were pretrained and fine-tuned on, and how well they did.

    `correct` (seeds, test images) says which images each got right. `over_seeds` is half the 95% interval of the mean over
    other seeds alone; `half` that over other test images too, the two added as independent.
    """

    line: Line
    data: str
    images: int
    target_images: int
    rows: list[str]
    correct: np.ndarray
    over_seeds: float = 0.0

    @property
    def accuracies(self) -> np.ndarray:
        return self.correct.mean(1)

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def half(self) -> float:
        return math.hypot(over_images(self.correct.mean(0)), self.over_seeds)


def over_images(values: np.ndarray) -> float:
    """Return half the 95% interval of the mean of a value a test image, over other test images."""
    return float(Z95 * values.std() / math.sqrt(len(values)))


def model_names(models: dict) -> dict[str, str]:
    """Return, for each entry of `models`, the name of the first one that differs from it in nothing but the seed."""
    first: dict[str, str] = {}
    plain = {name: json.dumps({key: value for key, value in entry.items() if key != "seed"}, sort_keys=True)
             for name, entry in models.items()}
    return {name: first.setdefault(content, name) for name, content in plain.items()}


def training_images(folder: Path) -> int:
    """Return how many images a model was trained on, 0 for untrained weights."""
    path = folder / "training.json"
    return json.loads(path.read_text())["train_images"] if path.exists() else 0


def points(params: dict, starts: Path, predictions: Path, scores: Path) -> list[Point]:
    """Return the points of all rows whose start is one of ours, from the folders of starts, predictions and metrics.

    `params` has `models`, `pretrain` and `rows`. Raises UserError where a row's test images aren't those of the others.
    """
    names = model_names(params["models"])
    of_start = {f"{model}-scratch": (names[model], NOTHING) for model in params["models"]} | {
        start: (names[entry["model"]], entry["data"]) for start, entry in params["pretrain"].items()}
    groups, asked = defaultdict(list), None
    for row, entry in params["rows"].items():
        if entry["start"] not in of_start:
            continue  # weights that others trained
        model, data = of_start[entry["start"]]
        table = read_table(predictions / f"{row}.csv")
        actual = [line["actual"] for line in table]
        asked = asked or actual
        if actual != asked:
            raise UserError(f"{row} was scored on other test images than the rows before it; run `dvc repro`")
        key = (Line(model, entry["protocol"]), data, training_images(starts / entry["start"]),
               json.loads((scores / f"{row}.json").read_text())["train_images"])
        groups[key].append((row, np.array([line["actual"] == line["predicted"] for line in table])))
    found = [Point(*key, [row for row, _ in group], np.stack([correct for _, correct in group])) for key, group in groups.items()]
    pool_seeds(found)
    return sorted(found, key=lambda point: (point.line.model, point.line.protocol, point.target_images, point.images))


def pool_seeds(found: list[Point]) -> None:
    """Set each point's `over_seeds`, from the variance over seeds at all points of its line, since a few seeds say little.

    A point with one seed shares in it; of a line without any repetition nothing is known, and only test images count.
    """
    squares, freedom = defaultdict(float), defaultdict(int)
    for point in found:
        squares[point.line] += float(((point.accuracies - point.accuracy) ** 2).sum())
        freedom[point.line] += len(point.rows) - 1
    for point in found:
        if free := freedom[point.line]:
            point.over_seeds = float(stats.t.ppf(0.975, free)) * math.sqrt(squares[point.line] / free / len(point.rows))


@dataclass(frozen=True)
class Slope:
    """d log(error) / d log(pretraining images), with its 95% interval."""

    value: float
    low: float
    high: float


def slope(curve: list[Point]) -> Slope | None:
    """Return the slope of error against pretraining images in log-log, by least squares over all seeds' rows.

    None where fewer than three numbers of images stand on the line, or an error is 0.
    """
    pairs = [(point.images, 1 - accuracy) for point in curve if point.images for accuracy in point.accuracies]
    if len({images for images, _ in pairs}) < 3 or min(error for _, error in pairs) <= 0:
        return None
    fit = stats.linregress(*np.log(np.array(pairs)).T)
    half = float(stats.t.ppf(0.975, len(pairs) - 2)) * fit.stderr
    return Slope(float(fit.slope), float(fit.slope - half), float(fit.slope + half))


def curves_of(found: list[Point]) -> dict[tuple[Line, str], list[Point]]:
    """Return the points at the most target images by line and pretraining set, each with the untrained start's point first."""
    most = max(point.target_images for point in found)
    full = [point for point in found if point.target_images == most]
    sets = {(point.line, point.data) for point in full if point.data != NOTHING}
    return {(line, data): [point for point in full if point.line == line and point.data in (NOTHING, data)]
            for line, data in sorted(sets, key=lambda each: (each[0].model, each[0].protocol, each[1]))}


def compared(first: Point, second: Point) -> tuple[float, float]:
    """Return how much more accurate the first point is, and half the 95% interval, paired over the same test images."""
    each = first.correct.mean(0) - second.correct.mean(0)
    return float(each.mean()), math.hypot(over_images(each), first.over_seeds, second.over_seeds)


def findings(found: list[Point]) -> list[str]:
    """Return sentences on what the curves show, and on what they don't; each is decided by the figures."""
    curves, said = curves_of(found), []
    for (line, data), curve in curves.items():
        name, fit = f"{line.model}, {line.protocol}, {data}", slope(curve)
        if fit is None:
            said.append(f"{name}: three numbers of pretraining images or more would give a slope.")
        else:
            kind = ("falls as pretraining images are added" if fit.high < 0 else
                    "rises as pretraining images are added" if fit.low > 0 else "neither clearly falls nor rises with pretraining images")
            said.append(f"{name}: the error {kind}; its slope in log-log is {fit.value:.3f} ({fit.low:.3f} to {fit.high:.3f}).")
        nothing = next((point for point in curve if not point.images), None)
        if nothing and len(curve) > 1:
            gain, half = compared(curve[-1], nothing)
            said.append(f"{name}: pretraining on all {curve[-1].images:,} images {verdict(gain, half)} against none "
                        f"({gain:+.2%} ± {half:.2%}).")
    pairs = [(one, other, data) for one, data in curves for other, also in curves
             if data == also and one.protocol == other.protocol and one.model < other.model]
    for one, other, data in pairs:
        said += crossing(curves[one, data], curves[other, data], f"{one.protocol}, {data}")
    return said


def verdict(gain: float, half: float) -> str:
    if abs(gain) <= half:
        return "makes no difference beyond the interval"
    return "gains" if gain > 0 else "loses"


def crossing(first: list[Point], second: list[Point], name: str) -> list[str]:
    """Return which of two models is ahead at each number of pretraining images that both have, and whether that turns."""
    at = {point.images: point for point in second}
    ahead = {}
    for point in first:
        if point.images in at:
            gain, half = compared(point, at[point.images])
            ahead[point.images] = None if abs(gain) <= half else (first if gain > 0 else second)[0].line.model
    if not ahead:
        return []
    text = "; ".join(f"{images:,}: {model or 'neither'}" for images, model in ahead.items())
    turns = [model for model in ahead.values() if model]
    if len(set(turns)) > 1:
        end = "the lead changes within what was measured."
    elif turns:
        end = f"{turns[0]} is never behind, so no line overtakes the other within what was measured."
    else:
        end = "the two can't be told apart."
    return [f"{name}, ahead beyond the interval at so many pretraining images: {text}. So {end}"]


def table(found: list[Point]) -> list[list]:
    """Return (model, protocol, pretrained_on, images, target_images, seeds, accuracy, ci95_low, ci95_high) of every point."""
    return [[point.line.model, point.line.protocol, "" if point.data == NOTHING else point.data, point.images, point.target_images,
             len(point.rows), point.accuracy, point.accuracy - point.half, point.accuracy + point.half] for point in found]


def page(found: list[Point], published: dict, target: str) -> str:
    """Return the Markdown page: figures, what they show, and what they don't."""
    heads = ["model", "protocol", "pretrained on", "pretraining images", f"{target} images", "seeds", "accuracy", "95% interval"]
    lines = [f"# Accuracy on {target} by pretraining images", "", "![Accuracy by pretraining images](scaling.svg)", "",
             f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {point.line.model} | {point.line.protocol} | {point.data} | {point.images:,} | {point.target_images:,} | "
              f"{len(point.rows)} | {point.accuracy:.2%} | ± {point.half:.2%} |" for point in found]
    lines += ["", "Accuracy is the mean over seeds on the test images; the best epoch was chosen on validation images. The interval is over "
              "seeds (their variance pooled over a model and protocol) and over test images.", "",
              "## What the curve shows", "", *(f"- {sentence}" for sentence in findings(found)), "",
              "## What it doesn't show", ""]
    measured = [point.images for point in found if point.images]
    if measured:
        lines.append(f"- Anything outside {min(measured):,} to {max(measured):,} pretraining images, or other data, sizes of the models "
                     "and longer trainings.")
    lines.append("- Every point at its best: all had the same number of steps and their model's one recipe, which may suit few images "
                 "less than many.")
    if published:
        names = ", ".join(f"{name} {entry['accuracy']:.2%}" for name, entry in published.items())
        lines.append(f"- The published points ({names}): a course project's, of other models, image sizes and schedules, with the epoch "
                     "chosen on test images. They are drawn for scale and enter no figure here.")
    return "\n".join(lines) + "\n"


def drawing(found: list[Point], published: dict, target: str) -> dict:
    """Return the Vega-Lite picture: accuracy by pretraining images, and beside it by target images from the largest start."""
    counts = sorted({point.images for point in found if point.images} | {entry["images"] for entry in published.values()})
    none = counts[0] / 3  # a log axis has no 0
    curves = [{"line": f"{line.model} {line.protocol} {data}", "images": point.images or none, **figures(point)}
              for (line, data), curve in curves_of(found).items() for point in curve]
    known = [{"name": name, "images": entry["images"], "accuracy": entry["accuracy"]} for name, entry in published.items()]
    largest = max(point.images for point in found)
    second = [{"line": f"{point.line.model} {point.line.protocol} {point.data}", "images": point.target_images, **figures(point)}
              for point in found if point.images == largest]
    labels = f"datum.value < {counts[0]} ? 'none' : format(datum.value, ',')"
    first_panel = panel(curves, "pretraining images", f"{target} test accuracy", [none, *counts], labels, 560)
    first_panel["layer"] += [
        {"data": {"values": known}, "mark": mark | {"color": "#555555"},
         "encoding": {"x": {"field": "images", "type": "quantitative"}, "y": {"field": "accuracy", "type": "quantitative"}, **text}}
        for mark, text in (({"type": "point", "shape": "diamond"}, {}),
                           ({"type": "text", "align": "right", "dx": -8, "fontSize": 9}, {"text": {"field": "name"}}))]
    panels = [first_panel]
    target_counts = sorted({value["images"] for value in second})
    if len(target_counts) > 1:
        panels.append(panel(second, f"{target} images, after pretraining on {largest:,}", None, target_counts, "format(datum.value, ',')", 260))
    return {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "background": "white", "hconcat": panels,
            "resolve": {"scale": {"y": "shared"}},
            "title": f"Accuracy on {target}, with 95% intervals over seeds and test images; diamonds: a course project's figures"}


def figures(point: Point) -> dict:
    return {"model": point.line.model, "protocol": point.line.protocol, "accuracy": point.accuracy,
            "low": point.accuracy - point.half, "high": point.accuracy + point.half}


def panel(values: list[dict], x_title: str, y_title: str | None, ticks: list[float], labels: str, width: int) -> dict:
    """Return lines with intervals over a log axis of images."""
    x = {"field": "images", "type": "quantitative", "title": x_title, "scale": {"type": "log", "domain": [ticks[0] / 1.3, ticks[-1] * 1.5]},
         "axis": {"grid": False, "values": ticks, "labelExpr": labels, "labelOverlap": True}}
    y = {"field": "accuracy", "type": "quantitative", "title": y_title, "scale": {"zero": False}, "axis": {"format": "%"}}
    color = {"field": "model", "type": "nominal"}
    dash = {"field": "protocol", "type": "nominal", "scale": {"domain": ["full", "linear_probe"], "range": [[1, 0], [5, 4]]}}
    return {"width": width, "height": 360, "data": {"values": values}, "layer": [
        {"mark": {"type": "line", "point": True},
         "encoding": {"x": x, "y": y, "color": color, "strokeDash": dash, "detail": {"field": "line"}}},
        {"mark": "rule", "encoding": {"x": x, "y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}, "color": color}}]}
