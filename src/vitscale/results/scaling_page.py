"""The page on the scaling curve: its picture, its figures, and what they show and don't show."""

from vitscale.base.entries import Published
from vitscale.results.drawn import BLUE, CONFIG, GRAY, GREEN, PURPLE, VERMILLION
from vitscale.results.scaling import Point, curves_of, slope
from vitscale.results.scaling_findings import findings

COLORS = [BLUE, VERMILLION, GREEN, PURPLE]
SHAPES = ["circle", "square", "triangle-up", "diamond"]


def table(found: list[Point]) -> dict:
    """Return the curve as metrics keep it: each curve's slope, and each point's figures."""
    slopes = {" ".join(key): fit[0] for key, curve in curves_of(found).items() if (fit := slope(curve))}
    heads = (
        "model",
        "protocol",
        "pretrained_on",
        "images",
        "target_images",
        "seeds",
        "accuracy",
        "ci95_low",
        "ci95_high",
    )
    lines = [
        (
            point.model,
            point.protocol,
            point.data,
            point.images,
            point.target_images,
            len(point.correct),
            point.accuracy,
            *point.interval,
        )
        for point in found
    ]
    return {"slopes": slopes, "points": [dict(zip(heads, line, strict=True)) for line in lines]}


def page(found: list[Point], published: dict[str, Published], target: str) -> str:
    """Return the Markdown page: figures, what they show, and what they don't."""
    heads = [
        "model",
        "protocol",
        "pretrained on",
        "pretraining images",
        f"{target} images",
        "accuracy",
        "95% interval",
        "over",
    ]
    lines = [
        f"# Accuracy on {target} by pretraining images",
        "",
        "![Accuracy by pretraining images](scaling.svg)",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    lines += [
        f"| {point.model} | {point.protocol} | {point.data or '—'} | {point.images:,} | "
        f"{point.target_images:,} | {point.accuracy:.2%} | "
        f"{point.interval[0]:.2%} to {point.interval[1]:.2%} | {point.covers} |"
        for point in found
    ]
    lines += [
        "",
        "Accuracy is the mean over trainings on the test images; the best epoch was chosen on validation "
        "images. The variance of trainings is pooled over a model's points of one protocol and number "
        f"of {target} images.",
        "",
        "## What the curve shows",
        "",
        *(f"- {sentence}" for sentence in findings(found)),
        "",
        "## What it doesn't show",
        "",
    ]
    measured = [point.images for point in found if point.images]
    if measured:
        lines.append(
            f"- Anything outside {min(measured):,} to {max(measured):,} pretraining images, or other data, "
            "sizes of the models and longer trainings."
        )
    lines.append(
        "- Points at their best: a model had one recipe and the same number of steps at every number of "
        "pretraining images, which may suit few images less than many. An untrained start had no pretraining "
        "steps, so it had less training and not only less data."
    )
    if published:
        names = ", ".join(f"{name} {entry.accuracy:.2%}" for name, entry in published.items())
        lines.append(
            f"- The published points ({names}): a course project's, of other models, image sizes and "
            "schedules, with the epoch chosen on test images. They are drawn for scale and enter no figure "
            "here."
        )
    return "\n".join(lines) + "\n"


def drawing(found: list[Point], published: dict[str, Published], target: str) -> dict:
    """Return the Vega-Lite picture.

    Accuracy by pretraining images, and beside it by target images from the largest start.
    """
    counts = sorted(
        {point.images for point in found if point.images} | {entry.images for entry in published.values()}
    )
    none = counts[0] / 3  # a log axis has no 0
    curves = [
        figures(point) | {"curve": " ".join(key), "images": point.images or none}
        for key, curve in curves_of(found).items()
        for point in curve
    ]
    known = [
        {"name": name, "images": entry.images, "accuracy": entry.accuracy}
        for name, entry in published.items()
    ]
    labels = f"datum.value < {counts[0]} ? 'none' : format(datum.value, ',')"
    models = sorted({point.model for point in found}, reverse=True)  # vit is blue, as in accuracy.svg
    first = panel(
        curves, models, "pretraining images", f"{target} test accuracy", [none, *counts], labels, 480
    )
    side = f"datum.images < {counts[-1]} ? 1 : -1"  # a name must not leave the picture
    first["layer"] += [
        {
            "data": {"values": known},
            "mark": mark,
            "encoding": {
                "color": {"value": GRAY},
                "x": {"field": "images", "type": "quantitative"},
                "y": {"field": "accuracy", "type": "quantitative"},
                **text,
            },
        }
        for mark, text in (
            ({"type": "point", "shape": "diamond"}, {}),
            (
                {
                    "type": "text",
                    "align": {"expr": f"({side}) > 0 ? 'left' : 'right'"},
                    "dx": {"expr": f"8 * ({side})"},
                    "fontSize": 10,
                },
                {"text": {"field": "name"}},
            ),
        )
    ]
    panels, largest = [first], max(point.images for point in found)
    second = [
        figures(point)
        | {"curve": f"{point.model} {point.protocol} {point.data}", "images": point.target_images}
        for point in found
        if point.images == largest
    ]
    ticks = sorted({value["images"] for value in second})
    if len(ticks) > 1:
        panels.append(
            panel(
                second,
                models,
                f"{target} images, after pretraining on {largest:,}",
                None,
                ticks,
                "format(datum.value, ',')",
                260,
            )
        )
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "config": CONFIG,
        "hconcat": panels,
        "resolve": {"scale": {"y": "shared"}},
        "title": f"Accuracy on {target}, with 95% intervals; diamonds: a course project's figures",
    }


def figures(point: Point) -> dict:
    """Return a point as the drawing takes it."""
    low, high = point.interval
    return {
        "model": point.model,
        "protocol": point.protocol,
        "accuracy": point.accuracy,
        "low": low,
        "high": high,
    }


def panel(
    values: list[dict],
    models: list[str],
    x_title: str,
    y_title: str | None,
    ticks: list[float],
    labels: str,
    width: int,
) -> dict:
    """Return the Vega-Lite layers of curves with intervals over a log axis of images.

    Models differ in colour and shape, protocols in the dash of the line, and each has its legend.
    """
    x = {
        "field": "images",
        "type": "quantitative",
        "title": x_title,
        "scale": {"type": "log", "domain": [ticks[0] / 1.3, ticks[-1] * 1.5]},
        "axis": {"grid": False, "values": ticks, "labelExpr": labels, "labelOverlap": True},
    }
    y = {
        "field": "accuracy",
        "type": "quantitative",
        "title": y_title,
        "scale": {"zero": False},
        "axis": {"format": "%"},
    }
    color, shape = (
        {"field": "model", "type": "nominal", "scale": {"domain": models, "range": looks}}
        for looks in (COLORS, SHAPES)
    )
    dash = {
        "field": "protocol",
        "type": "nominal",
        "scale": {"domain": ["full", "linear_probe"], "range": [[1, 0], [5, 4]]},
        "legend": {
            "symbolType": "stroke",
            "symbolStrokeColor": GRAY,
            "symbolStrokeWidth": 2,
            "symbolSize": 400,
        },
    }
    return {
        "width": width,
        "height": 360,
        "data": {"values": values},
        "encoding": {"x": x, "color": color},
        "layer": [
            {"mark": "line", "encoding": {"y": y, "strokeDash": dash, "detail": {"field": "curve"}}},
            {
                "mark": {"type": "point", "filled": True, "opacity": 1},
                "encoding": {"y": y, "shape": shape},
            },
            {
                "mark": "rule",
                "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
            },
        ],
    }
