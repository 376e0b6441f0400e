"""The page on the scaling curve: its figures, and what they show and don't show."""

from vitscale.base.entries import Published
from vitscale.results.scaling import Point, curves_of, slope
from vitscale.results.scaling_findings import findings


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
        f"| {point.model} | {point.protocol} | {point.data or '—'}{', by others' if point.others else ''} | "
        f"{point.images:,} | "
        f"{point.target_images:,} | {point.accuracy:.2%} | "
        f"{point.interval[0]:.2%} to {point.interval[1]:.2%} | {point.covers} |"
        for point in found
    ]
    lines += [
        "",
        "Accuracy is the mean over trainings on the test images; the best epoch was chosen on validation "
        "images. The variance of trainings is pooled over a model's rows of one protocol and number "
        f"of {target} images, those that are no point too.",
        "",
        "## What the curve shows",
        "",
        *(f"- {sentence}" for sentence in findings(found)),
        "",
        "## What it doesn't show",
        "",
    ]
    lines += _limits(found)
    if published:
        names = ", ".join(f"{name} {entry.accuracy:.2%}" for name, entry in published.items())
        lines.append(
            f"- The published points ({names}): a course project's, of other models, image sizes and "
            "schedules, with the epoch chosen on test images. They are drawn for scale and enter no figure "
            "here."
        )
    return "\n".join(lines) + "\n"


def _limits(found: list[Point]) -> list[str]:
    """Return what the curves leave open, as lines of a list."""
    ours = [point for point in found if not point.others]
    images: dict[str, set[int]] = {}
    for point in ours:
        if point.images:
            images.setdefault(point.data, set()).add(point.images)
    lines = []
    if images:
        measured = [
            f"{min(counts):,}{f' to {max(counts):,}' if len(counts) > 1 else ''} images of {data}"
            for data, counts in images.items()
        ]
        lines.append(
            f"- Anything outside {' and '.join(measured)}, or other data, sizes of the models and longer "
            "trainings."
        )
    if len(images) > 1:
        lines.append(
            f"- Whether {' and '.join(images)} differ by their numbers of images or by the images and "
            "classes: both change at once, so no slope goes from one to the other."
        )
    steps = {
        model: sorted({point.steps for point in ours if point.model == model and point.steps})
        for model in dict.fromkeys(point.model for point in ours)
    }
    listed = "; ".join(
        f"{model} {' or '.join(f'{count:,}' for count in counts)}"
        for model, counts in steps.items()
        if counts
    )
    same = "the same number of steps" if all(len(counts) < 2 for counts in steps.values()) else "other steps"
    lines.append(
        f"- Points at their best: a model had one recipe and {same} at every number of pretraining "
        f"images{f' ({listed})' if listed else ''}, which may suit few images less than many. An untrained "
        "start on a curve had no pretraining steps, so it had less training and not only less data."
    )
    if others := dict.fromkeys((point.model, point.others, point.data) for point in found if point.others):
        names = ", ".join(f"{model} ({name}, pretrained on {data})" for model, name, data in others)
        lines.append(
            f"- Weights that others trained as a part of the curves: {names} is another model after another "
            "pretraining, of other length and perhaps at another image size. It is drawn for scale, on no "
            "curve, and no sentence above compares it."
        )
    return lines
