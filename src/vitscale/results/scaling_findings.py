"""What the scaling curve shows, in sentences; the figures decide each, and none is said where they can't."""

from vitscale.results.configurations import Configuration, gain
from vitscale.results.metrics import weighted_sum
from vitscale.results.scaling import Point, curves_of, is_curve, slope

UNKNOWN = "of other trainings nothing is known, so nothing is said"


def known(*points: Configuration) -> bool:
    """Whether it is known how far the points' trainings lie apart, without which no difference is told."""
    return all(point.spread is not None for point in points)


def findings(found: list[Point]) -> list[str]:
    """Return sentences on what the curves show; the figures decide each."""
    curves = curves_of(found)
    said: list[str] = []
    for (model, protocol, data), curve in curves.items():
        name, fit = f"{model}, {protocol}, {data}", slope(curve)
        if fit:
            said.append(f"{name}: {_slope(*fit, known(*curve))}")
        elif is_curve(curve):
            said.append(
                f"{name}: no slope, which takes three numbers of pretraining images and errors above 0."
            )
        nothing = next((point for point in curve if not point.images), None)
        if nothing and len(curve) > 1:
            said.append(f"{name}: {_over_untrained(curve[-1], nothing, 'with the same fine-tuning')}")
        if longer := curve[-1].longer:
            both = f"fine-tuned for the epochs of both, which gets {longer.accuracy:.2%}"
            said.append(f"{name}: {_over_untrained(curve[-1], longer, both)}")
    no_curves = not any(is_curve(curve) for curve in curves.values())
    for (model, protocol, data), curve in curves.items():
        said += [
            crossing(curve, curves[other], f"{protocol}, {data}")
            for other in curves
            if other[1:] == (protocol, data) and model < other[0]
            if is_curve(curve) or is_curve(curves[other]) or no_curves
        ]
    return said + _other_data(curves)


def _other_data(curves: dict[tuple[str, str, str], list[Point]]) -> list[str]:
    """Return sentences on each set with one number of images, against the most images of the curves."""
    most = {key: curve[-1] for key, curve in curves.items() if is_curve(curve)}
    single = {key: curve[-1] for key, curve in curves.items() if key not in most}
    said = [
        f"{model}, {protocol}: {_over_other_data(point, before)}"
        for (model, protocol, _), point in single.items()
        for key, before in most.items()
        if key[:2] == (model, protocol)
    ]
    return said + [
        f"{protocol}: {_lead((point, second), (most[model, protocol, of], most[other, protocol, of]))}"
        for (model, protocol, data), point in single.items()
        for (other, *rest), second in single.items()
        if rest == [protocol, data] and model < other
        for of in sorted({key[2] for key in most})
        if (model, protocol, of) in most and (other, protocol, of) in most
    ]


def _verdict(value: float, half: float) -> str:
    """Say what a difference with half its interval comes to."""
    if abs(value) <= half:
        return "makes no difference beyond the interval"
    return "gains" if value > 0 else "loses"


def _over_other_data(point: Point, before: Point) -> str:
    """Say what pretraining on other data gave, over the most images of a curve."""
    value, half = gain(point, before)
    steps = f"{point.steps:,} steps each"
    if point.steps != before.steps:
        steps = f"{point.steps:,} steps, not {before.steps:,}"
    where = f"{point.images:,} images of {point.data}"
    over = f"{before.images:,} of {before.data}, in {steps}"
    if not known(point, before):
        return f"after {where} {value:+.2%} ± {half:.2%} over test images only against {over}; {UNKNOWN}."
    return f"pretraining on {where} {_verdict(value, half)} against {over} ({value:+.2%} ± {half:.2%})."


def leader(first: Point, second: Point) -> str:
    """Return the name of the model that is ahead beyond the interval, or `neither`."""
    value, half = gain(first, second)
    return "neither" if abs(value) <= half else first.model if value > 0 else second.model


def _lead(there: tuple[Point, Point], before: tuple[Point, Point]) -> str:
    """Say which of two models is ahead on other data, and whether that is another than on the curves."""
    first, second = there
    models = f"{first.model} and {second.model}"
    where = f"{first.images:,} images of {first.data}"
    if not known(*there, *before):
        return f"which of {models} is ahead after {where}: {UNKNOWN}."
    now, then = leader(*there), leader(*before)
    if now == then == "neither":
        end = "so whether the lead changes is not settled"
    elif now == then:
        end = "so the lead doesn't change"
    else:
        end = (
            "so the lead changes" if "neither" not in (now, then) else "so whether it changes is not settled"
        )
    more, half = weighted_sum([1.0, -1.0, -1.0, 1.0], [*there, *before])
    return (
        f"which of {models} is ahead beyond the interval after {where}: {now}; after "
        f"{before[0].images:,} of {before[0].data}: {then}; {end}. From the one to the other {first.model} "
        f"gains {more:+.2%} ± {half:.2%} on {second.model}."
    )


def _slope(value: float, half: float, known_spread: bool) -> str:
    """Say what a curve's slope shows."""
    if not known_spread:
        return f"a slope of {value:.3f} ± {half:.3f} over test images only; {UNKNOWN}."
    kind = "neither clearly falls nor rises" if abs(value) <= half else "falls" if value < 0 else "rises"
    return (
        f"by a straight line in log-log the error {kind} with pretraining images; its slope is {value:.3f} ± "
        f"{half:.3f}."
    )


def _over_untrained(point: Point, control: Configuration, fine_tuning: str) -> str:
    """Say what pretraining gave."""
    value, half = gain(point, control)
    against = f"against an untrained start {fine_tuning}"
    if not known(point, control):
        return (
            f"after pretraining on {point.images:,} images {value:+.2%} ± {half:.2%} over test images only "
            f"{against}; {UNKNOWN}."
        )
    return (
        f"pretraining on {point.images:,} images {_verdict(value, half)} {against} "
        f"({value:+.2%} ± {half:.2%})."
    )


def crossing(first: list[Point], second: list[Point], name: str) -> str:
    """Return which of two models is ahead at each number of pretraining images, and whether that turns."""
    models = f"{first[0].model} and {second[0].model}"
    if not known(*first, *second):
        return f"{name}, which of {models} is ahead: {UNKNOWN}."
    at = {point.images: point for point in second}
    ahead: dict[int, str] = {}
    for point in first:
        if point.images in at:
            ahead[point.images] = leader(point, at[point.images])
    leaders = set(ahead.values()) - {"neither"}
    if len(leaders) > 1:
        end = "the lead changes within what was measured"
    elif len(leaders) == 1 and "neither" not in ahead.values():
        end = "neither curve overtakes the other within what was measured"
    else:
        end = "whether one overtakes the other is not settled"
    listed = "; ".join(f"{model} at {images:,}" for images, model in ahead.items()) or "nothing to compare"
    return (
        f"{name}, which of {models} is ahead beyond the interval by pretraining images: {listed}. So {end}."
    )
