"""The report's other parts: the stages that reran, confusion matrices, training curves."""

from vitscale.base.endings import require_drawing
from vitscale.commands.markdown import code, plain
from vitscale.commands.report_accuracies import images_of
from vitscale.commands.revision import Counts, Revision

LARGEST_MATRIX = 20  # classes, or lines of a list; above, it is no longer read


def reruns(base: Revision, head: Revision) -> list[str]:
    """Return a line for each stage whose entry in dvc.lock changed.

    Why it ran, and whether its outputs differ.
    """
    lines = []
    for stage in [*head.stages, *(stage for stage in base.stages if stage not in head.stages)]:
        old, new = base.stages.get(stage), head.stages.get(stage)
        if old == new or stage == "check":  # it reruns with each change of params.yaml, and changes nothing
            continue
        if not old or not new:
            lines.append(f"| {plain(stage)} | {'new stage' if new else 'stage gone'} | |")
            continue
        old_params, new_params = (
            {key: value for keys in side.get("params", {}).values() for key, value in keys.items()}
            for side in (old, new)
        )
        old_deps, new_deps, old_outs, new_outs = (
            {each["path"]: each.get("md5") for each in side.get(kind, [])}
            for kind in ("deps", "outs")
            for side in (old, new)
        )
        causes = ["command"] if old.get("cmd") != new.get("cmd") else []
        causes += differing(old_params, new_params)
        causes += [path.removeprefix("../../").removeprefix("./") for path in differing(old_deps, new_deps)]
        same = "the same" if old_outs == new_outs else "changed"
        lines.append(f"| {plain(stage)} | {', '.join(map(code, causes)) or 'run again'} | {same} |")
    return ["| stage | because of | outputs |", "|---|---|---|", *lines] if lines else ["None."]


def differing(old: dict, new: dict) -> list:
    """Return the keys that only one has, or that have another value in the other."""
    return [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]


def confusions(matrices: dict[str, tuple[Counts, Counts]]) -> list[str]:
    """Return the confusion matrix after the change, with the difference, of every row where it changed."""
    lines = []
    for row, (before, after) in matrices.items():
        if not before or not after or before == after:
            continue
        lines += [f"### {plain(row)}", ""]
        classes = list(images_of(after))
        if images_of(before) != images_of(after):
            lines += ["Scored on other test images than before."]
        elif len(classes) > LARGEST_MATRIX:
            changed = sorted(after, key=lambda pair: -abs(after[pair] - before[pair]))[:LARGEST_MATRIX]
            lines += [
                "| actual | predicted | images |",
                "|---|---|---|",
                *(f"| {plain(a)} | {plain(p)} | {_cell(before[a, p], after[a, p])} |" for a, p in changed),
            ]
        else:
            lines += [
                f"| actual \\ predicted | {' | '.join(map(plain, classes))} |",
                "|---" * (len(classes) + 1) + "|",
                *(
                    f"| **{plain(a)}** | {' | '.join(_cell(before[a, p], after[a, p]) for p in classes)} |"
                    for a in classes
                ),
            ]
        lines += [""]
    return (
        ["Test images, and in brackets how many more than before:", "", *lines[:-1]] if lines else ["None."]
    )


def _cell(before: int, after: int) -> str:
    return f"{after} ({after - before:+d})" if after != before else str(after)


def picture(base: Revision, head: Revision) -> bytes | None:
    """Return the training curves that changed, before and after, as a PNG; None where none did."""
    import vl_convert  # takes a while to start

    require_drawing()

    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for side, when in ((base, "before"), (head, "after")):
        kinds = {"stage": str, "entry": str, "epoch": int, "validation_accuracy": float}
        for line in side.table("metrics/curves.csv", **kinds) or []:
            runs = curves.setdefault(f"{line['stage']} {line['entry']}", {"before": [], "after": []})
            runs[when].append((line["epoch"], line["validation_accuracy"]))
    changed = {name: runs for name, runs in curves.items() if runs["before"] != runs["after"]}
    if not changed:
        return None
    values = [
        {"training": name, "when": when, "epoch": epoch, "accuracy": accuracy}
        for name, runs in changed.items()
        for when, points in runs.items()
        for epoch, accuracy in points
    ]
    columns = min(2, len(changed))
    return vl_convert.vegalite_to_png(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "background": "white",
            "data": {"values": values},
            "title": {
                "text": f"Validation accuracy: {base.label} against {head.label}",
                "fontSize": 15,
                "anchor": "start",
            },
            "facet": {
                "field": "training",
                "title": None,
                "sort": list(changed),
                "header": {"labelFontSize": 13},
            },
            "columns": columns,
            "resolve": {"scale": {"x": "independent", "y": "independent"}},
            "spec": {
                "width": 640 // columns,
                "height": 200,
                "mark": {"type": "line", "point": True},
                "encoding": {
                    "x": {
                        "field": "epoch",
                        "type": "quantitative",
                        "title": "epoch",
                        "axis": {"labelExpr": "datum.value == floor(datum.value) ? datum.label : ''"},
                    },
                    "y": {
                        "field": "accuracy",
                        "type": "quantitative",
                        "axis": {"format": "%"},
                        "scale": {"zero": False},
                        "title": "validation accuracy",
                    },
                    "color": {
                        "field": "when",
                        "sort": ["before", "after"],
                        "title": None,
                        "scale": {"domain": ["before", "after"], "range": ["#999999", "#d95f02"]},
                        "legend": {"orient": "top", "symbolType": "stroke", "symbolSize": 400},
                    },
                    "strokeDash": {
                        "field": "when",
                        "sort": ["before", "after"],
                        "legend": None,
                        "scale": {"domain": ["before", "after"], "range": [[4, 3], [1, 0]]},
                    },
                },
            },
            "config": {"axis": {"labelFontSize": 12, "titleFontSize": 12}, "legend": {"labelFontSize": 13}},
        },
        scale=1.5,
    )
