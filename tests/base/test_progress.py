"""Progress on standard error: how far, how fast, how long still."""

import itertools

import pytest

from vitscale.base import progress as module
from vitscale.base.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """Each look at the clock is 20 s after the last one."""
    times = itertools.count(0, 20)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))


def test_lines_say_how_far_how_fast_and_how_long_still(clock, capsys):
    """Each item prints a line, or the figures are of another time than that which went by."""
    assert list(progress("abcde", 5, "epoch 1")) == list("abcde")
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1: 2/5, 0.05 a second, 60 s left",
        "epoch 1: 4/5, 0.05 a second, 20 s left",
    ]


def test_bytes_are_counted_from_what_was_there(clock, capsys):
    """What an earlier run fetched counts as speed, or the time left is of the whole file."""
    pieces = [b"x" * 1_000_000] * 4
    assert list(progress(pieces, 170_000_000, "file", length=len, done=50_000_000)) == pieces
    assert list(progress(pieces, None, "file", length=len)) == pieces
    assert capsys.readouterr().err.splitlines() == [
        "file: 52.0 of 170.0 MB, 0.05 MB a second, 39 min left",
        "file: 54.0 of 170.0 MB, 0.05 MB a second, 39 min left",
        "file: 2.0 MB, 0.05 MB a second",
        "file: 4.0 MB, 0.05 MB a second",
    ]


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    pieces = [b"x" * 1_000_000] * 4
    assert list(progress(iter(pieces), 10_000_000, "file", length=len, done=6_000_000)) == pieces
    err = capsys.readouterr().err
    assert "file:  60%" in err and "6.00M/10.0M" in err
