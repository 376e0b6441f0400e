"""Progress of long work on standard error: a bar on a terminal, otherwise a plain line now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from vitscale.base.processes import RANK

Item = TypeVar("Item")
EVERY = 30  # seconds between two plain lines


def say(line: str) -> None:
    """Print a line at once, in the first of a stage's processes."""
    if not RANK:
        print(line, flush=True)


def progress(
    items: Iterable[Item],
    total: int | None,
    label: str,
    length: Callable[[Item], int] | None = None,
    done: int = 0,
    unit: str = "",
) -> Iterator[Item]:
    """Yield the items, showing how many of `total` are done, in the first of a stage's processes.

    With `length`, which says how many bytes an item is, bytes are counted: `done` of `total` at the start.
    `unit` names what else is counted.
    """
    if RANK:
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        options = {"unit": "B", "unit_scale": True} if length else {"unit": f" {unit}" if unit else "it"}
        with tqdm(
            total=total, initial=done, desc=label, leave=False, dynamic_ncols=True, mininterval=0.2, **options
        ) as bar:
            for item in items:
                yield item
                bar.update(length(item) if length else 1)
        return
    first, start = done, time.monotonic()
    shown = start
    for item in items:
        yield item
        done += length(item) if length else 1
        now = time.monotonic()
        if now - shown >= EVERY:
            shown = now
            line = _line(done, total, (done - first) / (now - start), bool(length), unit)
            print(f"{label}: {line}", file=sys.stderr, flush=True)


def _line(done: int, total: int | None, rate: float, are_bytes: bool, unit: str) -> str:
    if are_bytes:
        of = "" if total is None else f" of {total / 1e6:.1f}"
        line = f"{done / 1e6:.1f}{of} MB, {rate / 1e6:.2f} MB a second"
    else:
        line = f"{done}/{total}{' ' * bool(unit)}{unit}, {rate:.2f} a second"
    if total is not None and rate:
        left = (total - done) / rate
        line += f", {left:.0f} s left" if left < 120 else f", {left / 60:.0f} min left"
    return line
