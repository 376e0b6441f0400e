"""The picture of the answer: accuracy by pretraining data, ours with intervals and others' beside them."""

from vitscale.results.configurations import configurations
from vitscale.results.study import Study

NOTHING = "nothing"


def family(row: str, study: Study) -> str:
    """Return whether a row's model is a ViT or a ResNet-18.

    A published row that has none here says so by its name.
    """
    start = study.rows[row].start if row in study.rows else row
    if start in study.weights:
        start = study.weights[start].name
    else:
        model = study.pretrain[start].model if start in study.pretrain else start.removesuffix("-scratch")
        start = study.models[model]["architecture"] if model in study.models else start
    return "ResNet-18" if "resnet" in start.lower() else "ViT"


def points(study: Study) -> list[dict]:
    """Return a point for each configuration that has been run, and for each published figure."""
    data_of = {row: study.pretraining_data(row) or NOTHING for row in study.rows}
    of_images = {known.images: data_of[row] for row, known in study.published.items() if row in study.rows}
    found: list[dict] = []
    for each in configurations(study):
        row, (low, high) = each.rows[0], each.interval
        point = {"row": row, "whose": "ours", "protocol": study.rows[row].protocol, "data": data_of[row]}
        found.append(point | {"accuracy": each.accuracy, "low": low, "high": high, "over": each.covers})
    for row, known in study.published.items():
        data = data_of.get(row) or of_images.get(known.images, f"{known.images:,} images")
        point = {"row": row, "whose": "published", "protocol": known.protocol, "data": data}
        found.append(point | {"accuracy": known.accuracy})
    return [point | {"family": family(point["row"], study)} for point in found]


def drawing(study: Study) -> dict:
    """Return the Vega-Lite picture: a line a row, in a panel a pretraining set, from nothing to much."""
    found = points(study)
    images = {
        point["data"]: study.published[point["row"]].images
        for point in found
        if point["row"] in study.published
    }
    covered = [point["over"] for point in found if "over" in point]
    order = sorted(
        {point["data"] for point in found}, key=lambda data: (data != NOTHING, images.get(data, 0), data)
    )
    accuracy = {
        "field": "accuracy", "type": "quantitative", "title": f"{study.target} test accuracy",
        "scale": {"zero": False, "padding": 8},
        "axis": {"format": "%", "orient": "bottom"},
    }  # fmt: skip
    colors = {"domain": ["ViT", "ResNet-18"], "range": ["#1f77b4", "#e6550d"]}
    symbols = {"domain": ["ours", "published"], "range": ["circle", "diamond"]}
    where = {
        "y": {"field": "row", "type": "nominal", "title": None, "sort": [point["row"] for point in found]},
        "color": {"field": "family", "type": "nominal", "title": "model", "scale": colors},
    }
    shape = {
        "field": "whose",
        "type": "nominal",
        "title": None,
        "scale": symbols,
        "legend": {"symbolFillColor": "gray"},
    }
    ends = {"x": {**accuracy, "field": "low"}, "x2": {"field": "high"}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": "white",
        "title": {
            "text": f"Accuracy on {study.target} by what the model was pretrained on",
            "subtitle": f"bars: 95% intervals; {', or '.join(dict.fromkeys(covered))}",
            "anchor": "start",
        },
        "data": {"values": found},
        "facet": {
            "row": {
                "field": "data",
                "sort": order,
                "title": None,
                "header": {"labelAngle": 0, "labelAlign": "left"},
            }
        },
        "resolve": {"scale": {"y": "independent"}},
        "spec": {
            "width": 480,
            "height": {"step": 20},
            "layer": [
                {"mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.5}, "encoding": {**where, **ends}},
                {
                    "mark": {"type": "point", "size": 70, "filled": True, "opacity": 1},
                    "encoding": {**where, "x": accuracy, "shape": shape},
                },
            ],
        },
    }
