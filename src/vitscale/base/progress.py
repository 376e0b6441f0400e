"""Progress of long work on standard error: a bar on a terminal, otherwise a plain line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from vitscale.base.processes import RANK

Item = TypeVar("Item")


def say(line: str) -> None:
    """Print a line at once, in the first of a stage's processes."""
    if not RANK:
        print(line, flush=True)


def progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Yield the items, showing how many of `total` are done, in the first of a stage's processes."""
    if RANK:
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=label, leave=False, dynamic_ncols=True)
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown >= 30:
            shown = now
            print(
                f"{label}: {done}/{total}, {done / (now - start):.2f} a second", file=sys.stderr, flush=True
            )
