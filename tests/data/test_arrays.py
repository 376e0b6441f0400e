"""Shares of a training set: each class's part, and one share within another."""

import numpy as np
import pytest

from vitscale.data.arrays import stratified


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.77, 1.0])
def test_stratified(fraction):
    """A class gets another share than the fraction of its images, or none at all, or an image is drawn twice."""
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2, 5], [40, 200, 3, 1000]))
    chosen = stratified(labels, fraction, 0)
    assert (np.diff(chosen) > 0).all()  # sorted, no image twice
    for label, count in ((0, 40), (1, 200), (2, 3), (5, 1000)):
        found = int((labels[chosen] == label).sum())
        assert found >= 1 and (found == 1 or abs(found - fraction * count) <= 0.5)
    assert np.array_equal(chosen, stratified(labels, fraction, 0))
    if fraction < 1:
        assert not np.array_equal(chosen, stratified(labels, fraction, 1))
    else:
        assert np.array_equal(chosen, np.arange(len(labels)))


def test_stratified_shares_are_nested():
    """A training on less data sees images that one on more data doesn't, so that the two can't be compared."""
    labels = np.random.default_rng(1).integers(0, 7, 500)
    shares = [set(stratified(labels, fraction, 3)) for fraction in (0.01, 0.1, 0.25, 0.5, 0.9, 1.0)]
    assert all(smaller < larger for smaller, larger in zip(shares, shares[1:]))


def test_a_seed_gives_the_share_that_it_gave():
    """A share holds other images than when the committed figures were made: numpy's draws, or which of them are taken."""
    labels = np.arange(24) % 3
    assert stratified(labels, 0.25, 3).tolist() == [1, 8, 14, 18, 19, 21]
