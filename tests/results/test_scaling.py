"""The scaling curve: what its points, intervals and slopes are of rows whose figures are known."""

import math

import numpy as np
import pytest
from scipy import stats

from curves import made, point, pooled, power, prepared, write_scores
from made import study
from vitscale.base.entries import Weights
from vitscale.base.errors import UserError
from vitscale.results.configurations import model_names
from vitscale.results.metrics import wilson
from vitscale.results.scaling import curves_of, points, slope
from vitscale.results.scaling_page import page, table


# Which rows are one point
def test_models_that_differ_in_their_seed_are_one():
    vit = {"architecture": "vit", "dim": 8}
    names = model_names(
        {
            "a": vit | {"seed": 0},
            "b": vit | {"seed": 1},
            "c": {"architecture": "vit", "dim": 9, "seed": 0},
            "d": {"seed": 2} | vit,
        }
    )
    assert names == {"a": "a", "b": "a", "c": "c", "d": "a"}


@pytest.fixture
def results(tmp_path):
    """Return a function that lays out what the stages leave for rows (start, protocol, target images, correct of 10, seed)."""
    params = {
        "models": {
            "vit": {"dim": 8, "seed": 0},
            "vit-1": {"dim": 8, "seed": 1},
            "resnet18": {"stem": "cifar", "seed": 0},
        },
        "pretrain": {
            name: {"model": model, "data": data, "fraction": images / 100, "seed": seed, "epochs": epochs}
            for name, (model, data, images, seed, epochs) in PRETRAIN.items()
        },
        "rows": {},
    }

    def lay_out(rows: dict, swapped: str | None = None, known: bool = False, **changes):
        prepared(tmp_path / "prepared/things/train", 100)
        for name, (start, protocol, images, right, seed) in rows.items():
            params["rows"][name] = {"start": start, "protocol": protocol, "seed": seed, "epochs": 4} | (
                changes if name == "b" else {}
            )
            labels = np.arange(10) % 2 if name != swapped else np.arange(1, 11) % 2
            write_scores(tmp_path, name, images, labels, right)
        return points(
            study(
                params["rows"],
                params["pretrain"],
                tmp_path,
                models=params["models"],
                weights={"deit": WEIGHTS},
                published={"hub": {"accuracy": 0.9, "protocol": "full", "images": 5000}} if known else {},
            ),
            tmp_path / "prepared",
            {"vit": 8},
        )

    return lay_out


WEIGHTS = Weights(source="huggingface", name="famous/deit", sha256=None, data="web", license="MIT")
PRETRAIN = {
    "small": ("vit", "things", 30, 0, 9),
    "small-1": ("vit-1", "things", 30, 1, 9),
    "big": ("vit", "things", 100, 0, 9),
    "longer": ("vit-1", "things", 30, 1, 10),
}


def test_points_of_rows(results):
    """Seeds aren't joined, protocols, fractions or sets are, models lose their order, or another's weights count as ours."""
    found = results(
        {
            "a": ("small", "full", 50, 6, 0),
            "a-1": ("small-1", "full", 50, 8, 1),
            "p": ("small", "linear_probe", 50, 3, 0),
            "b": ("big", "full", 50, 9, 0),
            "b-few": ("big", "full", 5, 4, 0),
            "s": ("vit-scratch", "full", 50, 2, 0),
            "s-1": ("vit-1-scratch", "full", 50, 4, 1),
            "r": ("resnet18-scratch", "full", 50, 1, 0),
            "hub": ("deit", "full", 50, 10, 0),
        }
    )
    assert [
        (
            each.model,
            each.protocol,
            each.data,
            each.images,
            each.target_images,
            each.rows,
            each.correct.mean(1).tolist(),
        )
        for each in found
    ] == [
        ("vit", "full", "things", 100, 5, ["b-few"], [0.4]),
        ("vit", "full", "", 0, 50, ["s", "s-1"], [0.2, 0.4]),
        ("vit", "full", "things", 30, 50, ["a", "a-1"], [0.6, 0.8]),
        ("vit", "full", "things", 100, 50, ["b"], [0.9]),
        ("vit", "linear_probe", "things", 30, 50, ["p"], [0.3]),
        ("resnet18", "full", "", 0, 50, ["r"], [0.1]),
    ]
    line = {
        "model": "vit",
        "protocol": "full",
        "pretrained_on": "things",
        "images": 30,
        "target_images": 50,
        "seeds": 2,
    }
    assert table(found)["points"][2].items() >= (line | {"accuracy": pytest.approx(0.7)}).items()


def test_weights_of_others_are_a_point_where_their_images_are_known(results):
    """DeiT's rows are missing, stand at another number of images, or pass for our own pretraining."""
    rows = {"a": ("small", "full", 50, 6, 0), "hub": ("deit", "full", 50, 10, 0)}
    found = results(rows, known=True)
    assert [(each.model, each.data, each.images, each.others) for each in found] == [
        ("vit", "things", 30, ""),
        ("deit", "web", 5000, "famous/deit"),
    ]
    assert list(curves_of(found)) == [("vit", "full", "things")]


def test_steps_are_those_of_the_training(results):
    """Two data sets pass for trained alike though one took other steps, or a fraction for trained less."""
    [few, all_] = results({"a": ("small", "full", 50, 6, 0), "b": ("big", "full", 50, 9, 0)})
    assert (few.images, all_.images) == (30, 100)
    assert few.steps == all_.steps == 9 * (100 // 8)


def test_longer_control_belongs_to_its_point(results):
    """The untrained start that was fine-tuned for longer is a point of the curve, or another length's control."""
    rows = {"a": ("small", "full", 50, 6, 0), "s": ("vit-scratch", "full", 50, 2, 0)}
    [nothing, trained] = results(rows | {"b": ("vit-scratch", "full", 50, 5, 0)}, epochs=4 + 9)
    assert (nothing.rows, nothing.longer, trained.rows) == (["s"], None, ["a"])
    assert trained.longer.rows == ["b"] and trained.longer.accuracy == 0.5
    with pytest.raises(UserError, match="rows.b and rows.s would be one point"):
        results(rows | {"b": ("vit-scratch", "full", 50, 5, 0)}, epochs=4 + 8)


def test_other_test_images_are_refused(results):
    with pytest.raises(UserError, match="b was scored on other test images"):
        results({"a": ("small", "full", 50, 6, 0), "b": ("big", "full", 50, 6, 0)}, swapped="b")


@pytest.mark.parametrize(
    ("second", "changes"),
    [
        (("small-1", "full", 50, 6, 0), {}),
        (("small-1", "full", 50, 6, 1), {"epochs": 5}),
        (("longer", "full", 50, 6, 1), {}),
    ],
    ids=["same seed", "longer", "longer pretraining"],
)
def test_rows_that_differ_in_more_than_seeds_are_refused(results, second, changes):
    """A longer training, or the same seed twice, passes for another seed of the same point."""
    with pytest.raises(UserError, match="rows.b and rows.a would be one point"):
        results({"a": ("small", "full", 50, 6, 0), "b": second}, **changes)


# Intervals
def test_spread_is_pooled_over_a_models_points():
    """A point with one training has none, others get a model's they don't belong to, or a page hides what it is over."""
    made = pooled(
        [
            point(10, 0.5, 0.52),
            point(100, 0.7),
            point(10, 0.4, model="resnet18"),
            point(10, 0.6, target_images=10),
        ]
    )
    assert made[0].spread == made[1].spread is not None
    assert made[2].spread is made[3].spread is None
    assert made[0].spread.variance == pytest.approx(2 * 0.01**2) and made[0].spread.freedom == 1
    assert [each.covers for each in made[:3]] == [
        "2 trainings; test images and trainings",
        "one training; test images and trainings",
        "one training; test images only",
    ]
    assert all(f"| {each.covers} |" in page(made, {}, "x") for each in made)
    assert made[2].interval == pytest.approx(wilson(400, 1000))


# Slopes
@pytest.mark.parametrize("exponent", [-0.3, -0.05, 0.1])
def test_slope_is_the_exponent(exponent):
    """The error's exponent isn't found, or the untrained start's point enters it."""
    curve = [point(0, 0.1, total=100_000), *power(exponent, scale=0.2)]
    value, half = slope(pooled(curve))
    assert value == pytest.approx(exponent, abs=2e-3) and 0 < half < 0.03


@pytest.mark.parametrize(("seeds", "shared"), [(0.1, 1.0), (0.02, 1.0), (0.02, 0.3)])
def test_slope_holds_the_truth_as_often_as_promised(seeds, shared):
    """The interval forgets seeds, test images, or that a point's seeds share those, and so misses the true slope too often."""
    rng, held, trials, levels, counts = (
        np.random.default_rng(1),
        0,
        150,
        [0.2, 0.35, 0.5, 0.65],
        [1000, 3000, 10_000, 30_000],
    )
    true = np.polyfit(
        np.log(counts), np.log([1 - stats.norm.cdf(level / math.sqrt(2 + seeds**2)) for level in levels]), 1
    )[0]
    for _ in range(trials):
        easy = rng.normal(size=1000)
        curve = []
        for images, level in zip(counts, levels):
            ease = math.sqrt(shared) * easy + math.sqrt(1 - shared) * rng.normal(size=1000)
            skill = level + seeds * rng.normal(size=(3, 1))
            curve.append(made(skill + ease + rng.normal(size=(3, 1000)) > 0, images))
        value, half = slope(pooled(curve))
        held += abs(value - true) <= half
    assert held / trials >= 0.93


@pytest.mark.parametrize(
    "curve",
    [
        [point(10, 0.5), point(100, 0.6, 0.7)],
        [point(0, 0.4), point(10, 0.5), point(100, 0.6)],
        [point(10, 0.5), point(100, 0.9), point(1000, 1.0)],
    ],
    ids=["two", "two and none", "no error"],
)
def test_no_slope_where_there_can_be_none(curve):
    assert slope(curve) is None
