"""The picture of the answer: accuracy by pretraining data, ours with intervals and others' beside them."""

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
    """Return a point for each row that has been run, and for each published figure."""
    data_of = {row: study.pretraining_data(row) or NOTHING for row in study.rows}
    of_images = {known.images: data_of[row] for row, known in study.published.items() if row in study.rows}
    found = []
    for row, entry in study.rows.items():
        if figures := study.score(row):
            point = {"row": row, "whose": "ours", "protocol": entry.protocol, "data": data_of[row]}
            ends = {"low": figures["ci95_low"], "high": figures["ci95_high"]}
            found.append(point | {"accuracy": figures["accuracy"], **ends})
    for row, known in study.published.items():
        data = data_of.get(row) or of_images.get(known.images, f"{known.images:,} images")
        point = {"row": row, "whose": "published", "protocol": known.protocol, "data": data}
        found.append(point | {"accuracy": known.accuracy})
    return [point | {"family": family(point["row"], study)} for point in found]


def drawing(study: Study) -> dict:
    """Return the Vega-Lite picture."""
    found = points(study)
    images = {
        point["data"]: study.published[point["row"]].images
        for point in found
        if point["row"] in study.published
    }
    order = sorted(
        {point["data"] for point in found}, key=lambda data: (data != NOTHING, images.get(data, 0), data)
    )
    x = {
        "field": "data",
        "type": "nominal",
        "sort": order,
        "title": "pretrained on",
        "axis": {"labelAngle": 0},
    }
    offset = {"field": "row", "sort": [point["row"] for point in found]}
    color = {"field": "family", "type": "nominal", "title": "model", "sort": ["ViT", "ResNet-18"]}
    symbols = {"domain": ["ours", "published"], "range": ["circle", "diamond"]}
    shape = {"field": "whose", "type": "nominal", "title": "whose", "scale": symbols}
    fill = {
        "condition": {"test": "datum.protocol == 'full'", "field": "family", "type": "nominal"},
        "value": "white",
    }
    y = {"field": "accuracy", "type": "quantitative", "scale": {"zero": False}, "axis": {"format": "%"}}
    where = {"x": x, "xOffset": offset, "color": color}
    title = {
        "text": f"Accuracy on {study.target} by pretraining data",
        "subtitle": "filled: all weights fine-tuned; hollow: linear probe; bars: 95% intervals over images",
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": "white",
        "title": title,
        "width": 640,
        "height": 320,
        "data": {"values": found},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {**where, "y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "size": 90, "strokeWidth": 2},
                "encoding": {
                    **where,
                    "y": {**y, "title": f"{study.target} test accuracy"},
                    "shape": shape,
                    "fill": fill,
                },
            },
        ],
    }
