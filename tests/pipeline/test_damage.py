"""Damage by bad disks, broken copies and slips of an editor, over everything that a stage reads."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident

import pytest

from damaging import WRONG, make_world, table, trials

FLIPS, CUTS = 1000, 200


@pytest.mark.slow
def test_damage_is_told_or_healed_or_no_matter(wide, wide_mirror, forked, tmp_path):
    """A flipped byte or a cut file ends in a traceback, a hang or, the worst, in other figures without a word."""
    base = make_world(wide, wide_mirror, tmp_path / "base")
    chosen = list(trials(base, FLIPS, CUTS))
    workers = os.cpu_count() or 1

    def outcome(trial):
        return trial.run(base, tmp_path / f"world-{get_ident()}")

    with ThreadPoolExecutor(workers) as pool:
        found = list(zip(chosen, pool.map(outcome, chosen)))
    print(table(found))
    assert not [(trial, outcome) for trial, outcome in found if outcome in WRONG]
