"""The report's table of accuracies: before, after, and whether the difference is beyond its interval."""

import math

import numpy as np

from vitscale.base.errors import UserError
from vitscale.commands.markdown import plain
from vitscale.commands.revision import Counts, Revision
from vitscale.pipeline.consistency import check
from vitscale.results.configurations import configurations, pool_spreads
from vitscale.results.metrics import Z95, Trained, difference
from vitscale.results.study import Study


def grouped(rows: list[str], head: Revision) -> list[tuple[list[str], tuple]]:
    """Return the rows that are one configuration in `head`, and what it shares its spread with.

    Each row alone where its parameters or figures don't fit together.
    """
    try:
        params = head.yaml("params.yaml")
        check(params)
        found = configurations(Study.read(params.__getitem__, head.figures))
    except (UserError, KeyError):
        found = []
    groups = [(each.rows, each.pool) for each in found if set(each.rows) <= set(rows)]
    known = {row for group, _ in groups for row in group}
    return groups + [([row], (row,)) for row in rows if row not in known]


def scored(side: Revision) -> dict[str, float]:
    """Return the accuracy of each row of params.yaml that has been run."""
    rows = side.yaml("params.yaml").get("rows")
    figures = {row: side.figures(f"rows/{row}.json") for row in (rows if isinstance(rows, dict) else {})}
    return {row: found["accuracy"] for row, found in figures.items() if found}


def unpaired(before: Counts, after: Counts) -> tuple[float, float] | None:
    """Return a row's gain in accuracy from its confusion matrices, and half the 95% interval of that.

    The interval is that of two independent samples (Agresti 2013, section 3.1.3): too wide for rows that were
    scored on the same images. None where those are others.
    """
    if not before or not after or images_of(before) != images_of(after):
        return None
    old, new = right(before), right(after)
    return float(new.mean() - old.mean()), Z95 * math.sqrt((old.var() + new.var()) / len(old))


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


NOTE = (
    "A line stands for all rows that differ in their seeds alone. *Beyond it* is told only where the "
    "interval is over trainings too: another seed alone can move an accuracy further than other test images."
)


def _change(
    gain: float,
    before: Trained | None,
    after: Trained | None,
    same_images: bool,
    matrices: tuple[Counts, Counts],
) -> list[str]:
    """Return the cells of a difference, its interval, what that is over, and whether it is beyond it."""
    old, new = matrices
    if old and new and images_of(old) != images_of(new):
        same_images = False
    if before and after and same_images:
        gain, half = difference(after, before)
        if before.spread is None or after.spread is None:
            return [f"{gain:+.2%}", f"± {half:.2%}", "one training; test images only", "can't be told"]
        trainings = f"{len(before.correct)} and {len(after.correct)} trainings, test images"
        return [f"{gain:+.2%}", f"± {half:.2%}", trainings, "**yes**" if abs(gain) > half else "no"]
    if found := unpaired(*matrices):
        gain, half = found
        return [f"{gain:+.2%}", f"± {half:.2%}", "one training; test images only, unpaired", "can't be told"]
    return [f"{gain:+.2%}", "", "other test images", "can't be told"]


def accuracies(base: Revision, head: Revision, matrices: dict[str, tuple[Counts, Counts]]) -> list[str]:
    """Return the table of accuracies, a row of the study a line.

    `matrices` has those whose metrics changed.
    """
    before, after = scored(base), scored(head)
    if not before and not after:
        raise UserError(
            f"neither {base.label} nor {head.label} has metrics/rows of a row in its params.yaml; run "
            "`dvc repro` and commit its metrics"
        )
    rows = [*after, *(row for row in before if row not in after)]
    groups = grouped([row for row in rows if row in before and row in after], head)
    sides = [[side.trained(group) for group, _ in groups] for side in (base, head)]
    for trained in sides:
        pool_spreads((pool, each) for (_, pool), each in zip(groups, trained, strict=True) if each)
    lines = [
        f"| row | {plain(base.label)} | {plain(head.label)} | difference | 95% interval | over | beyond it |",
        "|---|---|---|---|---|---|---|",
    ]
    first = {group[0]: (group, old, new) for (group, _), old, new in zip(groups, *sides, strict=True)}
    for row in rows:
        if row not in before or row not in after:
            shown = [f"{side[row]:.2%}" if row in side else "—" for side in (before, after)]
            lines.append(
                f"| {plain(row)} | {' | '.join(shown)} | {'new row' if row in after else 'row gone'} | | | |"
            )
        elif row in first:
            group, old_trained, new_trained = first[row]
            was, now = (sum(side[each] for each in group) / len(group) for side in (before, after))
            cells = ["unchanged", "", "", ""]
            if any(each in matrices for each in group):
                same_images = base.test_images(row) == head.test_images(row)
                alone = matrices[row] if len(group) == 1 else (None, None)
                if len({base.test_set(row), head.test_set(row)} - {None}) > 1:
                    same_images, alone = False, (None, None)
                cells = _change(now - was, old_trained, new_trained, same_images, alone)
            lines.append(f"| {' | '.join([plain(row), f'{was:.2%}', f'{now:.2%}', *cells])} |")
    lines += ["", NOTE]
    return lines
