"""The split into training and validation images, statistics, and leaks from the test split."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import yaml

from archives import splits
from splits import POLICIES, make_split
from tiny import ROOT
from vitscale.base.errors import UserError
from vitscale.data.arrays import Split, load_split
from vitscale.data.prepare import channel_statistics, leaked, split_off


def statistics(files: dict[str, bytes], key: str = "target") -> dict:
    return json.loads(files[f"data/prepared/{key}/statistics.json"])


# ---- the split ----
@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.9])
def test_split_is_stratified_and_whole(share):
    """Of each class that share, at least one image and never all; both parts together are the usable images."""
    split = make_split([2, 3, 40, 101], size=2)
    usable = np.ones(len(split), dtype=bool)
    usable[[7, 8, 50, 51, 52]] = False
    parts = split_off(split, usable, share, seed=0)
    assert sorted(parts) == ["train", "validation"]
    assert np.array_equal(
        np.sort(np.concatenate(list(parts.values()))), np.flatnonzero(usable)
    )  # disjoint, too
    for indices in parts.values():
        assert np.array_equal(indices, np.sort(indices))
    for label, count in enumerate([2, 3, 38, 98]):
        taken = int((split.labels[parts["validation"]] == label).sum())
        assert 1 <= taken <= count - 1
        assert abs(taken - share * count) <= 0.5 or taken in (1, count - 1) and count < 4


def test_split_depends_on_the_seed_alone():
    """The same seed gives the same images, another seed others; pixels have no part in it."""
    split, other = make_split([50, 50], seed=0, size=2), make_split([50, 50], seed=1, size=2)
    usable = np.ones(100, dtype=bool)
    draws = [
        split_off(each, usable, 0.2, seed)["validation"].tolist()
        for each, seed in ((split, 0), (split, 0), (other, 0), (split, 1), (split, 2))
    ]
    assert draws[0] == draws[1] == draws[2]
    assert len({tuple(draw) for draw in draws}) == 3
    assert draws[0] != list(range(10)) + list(range(50, 60))  # nor is it the first ones


@pytest.mark.parametrize("left", [0, 1])
def test_class_left_with_too_few_images(left):
    """One image can't be trained on and validated on."""
    split = make_split([5, 5], size=2)
    usable = np.ones(10, dtype=bool)
    usable[5 + left :] = False
    with pytest.raises(UserError) as caught:
        split_off(split, usable, 0.25, seed=0)
    assert (
        str(caught.value)
        == f"class class1 has {left} usable images; it needs two, one of them for validation"
    )
    usable[5 + left : 7] = True
    assert [len(indices) for indices in split_off(split, usable, 0.25, seed=0).values()] == [5, 2]


def test_stage_writes_the_parts_of_the_split(pipeline, prepare):
    """The files hold the very images and labels of the split; the figures beside them count them."""
    train = make_split([20, 12, 8])
    folder = pipeline("a", train, make_split([2, 2, 2], seed=9), split_seed=3)
    files = prepare(folder)
    parts = split_off(train, np.ones(40, dtype=bool), 0.25, seed=3)
    assert {name: len(indices) for name, indices in parts.items()} == {"train": 30, "validation": 10}
    for name, indices in parts.items():
        part = load_split(folder / "data/prepared/target" / name)
        assert np.array_equal(part.images, train.images[indices])
        assert np.array_equal(part.labels, train.labels[indices])
        assert part.classes == train.classes
    found = statistics(files)
    assert sorted(found) == ["dropped_images", "mean", "std", "train_images", "validation_images"]
    assert (found["train_images"], found["validation_images"], found["dropped_images"]) == (30, 10, 0)
    assert sorted(path.split("/")[-1] for path in files) == sorted(
        2 * ["classes.json", "images.npy", "labels.npy"] + ["statistics.json", "target.png"]
    )


# ---- statistics ----
def test_statistics_are_those_of_the_training_part():
    """Channel means and standard deviations as numpy has them, over more images than are handled at a time."""
    split = make_split([700, 800], size=4)
    indices = np.flatnonzero(np.arange(1500) % 5 > 0)
    mean, std = channel_statistics(split, indices)
    values = split.images[indices].astype(np.float64) / 255
    assert np.allclose(mean, values.mean((0, 1, 2)), rtol=0, atol=1e-12)
    assert np.allclose(std, values.std((0, 1, 2)), rtol=1e-9)
    everything = split.images.astype(np.float64) / 255
    assert not np.allclose(mean, everything.mean((0, 1, 2)), rtol=0, atol=1e-7)


def test_statistics_of_one_single_colour():
    """A constant channel gets a standard deviation of one step of 255, not 0."""
    split = Split(np.full((4, 2, 2, 3), 7, np.uint8), np.zeros(4, np.int64), ["a"])
    assert channel_statistics(split, np.arange(4)) == ([7 / 255] * 3, [1 / 255] * 3)


def test_validation_images_have_no_part_in_the_statistics(pipeline, prepare):
    """Other pixels in validation images change the validation files and nothing else; in one training image, more."""
    train, test = make_split([20, 20]), make_split([2, 2], seed=9)
    original = prepare(pipeline("original", train, test))
    parts = split_off(train, np.ones(40, dtype=bool), 0.25, seed=0)

    def changed_by(name: str, indices) -> set[str]:
        images = train.images.copy()
        images[indices] = 255 - images[indices]
        files = prepare(pipeline(name, Split(images, train.labels, train.classes), test))
        assert files.keys() == original.keys()
        return {path for path in files if files[path] != original[path]}

    assert changed_by("validation", parts["validation"]) == {"data/prepared/target/validation/images.npy"}
    assert changed_by("train", parts["train"][:1]) == {
        "data/prepared/target/train/images.npy",
        "data/prepared/target/statistics.json",
        "plots/preview/target.png",
    }


# ---- leaks ----
def test_leaked_finds_equal_pixels_only():
    """An image that stands in the test split, whatever its class there; one bit of difference is another image."""
    train, test = make_split([6, 6]), make_split([3, 3], seed=9)
    images = train.images.copy()
    images[2], images[7], images[11] = test.images[5], test.images[5], test.images[0]
    images[3] = test.images[1]
    images[3, 31, 31, 2] ^= 1
    assert np.flatnonzero(leaked(images, test)).tolist() == [2, 7, 11]
    assert leaked(images[:, :16], test) is None  # images of another shape
    assert leaked(images.reshape(12, 64, 16, 3), test) is None  # even of the same bytes


def test_sets_of_other_sizes_are_not_said_to_be_clean(pipeline, prepare, capsys):
    """The test images stand, enlarged, in the pretraining set, and it prints "0 dropped" as if it had looked."""
    test, train = make_split([4, 4, 4], seed=9), make_split([10, 10, 10], seed=5)
    enlarged = Split(test.images.repeat(2, 1).repeat(2, 2), test.labels, test.classes)
    files = prepare(pipeline("a", train, test, enlarged), "upstream")
    said = capsys.readouterr().out
    assert said.startswith(
        "not compared with the test split of target, whose images have 32 pixels a side, not 64"
    )
    assert "dropped:" not in said and len(said.splitlines()) == 1
    assert statistics(files, "upstream")["dropped_images"] is None


@pytest.mark.parametrize("key", ["target", "upstream"])
def test_images_of_the_targets_test_split_are_dropped(pipeline, prepare, capsys, key):
    """From the target's own training images and from an upstream set's; counted, and said."""
    train, test = make_split([10, 10, 10]), make_split([4, 4, 4], seed=9)
    images = train.images.copy()
    images[1], images[12], images[13], images[29] = (
        test.images[0],
        test.images[6],
        test.images[6],
        test.images[0],
    )
    dirty, clean = Split(images, train.labels, train.classes), make_split([10, 10, 10], seed=5)
    folder = pipeline("a", *((dirty, test, clean) if key == "target" else (clean, test, dirty)))
    files = prepare(folder, key)
    assert capsys.readouterr().out == "4 of 30 images dropped: they stand in the test split of target\n"
    parts = [load_split(folder / f"data/prepared/{key}" / name) for name in ("train", "validation")]
    kept = sorted(image.tobytes() for part in parts for image in part.images)
    assert kept == sorted(image.tobytes() for image in np.delete(images, [1, 12, 13, 29], axis=0))
    found = statistics(files, key)
    assert (found["dropped_images"], found["train_images"] + found["validation_images"]) == (4, 26)
    other = "upstream" if key == "target" else "target"
    assert statistics(prepare(folder, other), other)["dropped_images"] == 0


def test_a_class_that_only_repeats_the_test_split(pipeline, prepare, capsys):
    """Where dropping leaves a class one image, the stage says which, and leaves nothing behind."""
    train, test = make_split([5, 5]), make_split([4, 4], seed=9)
    images = train.images.copy()
    images[5:9] = test.images[:4]
    folder = pipeline("a", Split(images, train.labels, train.classes), test)
    with pytest.raises(SystemExit) as caught:
        prepare(folder)
    assert (
        caught.value.code
        == "error: class class1 has 1 usable images; it needs two, one of them for validation"
    )
    assert not (folder / "data/prepared").exists() and not (folder / "plots").exists()
    assert list((folder / ".vitscale/partial").glob("*")) == []


def test_test_images_have_no_other_part_in_what_prepare_leaves(pipeline, prepare):
    """With noise for test images every output byte stays the same, for the target and for an upstream set."""
    train, upstream, test = make_split([20, 20]), make_split([15, 15, 15], seed=3), make_split([5, 5], seed=9)
    pixels = np.random.default_rng(1).integers(0, 256, test.images.shape, dtype=np.uint8)
    noise = Split(pixels, test.labels[::-1].copy(), test.classes)
    folders = [pipeline(name, train, each, upstream) for name, each in (("test", test), ("noise", noise))]
    for key in ("target", "upstream"):
        files = [prepare(folder, key) for folder in folders]
        assert statistics(files[0], key)["dropped_images"] == 0 and len(files[0]) >= 8
        assert files[0] == files[1]


@pytest.mark.mirror
def test_real_cifar_leaks_one_image(tmp_path):
    """Exactly one of CIFAR-100's training images is one of CIFAR-10's test images."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())["download"]
    cifar10, cifar100 = (splits(name, params[name], tmp_path / name) for name in ("cifar10", "cifar100"))
    assert leaked(cifar100["train"].images, cifar10["test"]).sum() == 1
    assert leaked(cifar10["test"].images, cifar10["test"]).sum() == 10_000  # and it would have found them all


# ---- the same bytes ----
def test_the_same_input_gives_the_same_bytes(pipeline, prepare):
    """Twice in one folder, in another folder; another seed gives another split, other policies another picture only."""
    train, test = make_split([20, 20]), make_split([2, 2], seed=9)
    folder = pipeline("a", train, test)
    files = prepare(folder)
    assert prepare(folder) == files
    assert prepare(pipeline("b", train, test)) == files
    names = yaml.safe_load((folder / "params.yaml").read_text())["augment"]
    for name, changes, expected in (
        (
            "c",
            {"split_seed": 1},
            {
                "data/prepared/target/train/images.npy",
                "data/prepared/target/validation/images.npy",
                "data/prepared/target/statistics.json",
                "plots/preview/target.png",
            },
        ),
        ("d", {"augment": dict.fromkeys(names, asdict(POLICIES["strong"]))}, {"plots/preview/target.png"}),
        ("e", {"seed": 1, "lr": 1.0}, set()),
    ):
        other = prepare(pipeline(name, train, test, **changes))
        assert {path for path in files if files[path] != other[path]} == expected
