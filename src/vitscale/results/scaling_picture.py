"""The picture of the scaling curve."""

from vitscale.base.entries import Published
from vitscale.results.drawn import BLUE, CONFIG, GRAY, GREEN, PAPER, PURPLE, VERMILLION
from vitscale.results.scaling import Point, curves_of, is_curve

COLORS = [BLUE, VERMILLION, GREEN, PURPLE]
SHAPES = ["circle", "square", "triangle-up", "diamond"]


def drawing(found: list[Point], published: dict[str, Published], target: str) -> dict:
    """Return the Vega-Lite picture.

    Accuracy by pretraining images, and beside it by target images from the largest start.
    """
    counts = sorted(
        {point.images for point in found if point.images} | {entry.images for entry in published.values()}
    )
    none = counts[0] / 3  # a log axis has no 0
    curves = [
        figures(point)
        | {
            "curve": " ".join(key),
            "data": key[2],
            "images": point.images or none,
            "hollow": not is_curve(curve),
        }
        for key, curve in curves_of(found).items()
        for point in curve
        if point.images or is_curve(curve)
    ]
    others = [
        figures(point) | {"images": point.images, "name": f"{point.protocol}, pretrained by others"}
        for point in found
        if point.others
    ]
    known = [
        {"name": name, "images": entry.images, "accuracy": entry.accuracy}
        for name, entry in published.items()
    ]
    labels = f"datum.value < {counts[0]} ? 'none' : format(datum.value, ',')"
    models = list(dict.fromkeys(point.model for point in found))
    first = panel(
        curves, models, "pretraining images", f"{target} test accuracy", [none, *counts], labels, 480
    )
    if others:
        first["layer"] += [{**layer, "data": {"values": others}} for layer in first["layer"][1:]]
    side = f"datum.images < {counts[-1]} ? 1 : -1"  # a name must not leave the picture
    beside = {
        "type": "text",
        "align": {"expr": f"({side}) > 0 ? 'left' : 'right'"},
        "dx": {"expr": f"({side}) > 0 ? 8 : -8"},
        # Names of published points stand above the curves' points at their right.
        "dy": {"expr": f"({side}) > 0 && !datum.hollow ? -10 : 0"},
        "fontSize": 10,
    }
    first["layer"] += [
        {
            "data": {"values": values},
            "mark": mark,
            "encoding": {
                "color": {"value": GRAY},
                "x": {"field": "images", "type": "quantitative"},
                "y": {"field": "accuracy", "type": "quantitative"},
                **text,
            },
        }
        for values, mark, text in (
            (known, {"type": "point", "shape": "diamond"}, {}),
            (known + others + _tops(curves), beside, {"text": {"field": "name"}}),
        )
    ]
    panels, (data, largest) = [first], _start_of_second(found)
    second = [
        figures(point) | {"curve": f"{point.model} {point.protocol}", "images": point.target_images}
        for point in found
        if (point.data, point.images) == (data, largest)
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
        "title": {
            "text": f"Accuracy on {target}, with 95% intervals; diamonds: a course project's figures",
            "subtitle": _subtitle(curves),
        },
    }


def _tops(values: list[dict]) -> list[dict]:
    """Return the highest hollow point of each protocol and data with its protocol, which no line shows."""
    tops: dict[tuple[str, str], dict] = {}
    for value in sorted(values, key=lambda value: value["accuracy"]):
        if value["hollow"]:
            tops[value["data"], value["protocol"]] = value | {"name": value["protocol"]}
    return list(tops.values())


def _subtitle(values: list[dict]) -> str:
    """Return which data the marks stand for."""
    marks = dict.fromkeys(("hollow" if value["hollow"] else "filled", value["data"]) for value in values)
    return "; ".join(f"{mark}: pretrained on {data}" for mark, data in marks)


def _start_of_second(found: list[Point]) -> tuple[str, int]:
    """Return the data and images of the largest start that was fine-tuned on several numbers of images."""
    tried: dict[tuple[int, str], set[int]] = {}
    for point in found:
        tried.setdefault((point.images, point.data), set()).add(point.target_images)
    images, data = max(tried, key=lambda start: (len(tried[start]) > 1, start))
    return data, images


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

    Models differ in colour and shape, protocols in the dash of the line, and each has its legend. A point
    beside the curves is hollow.
    """
    x = {
        "field": "images",
        "type": "quantitative",
        "title": x_title,
        "scale": {"type": "log", "domain": [ticks[0] / 1.3, ticks[-1] * 1.5]},
        "axis": {"grid": False, "values": ticks, "labelExpr": labels, "labelOverlap": "greedy"},
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
    hollow = {"condition": {"test": "datum.hollow", "value": PAPER}}
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
                "mark": "rule",
                "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "opacity": 1},
                "encoding": {"y": y, "shape": shape, "fill": hollow | color},
            },
        ],
    }
