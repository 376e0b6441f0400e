"""The picture of the answer: accuracy by pretraining data, ours with intervals and others' beside them."""

from vitscale.results.configurations import configurations
from vitscale.results.drawn import BLUE, CONFIG, GREEN, VERMILLION
from vitscale.results.study import Study

NOTHING = "nothing"
LOOKS = {  # a kind of point: its colour, shape and filling
    "ViT": (BLUE, "circle", BLUE),
    "hybrid ViT": (GREEN, "triangle-up", GREEN),
    "ResNet-18": (VERMILLION, "square", VERMILLION),
    "ViT, published": (BLUE, "circle", "transparent"),
    "ResNet-18, published": (VERMILLION, "square", "transparent"),
}


def family(row: str, study: Study) -> str:
    """Return whether a row's model is a ViT, with a convolutional stem or without, or a ResNet-18.

    A published row that has none here says so by its name.
    """
    start = study.rows[row].start if row in study.rows else row
    if start in study.weights:
        start = study.weights[start].name
    else:
        model = study.pretrain[start].model if start in study.pretrain else start.removesuffix("-scratch")
        entry = study.models.get(model, {"architecture": start})
        if entry.get("stem_channels"):
            return "hybrid ViT"
        start = entry["architecture"]
    return "ResNet-18" if "resnet" in start.lower() else "ViT"


def points(study: Study) -> list[dict]:
    """Return a point for each configuration that has been run, and for each published figure."""
    data_of = {row: study.pretraining_data(row) or NOTHING for row in study.rows}
    of_images = {known.images: data_of[row] for row, known in study.published.items() if row in study.rows}
    found: list[tuple] = []
    for each in configurations(study):
        row, (low, high) = each.rows[0], each.interval
        ours = {"accuracy": each.accuracy, "low": low, "high": high, "over": each.covers}
        found.append((row, family(row, study), study.rows[row].protocol, data_of[row], ours))
    for row, known in study.published.items():
        data = data_of.get(row) or of_images.get(known.images, f"{known.images:,} images")
        kind = f"{family(row, study)}, published"
        found.append((row, kind, known.protocol, data, {"accuracy": known.accuracy}))
    names = ("row", "kind", "protocol", "data")
    return [dict(zip(names, point, strict=True)) | figures for *point, figures in found]


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
    # Models are told apart by shape too, not by colour alone, and published figures are hollow.
    kinds = [kind for kind in LOOKS if any(point["kind"] == kind for point in found)]
    color, shape, fill = (
        {
            "field": "kind",
            "type": "nominal",
            "title": None,
            "scale": {"domain": kinds, "range": [LOOKS[kind][i] for kind in kinds]},
        }
        for i in range(3)
    )
    rows = {
        "field": "row",
        "type": "nominal",
        "title": None,
        "sort": [point["row"] for point in found],
        "axis": {"labelLimit": 0},
    }
    ends = {"x": {**accuracy, "field": "low"}, "x2": {"field": "high"}}
    header = {
        "labelExpr": "'pretrained on ' + datum.value",
        "labelOrient": "top",
        "labelAnchor": "start",
        "labelPadding": 2,
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "config": CONFIG,
        "title": {
            "text": f"Accuracy on {study.target} by what the model was pretrained on",
            "subtitle": f"bars: 95% intervals; {', or '.join(dict.fromkeys(covered))}",
        },
        "data": {"values": found},
        "facet": {"row": {"field": "data", "sort": order, "title": None, "header": header}},
        "spacing": 12,
        "resolve": {"scale": {"y": "independent"}},
        "spec": {
            "width": 420,
            "height": {"step": 20},
            "encoding": {"y": rows, "color": color},
            "layer": [
                {"mark": {"type": "rule", "strokeWidth": 3}, "encoding": ends},
                {
                    "mark": {"type": "point", "size": 50, "strokeWidth": 2, "opacity": 1},
                    "encoding": {"x": accuracy, "shape": shape, "fill": fill},
                },
            ],
        },
    }
