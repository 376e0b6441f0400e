"""The preview: what a policy does to the images, and that an impossible policy is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from splits import OFF, POLICIES, make_split
from vitscale.base.errors import UserError
from vitscale.data import prepare as module
from vitscale.data.augment import Policy
from vitscale.data.prepare import channel_statistics, preview


def tiles(picture: Image.Image, size: int) -> np.ndarray:
    """Cut the picture: two screen pixels a pixel, two between tiles, 120 for the names; (rows, columns, size, size, 3)."""
    pixels, step = np.asarray(picture), 2 * size + 2
    rows, columns = pixels.shape[0] // step, (pixels.shape[1] - 120) // step
    grid = pixels[: rows * step, 120:].reshape(rows, step, columns, step, 3).transpose(0, 2, 1, 3, 4)
    return grid[:, :, : 2 * size : 2, : 2 * size : 2]


def test_preview_shows_the_images_and_two_draws_a_policy():
    """Size, rows, and what stands in them; the same bytes again, and others with another seed."""
    split = make_split([30, 30], size=16)
    indices = np.arange(1, 60, 2)
    mean, _ = channel_statistics(split, indices)
    picture = preview(split, indices, mean, POLICIES, seed=0)
    assert picture.size == (120 + 10 * 34, 5 * 34) and picture.mode == "RGB"
    shown = tiles(picture, 16)
    assert shown.shape == (5, 10, 16, 16, 3)
    known = {image.tobytes() for image in split.images[indices]}
    assert len({image.tobytes() for image in shown[0]} & known) == 10  # ten different training images
    assert np.array_equal(shown[1], shown[0]) and np.array_equal(
        shown[2], shown[0]
    )  # the policy that does nothing
    assert not np.array_equal(shown[3], shown[0]) and not np.array_equal(shown[3], shown[4])
    names = np.asarray(picture)[:, :120].reshape(5, 34, 120, 3)
    assert [bool((row < 128).any()) for row in names] == [True, True, False, True, False]
    again, other = (preview(split, indices, mean, POLICIES, seed) for seed in (0, 1))
    assert picture.tobytes() == again.tobytes() != other.tobytes()


def test_preview_of_fewer_images_than_columns():
    split = make_split([2, 1], size=8)
    assert tiles(preview(split, np.arange(3), [0.5] * 3, POLICIES, 0), 8).shape == (5, 10, 8, 8, 3)


BAD_POLICIES = {
    "NaN": lambda images, targets: (images.index_fill(0, torch.tensor([3]), float("nan")), targets),
    "infinite": lambda images, targets: (images.index_fill(0, torch.tensor([3]), float("inf")), targets),
    "negative": lambda images, targets: (images - 300, targets),
    "too bright": lambda images, targets: (images * 1.5 + 100, targets),
    "another size": lambda images, targets: (images[:, :-1], targets),
    "targets": lambda images, targets: (images, targets * 1.01),
    "NaN targets": lambda images, targets: (images, targets * float("nan")),
}


@pytest.mark.parametrize("fault", BAD_POLICIES)
def test_a_policy_with_impossible_results_is_refused(monkeypatch, fault):
    """The check before any training: finite values in 0..255, targets that sum to 1; the policy is named."""
    split, real = make_split([10, 10]), module.augment

    def broken(images, labels, classes, draws, mean):
        result = real(images, labels, classes, draws, mean)
        return BAD_POLICIES[fault](*result) if draws.mix else result  # `strong` mixes

    preview(split, np.arange(20), [0.5] * 3, POLICIES, seed=0)
    monkeypatch.setattr(module, "augment", broken)
    preview(split, np.arange(20), [0.5] * 3, {"none": Policy(**OFF)}, seed=0)
    with pytest.raises(
        UserError, match=r"^augment\.strong gives images outside 0\.\.255 or targets that don't sum to 1$"
    ):
        preview(split, np.arange(20), [0.5] * 3, POLICIES, seed=0)


def test_a_refused_policy_leaves_nothing_behind(pipeline, prepare, monkeypatch):
    """The check comes after the data is written aside; none of that arrives."""
    folder = pipeline("a", make_split([10, 10]), make_split([2, 2], seed=9))
    monkeypatch.setattr(
        module,
        "augment",
        lambda images, labels, classes, *_: (
            images * float("nan"),
            torch.ones(len(images), classes) / classes,
        ),
    )
    with pytest.raises(SystemExit) as caught:
        prepare(folder)
    assert (
        caught.value.code == "error: augment.none gives images outside 0..255 or targets that don't sum to 1"
    )
    assert not (folder / "data/prepared").exists() and not (folder / "plots").exists()
    assert list((folder / ".vitscale/partial").glob("*")) == [] and not (folder / "timings.csv").exists()
