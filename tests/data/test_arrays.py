"""A split on disk that doesn't fit together; shares of a training set: each class's part, one within another."""

import json

import numpy as np
import pytest

from vitscale.base.errors import UserError
from vitscale.data.arrays import SplitWriter, load_split, stratified


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


DAMAGED = {
    "a label too large": ("labels.npy", np.array([0, 1, 2]), "labels run from 0 to 2, there are 2 classes"),
    "a label below zero": (
        "labels.npy",
        np.array([0, 1, -1]),
        "labels run from -1 to 1, there are 2 classes",
    ),
    "a label too few": ("labels.npy", np.array([0, 1]), "3 images have 2 labels"),
    "labels of another type": ("labels.npy", np.zeros(3), "labels are float64 of shape (3,)"),
    "images of another type": (
        "images.npy",
        np.zeros((3, 4, 4, 3)),
        "images are float64 of shape (3, 4, 4, 3)",
    ),
    "images of one channel": (
        "images.npy",
        np.zeros((3, 4, 4, 1), np.uint8),
        "images are uint8 of shape (3, 4, 4, 1)",
    ),
    "features of another type": ("features.npy", np.zeros((3, 4)), "images are float64 of shape (3, 4)"),
    "a class twice": ("classes.json", ["a", "a"], "a class stands twice in classes.json"),
    "classes by number": ("classes.json", [0, 1], "classes.json is no list of names"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_files_that_dont_belong_together(case, tmp_path):
    """A split whose files come from two data sets, or are damaged, is trained on without a word."""
    name, content, reason = DAMAGED[case]
    writer = SplitWriter(tmp_path / "split", 3, 4, ["a", "b"])
    writer.add(np.zeros((3, 4, 4, 3), np.uint8), np.array([0, 1, 1]))
    writer.close()
    assert len(load_split(writer.folder)) == 3
    if isinstance(content, np.ndarray):
        np.save(writer.folder / name, content)
    else:
        (writer.folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        load_split(writer.folder)
    assert str(caught.value) == (
        f"{writer.folder} holds no usable split ({reason}); `dvc checkout` brings outputs back"
    )
