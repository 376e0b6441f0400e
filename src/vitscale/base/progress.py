"""Progress of long work on standard error: a bar on a terminal, otherwise a plain line now and then."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from vitscale.base.processes import RANK

Item = TypeVar("Item")
EVERY = 30  # seconds between two plain lines
_bars: list[Any] = []  # the bar on the terminal's last line


def on_terminal() -> bool:
    """Tell whether a terminal shows what is printed, and the bar below it."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def _says_its_width() -> bool:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


def say(line: str) -> None:
    """Print a line at once, above the bar, in the first of a stage's processes."""
    if RANK:
        return
    with _bars[0].external_write_mode() if _bars else nullcontext():
        print(line, flush=True)


class Progress:
    """How many of `total` are done, `done` of them at the start. `unit` says what they are; "B" is bytes."""

    def __init__(self, label: str, total: int | None, unit: str, done: int, bar: Any = None):
        self.label, self.total, self.unit, self.done, self.bar = label, total, unit, done, bar
        self.quiet = RANK != 0 or sys.stderr.isatty()
        self.first, self.began = done, time.monotonic()
        self.shown = self.began

    def add(self, count: int) -> None:
        """Say that so many more are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif not self.quiet:
            now = time.monotonic()
            if now - self.shown >= EVERY:
                self.shown = now
                rate = (self.done - self.first) / (now - self.began)
                line = _line(self.done, self.total, rate, self.unit)
                print(f"{self.label}: {line}", file=sys.stderr, flush=True)

    def rename(self, label: str) -> None:
        """Say what is done now."""
        self.label = label
        if self.bar is not None:
            self.bar.set_description_str(label)


@contextmanager
def showing(
    label: str, total: int | None, unit: str = "", done: int = 0, stays: bool = False
) -> Iterator[Progress]:
    """Show how many of `total` are done, in the first of a stage's processes.

    A terminal has one bar at a time, the outermost; where it `stays`, its last state remains there.
    """
    if RANK or _bars or not sys.stderr.isatty() or done == total:
        yield Progress(label, total, unit, done)
        return
    from tqdm import tqdm

    counts = "" if stays else "{n_fmt}/{total_fmt}, "
    layout = "{desc}: {percentage:3.0f}%|{bar}| " + counts + "{rate_fmt}, {remaining} left"
    with tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=unit if unit == "B" else f" {unit or 'it'}",
        unit_scale=unit == "B" or (total or 0) > 9999,
        leave=stays,
        ncols=80,
        nrows=24,
        dynamic_ncols=_says_its_width(),  # tqdm draws nothing at a width of 0
        mininterval=0.2,
        smoothing=0,  # the mean so far, since what is done between two epochs takes time too
        bar_format=None if total is None else layout,
    ) as bar:
        _bars.append(bar)
        try:
            yield Progress(label, total, unit, done, bar)
        finally:
            _bars.remove(bar)


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
    with showing(label, total, "B" if length else unit, done) as shown:
        for item in items:
            yield item
            shown.add(length(item) if length else 1)


def _line(done: int, total: int | None, rate: float, unit: str) -> str:
    if unit == "B":
        of = "" if total is None else f" of {total / 1e6:.1f}"
        line = f"{done / 1e6:.1f}{of} MB, {rate / 1e6:.2f} MB a second"
    else:
        line = f"{done}/{total}{' ' * bool(unit)}{unit}, {rate:.2f} a second"
    if total is not None and rate:
        left = (total - done) / rate
        line += f", {left:.0f} s left" if left < 120 else f", {left / 60:.0f} min left"
    return line
