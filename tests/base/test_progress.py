"""Progress on standard error: how far, how fast, how long still."""

import itertools
import re

import pytest

from vitscale.base import progress as module
from vitscale.base.progress import progress, say, showing


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


@pytest.fixture
def terminal(monkeypatch, capsys):
    """What is printed is seen on a terminal, 100 columns wide."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(type(module.sys.stderr), "isatty", lambda stream: True, raising=False)


def test_a_bar_on_a_terminal(terminal, capsys):
    """Catches a bar that doesn't say how far, how fast and how long still."""
    pieces = [b"x" * 1_000_000] * 4
    assert list(progress(iter(pieces), 10_000_000, "file", length=len, done=6_000_000)) == pieces
    err = capsys.readouterr().err
    assert re.search(r"file:  60%\|.+\| 6\.00M/10\.0M, \? ?B/s, \? left", err), err


def test_a_bar_of_what_has_no_known_end(terminal, capsys):
    """Catches a download of unknown size that ends the program, or claims to be at 0%."""
    assert list(progress(iter([b"xy"]), None, "file", length=len)) == [b"xy"]
    assert "0%" not in capsys.readouterr().err


def test_one_bar_at_a_time(terminal, capsys):
    """Catches a second bar below the first, a line printed into the bar, or one that outlives its work."""
    with showing("epoch 1/2", 8, "images", stays=True) as bar:
        assert list(progress("ab", 2, "scoring")) == ["a", "b"]
        say("a step was skipped")
        bar.add(8)
        bar.rename("epoch 2/2, best validation 50.00%")
    said = capsys.readouterr()
    assert said.out.splitlines() == ["a step was skipped"] and "scoring" not in said.err
    assert "epoch 2/2, best validation 50.00%: 100%" in said.err and re.search(r"left *\n$", said.err)
    assert list(progress("ab", 2, "alone")) == ["a", "b"]
    assert "alone: " in capsys.readouterr().err


def test_nothing_left_is_no_bar(terminal, capsys):
    """Catches the full bar of a training whose end came before this process."""
    with showing("epoch 2/2", 8, "images", done=8, stays=True):
        pass
    assert not capsys.readouterr().err
