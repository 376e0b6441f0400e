"""Damage by bad disks, broken copies and slips of an editor, over everything that a stage reads."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from damaging import WRONG, World, make_base, table, trials

# 1,000 flipped bytes and 200 cuts, 260 of them under `dvc repro`.
SLICES, EACH, BY_DVC, WORKERS = 20, 60, 13, 2


@pytest.fixture(scope="module")
def base(wide, wide_mirror, forked, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        forked.put_first(patch)
        return make_base(wide, wide_mirror, tmp_path_factory.mktemp("damage") / "base")


@pytest.fixture(scope="module")
def worlds(base):
    return [World(base, base.with_name(f"world-{number}")) for number in range(WORKERS)]


@pytest.fixture(scope="module")
def counts():
    return Counter()


@pytest.mark.slow
@pytest.mark.parametrize("slice", range(SLICES))
def test_damage_is_told_or_healed_or_no_matter(base, worlds, counts, slice):
    """A flipped byte or a cut file ends in a traceback, a hang or, the worst, in other figures without a word."""
    chosen = list(trials(base, BY_DVC, EACH, seed=slice))

    def outcomes(number):
        return [(trial, worlds[number].outcome(trial)) for trial in chosen[number::WORKERS]]

    with ThreadPoolExecutor(WORKERS) as pool:
        found = [each for part in pool.map(outcomes, range(WORKERS)) for each in part]
    counts.update(
        (f"{trial.kind}, {'by hand' if trial.stage else 'dvc repro'}", outcome) for trial, outcome in found
    )
    print(f"\nafter slice {slice}\n{table(counts)}", flush=True)  # of all slices so far
    assert not [(trial, outcome) for trial, outcome in found if outcome in WRONG]
