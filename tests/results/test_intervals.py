"""Intervals over test images and trainings: they hold what they promise, and the textbook's figures."""

import math

import numpy as np
import pytest
from scipy import stats

from vitscale.results.metrics import Trained, difference, spread_of, wilson


def draw(rng, groups: int, trainings: int, images: int, seeds: float, easy: float = 1.0) -> np.ndarray:
    """Return which images trainings get right, (groups, trainings, images), all of one mean accuracy.

    `seeds` is the standard deviation of a training's skill, where that of an image's ease is 1.
    """
    skill = easy + seeds * rng.normal(size=(groups, trainings, 1))
    return skill + rng.normal(size=images) + 0.7 * rng.normal(size=(groups, trainings, images)) > 0


def truth(seeds: float, easy: float = 1.0) -> float:
    return float(stats.norm.cdf(easy / math.sqrt(seeds**2 + 1 + 0.7**2)))


@pytest.mark.parametrize(
    ("groups", "trainings", "images", "seeds"),
    [
        (6, 3, 1000, 0.1),
        (6, 3, 1000, 0.03),
        (2, 5, 400, 0.15),
        (1, 10, 1000, 0.1),
        (12, 3, 200, 0.3),
        (3, 3, 3000, 0.05),
    ],
)
def test_intervals_hold_the_truth_as_often_as_promised(groups, trainings, images, seeds):
    """Of draws of trainings with a known spread fewer than 93% of the intervals hold the true accuracy, or more than 97%."""
    rng, trials, held, wanted = np.random.default_rng(0), 1500, 0, truth(seeds)
    for _ in range(trials):
        drawn = draw(rng, groups, trainings, images, seeds)
        low, high = Trained(correct=drawn[0], spread=spread_of(drawn)).interval
        held += low <= wanted <= high
    assert 0.93 <= held / trials <= 0.97


@pytest.mark.parametrize(
    ("groups", "trainings", "images", "seeds"),
    [(6, 3, 1000, 0.1), (4, 3, 3000, 0.2), (2, 5, 400, 0.15), (12, 3, 200, 0.3), (24, 3, 3000, 0.05)],
)
def test_differences_of_equals_hold_zero_as_often_as_promised(groups, trainings, images, seeds):
    """Configurations that differ in nothing but their seeds are said to differ in more than 7%, or less than 3%."""
    rng, trials, held, alone = np.random.default_rng(1), 1500, 0, 0
    for _ in range(trials):
        drawn = draw(rng, groups, trainings, images, seeds)
        spread = spread_of(drawn)
        value, half = difference(*(Trained(correct=each, spread=spread) for each in drawn[:2]))
        held += abs(value) <= half
        value, half = difference(*(Trained(correct=each[:1]) for each in drawn[:2]))
        alone += abs(value) <= half
    assert 0.93 <= held / trials <= 0.97
    assert alone / trials < held / trials  # one training each, by test images only, as it was


def test_one_training_has_wilsons_interval():
    """One training's interval isn't the one that its metrics file has."""
    for right, total in ((0, 20), (1, 29), (81, 263), (10, 10), (9321, 10_000)):
        correct = (np.arange(total) < right)[None]
        assert Trained(correct=correct).interval == pytest.approx(wilson(right, total), abs=1e-12)
    assert Trained(correct=correct).covers == "one training; test images only"


@pytest.mark.parametrize(
    "counts", [(40, 12, 5, 43), (0, 10, 0, 0), (50, 0, 0, 50), (0, 5, 5, 0), (9000, 300, 180, 520)]
)
def test_a_difference_is_paired(counts):
    """The interval isn't that of paired shares with half an image more in each cell (Agresti & Min 2005, section 2)."""
    neither, b, c, right = counts
    first = Trained(correct=np.repeat([False, True, False, True], [neither, b, c, right])[None])
    second = Trained(correct=np.repeat([False, False, True, True], [neither, b, c, right])[None])
    n, t = sum(counts), stats.t.ppf(0.975, sum(counts) + 1)
    found, half = difference(first, second)
    assert found == pytest.approx((b - c) / n)
    assert half == pytest.approx(t * math.sqrt(b + c + 1 - (b - c) ** 2 / (n + 2)) / (n + 2))
    assert difference(second, first) == pytest.approx((-found, half))


def test_equal_answers_on_few_images_are_no_certainty():
    """32 images on which two models agree give a difference of 0 ± 0.00%."""
    same = Trained(correct=(np.arange(32) < 20)[None])
    value, half = difference(same, same)
    assert value == 0 and 0.05 < half < 0.07


def test_spread_by_hand():
    """The variance over trainings isn't the mean square between them, or the part that test images give is counted twice."""
    drawn = np.random.default_rng(2).random((2, 4, 50)) < 0.7
    spread, one = spread_of(drawn), spread_of([drawn[0], drawn[1][:1]])
    assert spread.variance == pytest.approx(drawn.mean(2).var(axis=1, ddof=1).mean()) and spread.freedom == 6
    assert one.freedom == 3 and one.variance == pytest.approx(drawn[0].mean(1).var(ddof=1))
    # Answers without any order: all of the variance over trainings is what other test images would give.
    assert spread_of(np.random.default_rng(3).random((50, 4, 400)) < 0.7).of_images == pytest.approx(
        0.7 * 0.3 / 400, rel=0.03
    )
    assert spread_of([drawn[0][:1], drawn[1][:1]]) is None


def test_an_interval_with_trainings_by_hand():
    """The quantile isn't Satterthwaite's, or the number of trainings is left out."""
    drawn = np.random.default_rng(4).random((3, 3, 300)) + 0.05 * np.arange(3)[:, None] > 0.4
    spread = spread_of(drawn)
    value, half = difference(*(Trained(correct=each, spread=spread) for each in drawn[:2]))
    each = drawn[0].mean(0) - drawn[1].mean(0)
    images = (((each**2).sum() + 1) / 302 - (each.sum() / 302) ** 2) / 302
    seeds, net = 2 / 3 * spread.variance, 2 / 3 * (spread.variance - spread.of_images)
    total = images + max(net, 0)
    freedom = total**2 / (images**2 / 301 + seeds**2 / 6)
    assert value == pytest.approx(each.mean()) and half == pytest.approx(
        stats.t.ppf(0.975, freedom) * math.sqrt(total)
    )
