"""The report's table of accuracies: before, after, and whether the difference is beyond its interval."""

import math

import numpy as np

from vitscale.base.errors import UserError
from vitscale.commands.revision import Counts, Revision
from vitscale.results.metrics import half_width, paired_difference


def interval(
    row: str, base: Revision, head: Revision, before: Counts, after: Counts
) -> tuple[float, float, str] | None:
    """Return a row's gain in accuracy, half of its 95% interval and how that was had.

    None where nothing can be compared.

    Paired where both revisions have the row's predictions. Else of two independent samples (Agresti 2013,
    section 3.1.3), which is too wide for rows that were scored on the same images and so never claims too
    much.
    """
    if not before or not after or images_of(before) != images_of(after):
        return None
    first, second = base.hits(row), head.hits(row)
    if first and second and first[0] == second[0]:
        return *paired_difference(second[1], first[1]), "paired"
    half = math.hypot(half_width(right(before)), half_width(right(after)))
    return float(right(after).mean() - right(before).mean()), half, "unpaired"


def right(counts: dict[tuple[str, str], int]) -> np.ndarray:
    """Return a truth value for each test image: whether it was classified rightly."""
    correct = sum(count for (actual, predicted), count in counts.items() if actual == predicted)
    return np.arange(sum(counts.values())) < correct


def images_of(counts: dict[tuple[str, str], int]) -> dict[str, int]:
    """Return how many test images each class has."""
    images: dict[str, int] = {}
    for (actual, _), count in counts.items():
        images[actual] = images.get(actual, 0) + count
    return images


def accuracies(base: Revision, head: Revision, matrices: dict[str, tuple[Counts, Counts]]) -> list[str]:
    """Return the table of accuracies, a row of the study a line.

    `matrices` has those whose metrics changed.
    """
    before, after = (
        {line["row"]: float(line["accuracy"]) for line in side.table("metrics/accuracy.csv") or []}
        for side in (base, head)
    )
    if not before and not after:
        raise UserError(
            f"neither {base.label} nor {head.label} has a metrics/accuracy.csv; run `dvc repro` and commit "
            "its metrics"
        )
    lines = [
        f"| row | {base.label} | {head.label} | difference | 95% interval | beyond it |",
        "|---|---|---|---|---|---|",
    ]
    ways = set()
    for row in [*after, *(row for row in before if row not in after)]:
        old, new = (f"{side[row]:.2%}" if row in side else "—" for side in (before, after))
        if row not in before or row not in after:
            lines.append(f"| {row} | {old} | {new} | {'new row' if row in after else 'row gone'} | | |")
            continue
        if row not in matrices:
            lines.append(f"| {row} | {old} | {new} | unchanged | | |")
            continue
        found = interval(row, base, head, *matrices[row])
        if found is None:
            lines.append(
                f"| {row} | {old} | {new} | {after[row] - before[row]:+.2%} | other test images "
                "| can't be told |"
            )
            continue
        gain, half, way = found
        ways.add(way)
        lines.append(
            f"| {row} | {old} | {new} | {gain:+.2%} | ± {half:.2%}, {way} "
            f"| {'**yes**' if abs(gain) > half else 'no'} |"
        )
    if "paired" in ways:
        lines += [
            "",
            "*paired*: the interval of the difference on the same test images, from both revisions' "
            "predictions.",
        ]
    if "unpaired" in ways:
        lines += [
            "",
            "*unpaired*: one side has no predictions of the same test images, so the interval is that of "
            "two independent samples: wider, on the safe side.",
        ]
    return lines
