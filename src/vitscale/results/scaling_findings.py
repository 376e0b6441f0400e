"""What the scaling curve shows, in sentences; the figures decide each, and none is said where they can't."""

from vitscale.results.configurations import gain
from vitscale.results.scaling import Point, curves_of, slope

UNKNOWN = "of other trainings nothing is known, so nothing is said"


def known(*points: Point) -> bool:
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
        else:
            said.append(
                f"{name}: no slope, which takes three numbers of pretraining images and errors above 0."
            )
        nothing = next((point for point in curve if not point.images), None)
        if nothing and len(curve) > 1:
            said.append(f"{name}: {_over_nothing(curve[-1], nothing)}")
    for (model, protocol, data), curve in curves.items():
        said += [
            crossing(curve, curves[other], f"{protocol}, {data}")
            for other in curves
            if other[1:] == (protocol, data) and model < other[0]
        ]
    return said


def _slope(value: float, half: float, known_spread: bool) -> str:
    """Say what a curve's slope shows."""
    if not known_spread:
        return f"a slope of {value:.3f} ± {half:.3f} over test images only; {UNKNOWN}."
    kind = "neither clearly falls nor rises" if abs(value) <= half else "falls" if value < 0 else "rises"
    return (
        f"by a straight line in log-log the error {kind} with pretraining images; its slope is {value:.3f} ± "
        f"{half:.3f}."
    )


def _over_nothing(point: Point, nothing: Point) -> str:
    """Say what pretraining gave."""
    value, half = gain(point, nothing)
    if not known(point, nothing):
        return (
            f"after pretraining on {point.images:,} images {value:+.2%} ± {half:.2%} over test images only "
            f"against an untrained start with the same fine-tuning; {UNKNOWN}."
        )
    verdict = (
        "makes no difference beyond the interval" if abs(value) <= half else "gains" if value > 0 else "loses"
    )
    return (
        f"pretraining on {point.images:,} images {verdict} against an untrained start with the same "
        f"fine-tuning ({value:+.2%} ± {half:.2%})."
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
            value, half = gain(point, at[point.images])
            ahead[point.images] = (
                "neither" if abs(value) <= half else point.model if value > 0 else at[point.images].model
            )
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
