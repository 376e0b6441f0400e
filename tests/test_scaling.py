"""The scaling curve: what its points, intervals, slopes and sentences say of rows whose figures are known."""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import vl_convert
from scipy import stats

from made import study
from test_graph import HARMLESS, imported
from tiny import ROOT
from vitscale.base.config import read_yaml
from vitscale.base.entries import Published
from vitscale.base.errors import UserError
from vitscale.base.files import write_metrics
from vitscale.data.arrays import SplitWriter
from vitscale.pipeline.consistency import check
from vitscale.results.scaling import Point, compared, curves_of, model_names, points, pool_seeds, slope
from vitscale.results.scaling_page import crossing, drawing, findings, page, table
from vitscale.results.tables import by_class

EXAMPLE = ROOT / "examples/scaling"
PARAMS = read_yaml(EXAMPLE / "params.yaml")


def point(
    images: int,
    *accuracies: float,
    model: str = "vit",
    data: str = "cifar100",
    target_images: int = 1000,
    total: int = 1000,
) -> Point:
    """Return a point whose seeds got exactly so many of `total` test images right, the first ones."""
    correct = np.stack([np.arange(total) < round(accuracy * total) for accuracy in accuracies])
    return Point(
        model, "full", data if images else "", images, target_images, ["row"] * len(accuracies), correct
    )


def power(exponent: float, model: str = "vit", scale: float = 1.0) -> list[Point]:
    return [
        point(
            images,
            *(1 - scale * wobble * images**exponent for wobble in (0.99, 1.0, 1.01)),
            model=model,
            total=100_000,
        )
        for images in (1_000, 3_000, 10_000, 30_000)
    ]


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


def prepared(folder, images: int) -> None:
    """Write a split of so many images of a pixel, of ten classes."""
    writer = SplitWriter(folder, images, 1, list("abcdefghij"))
    writer.add(np.zeros((images, 1, 1, 3), dtype=np.uint8), np.arange(images) % 10)
    writer.close()


def write_scores(
    folder, name: str, images: int, labels: np.ndarray, right: int, scores: str = "scores"
) -> None:
    """Write the metrics of a row that was trained on so many images and has so many test images right, the first ones."""
    write_metrics(folder / f"history/finetune/{name}.json", {"train_images": images})
    predicted = np.where(np.arange(len(labels)) < right, labels, labels + 1)
    write_metrics(folder / f"{scores}/{name}.json", by_class(labels, predicted, list("abcdefghijk")))


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

    def lay_out(rows: dict, swapped: str | None = None, **changes):
        prepared(tmp_path / "prepared/things/train", 100)
        for name, (start, protocol, images, right, seed) in rows.items():
            params["rows"][name] = {"start": start, "protocol": protocol, "seed": seed, "epochs": 4} | (
                changes if name == "b" else {}
            )
            labels = np.arange(10) % 2 if name != swapped else np.arange(1, 11) % 2
            write_scores(tmp_path, name, images, labels, right)
        return points(
            study(params["rows"], params["pretrain"], tmp_path, models=params["models"]),
            tmp_path / "prepared",
        )

    return lay_out


PRETRAIN = {
    "small": ("vit", "things", 30, 0, 9),
    "small-1": ("vit-1", "things", 30, 1, 9),
    "big": ("vit", "things", 100, 0, 9),
    "longer": ("vit-1", "things", 30, 1, 10),
}


def test_points_of_rows(results):
    """Seeds aren't joined, protocols, fractions or sets are, or another's weights count as ours."""
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
        ("resnet18", "full", "", 0, 50, ["r"], [0.1]),
        ("vit", "full", "things", 100, 5, ["b-few"], [0.4]),
        ("vit", "full", "", 0, 50, ["s", "s-1"], [0.2, 0.4]),
        ("vit", "full", "things", 30, 50, ["a", "a-1"], [0.6, 0.8]),
        ("vit", "full", "things", 100, 50, ["b"], [0.9]),
        ("vit", "linear_probe", "things", 30, 50, ["p"], [0.3]),
    ]
    line = {
        "model": "vit",
        "protocol": "full",
        "pretrained_on": "things",
        "images": 30,
        "target_images": 50,
        "seeds": 2,
    }
    assert table(found)["points"][3].items() >= (line | {"accuracy": pytest.approx(0.7)}).items()


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


def test_intervals_cover_what_they_promise():
    """Of draws of seeds and test images, fewer than 95% of the intervals hold the true accuracy, or far more do."""
    rng, held, trials = np.random.default_rng(0), 0, 400
    for _ in range(trials):
        made = []
        for images in (10, 100, 1000, 10_000):
            hardness = rng.normal(size=500)
            skills = 1.0 + 0.15 * rng.normal(size=3)
            correct = skills[:, None] + hardness + rng.normal(size=(3, 500)) > 0
            made.append(Point("vit", "full", "x", images, 1, ["a"] * 3, correct))
        pool_seeds(made)
        truth = stats.norm.cdf(1.0 / math.sqrt(2 + 0.15**2))
        held += sum(abs(each.accuracy - truth) <= each.half for each in made)
    assert 0.94 <= held / (4 * trials) <= 0.99


def test_intervals_by_hand():
    """Seeds aren't pooled over a model's points of as many target images alone, or others get their variance."""
    made = [
        point(10, 0.5, 0.52),
        point(100, 0.7),
        point(10, 0.4, model="resnet18"),
        point(10, 0.6, target_images=10),
    ]
    pool_seeds(made)
    images = [1.959964 * math.sqrt(p * (1 - p) / 1000) for p in (0.5, 0.7, 0.4)]
    variance = 2 * 0.01**2 / 1
    t = stats.t.ppf(0.975, 1)
    assert made[0].over_seeds == pytest.approx(t * math.sqrt(variance / 2)) and made[
        1
    ].over_seeds == pytest.approx(t * math.sqrt(variance))
    assert made[2].over_seeds == made[3].over_seeds == 0 and made[2].half == pytest.approx(images[2])
    assert "| ± 1.52%, test images alone |" not in page(
        made[:2], {}, "x"
    ) and ", test images alone |" in page(made, {}, "x")
    assert made[1].half == pytest.approx(math.hypot(images[1], made[1].over_seeds))


def test_a_comparison_is_paired_over_test_images():
    first, second = point(10, 0.6), point(10, 0.55)
    gain, half = compared(first, second)
    assert gain == pytest.approx(0.05) and half == pytest.approx(1.959964 * math.sqrt(0.05 * 0.95 / 1000))
    first.over_seeds, second.over_seeds = 0.03, 0.04
    assert compared(first, second)[1] == pytest.approx(math.hypot(half, 0.05)) and compared(second, first)[
        0
    ] == pytest.approx(-0.05)


# Slopes


@pytest.mark.parametrize("exponent", [-0.3, -0.05, 0.1])
def test_slope_is_the_exponent(exponent):
    """The error's exponent isn't found, or the untrained start's point enters it."""
    curve = [point(0, 0.1, total=100_000), *power(exponent, scale=0.2)]
    pool_seeds(curve)
    value, half = slope(curve)
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
            curve.append(
                Point("vit", "full", "x", images, 1, ["a"] * 3, skill + ease + rng.normal(size=(3, 1000)) > 0)
            )
        pool_seeds(curve)
        value, half = slope(curve)
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


# What is said


def said_of(*lines: list[Point]) -> str:
    made = [each for line in lines for each in line]
    pool_seeds(made)
    return "\n".join(findings(made))


def test_sentences_follow_the_figures():
    """A sentence claims a trend or a gain that the figures don't have."""
    assert "the error falls with pretraining images; its slope is -0.200 ± 0." in said_of(power(-0.2))
    assert "the error rises" in said_of(power(0.1, scale=0.2))
    flat = [point(images, 0.5, 0.6, 0.4) for images in (10, 100, 1000)]
    assert "neither clearly falls nor rises" in said_of(flat)
    assert "no slope" in said_of(flat[:2])
    assert (
        "pretraining on 30,000 images gains against an untrained start with the same fine-tuning (+"
        in said_of([point(0, 0.2, 0.2, total=100_000), *power(-0.2)])
    )
    assert "loses against an untrained start with the same fine-tuning (-" in said_of(
        [point(0, 0.95, 0.95, total=100_000), *power(-0.2)]
    )
    assert "makes no difference beyond the interval against" in said_of([point(0, 0.5, 0.6, 0.4), *flat])


def of(model, *accuracies):
    made = [
        point(images, accuracy, accuracy, model=model, total=10_000)
        for images, accuracy in zip((0, 100, 1000), accuracies)
    ]
    pool_seeds(made)
    return made


@pytest.mark.parametrize(
    ("resnet", "vit", "listed", "end"),
    [
        (
            (0.5, 0.6, 0.7),
            (0.4, 0.6, 0.8),
            "resnet18 at 0; neither at 100; vit at 1,000",
            "the lead changes within what was measured",
        ),
        (
            (0.5, 0.6, 0.7),
            (0.4, 0.5, 0.6),
            "resnet18 at 0; resnet18 at 100; resnet18 at 1,000",
            "neither curve overtakes the other within what was measured",
        ),
        (
            (0.5, 0.6, 0.7),
            (0.4, 0.6, 0.7),
            "resnet18 at 0; neither at 100; neither at 1,000",
            "whether one overtakes the other is not settled",
        ),
        (
            (0.5, 0.6, 0.7),
            (0.5, 0.6, 0.7),
            "neither at 0; neither at 100; neither at 1,000",
            "whether one overtakes the other is not settled",
        ),
        ((0.5,), (0.4, 0.5), "resnet18 at 0", "neither curve overtakes the other within what was measured"),
    ],
)
def test_who_is_ahead(resnet, vit, listed, end):
    """The lead is told other than the figures have it, or a change of it, or its absence, that isn't there."""
    first, second = of("resnet18", *resnet), of("vit", *vit)
    text = crossing(first, second, "full")
    assert (
        text
        == f"full, which of resnet18 and vit is ahead beyond the interval by pretraining images: {listed}. So {end}."
    )
    assert len(resnet) < 2 or text.replace("full", "full, cifar100", 1) in findings(first + second)


def test_curves_are_of_all_target_images_and_begin_with_nothing():
    made = [
        point(0, 0.3),
        point(10, 0.5),
        point(10, 0.2, target_images=10),
        point(20, 0.6, data="other"),
        point(0, 0.3, model="resnet18"),
    ]
    assert {key: [each.accuracy for each in curve] for key, curve in curves_of(made).items()} == {
        ("vit", "full", "cifar100"): [0.3, 0.5],
        ("vit", "full", "other"): [0.3, 0.6],
    }


PUBLISHED = {"famous": Published(accuracy=0.9464, protocol="full", images=1_281_167)}


@pytest.fixture(scope="module")
def made():
    found = [
        point(0, 0.3, 0.32, total=100_000),
        *power(-0.1),
        point(30_000, 0.4, 0.42, target_images=10, total=100_000),
        *power(-0.05, "resnet18"),
    ]
    pool_seeds(found)
    return found


def test_page(made):
    """A figure isn't on the page, or a published point passes for a measured one."""
    text = page(made, PUBLISHED, "cifar10")
    assert (
        "| vit | full | — | 0 | 1,000 | 2 | 31.00% | ± " in text
        and "| vit | full | cifar100 | 30,000 | 10 | 2 | 41.00% |" in text
    )
    assert (
        "(famous 94.64%): a course project's" in text and "outside 1,000 to 30,000 pretraining images" in text
    )
    assert "published" not in page(made, {}, "cifar10")
    assert all(line in text for line in findings(made))


def test_picture_draws_every_figure(made):
    """A point or its interval is missing, lies elsewhere than its figures, or the log axis has no place for nothing."""
    spec = drawing(made, PUBLISHED, "cifar10")
    svg = vl_convert.vegalite_to_svg(spec)
    assert svg == vl_convert.vegalite_to_svg(drawing(made, PUBLISHED, "cifar10"))
    for words in (
        "none",
        "30,000",
        "1,281,167",
        "famous",
        "resnet18",
        "pretraining images",
        "cifar10 images, after pretraining on 30,000",
    ):
        assert f">{words}</text>" in svg, words
    first, second = (panel["data"]["values"] for panel in spec["hconcat"])
    assert len(first) == 9 and min(value["images"] for value in first) > 0
    assert sorted((value["model"], value["images"]) for value in second) == [
        ("resnet18", 1000),
        ("vit", 10),
        ("vit", 1000),
    ]
    for value in first + second:
        [same] = {
            each.half for each in made if each.accuracy == value["accuracy"] and each.model == value["model"]
        }
        assert value["high"] - value["accuracy"] == pytest.approx(same) and value["accuracy"] - value[
            "low"
        ] == pytest.approx(same)
    assert len(drawing(made[:5], {}, "cifar10")["hconcat"]) == 1


# The example


def test_code_dependencies_are_what_is_imported():
    stage = read_yaml(EXAMPLE / "dvc.yaml")["stages"]["scaling"]["do"]
    listed = {dep.replace("${root}/", "") for dep in stage["deps"] if dep.endswith(".py")}
    assert listed == imported(ROOT / "stages/scaling.py") - HARMLESS | {"stages/scaling.py"}


def test_the_example_is_what_the_study_asks_for():
    """A fraction, a seed, a protocol or the second axis is missing, or points of a model differ in more than they should."""
    check(PARAMS)
    names = model_names(PARAMS["models"])
    for model, seeds in (("vit", 3), ("resnet18", 3)):
        entries = {
            name: entry for name, entry in PARAMS["pretrain"].items() if names[entry["model"]] == model
        }
        assert sorted((entry["fraction"], entry["seed"]) for entry in entries.values()) == [
            (fraction, seed) for fraction in (0.03, 0.1, 0.3, 1.0) for seed in range(seeds)
        ]
        rows = {
            name: row
            for name, row in PARAMS["rows"].items()
            if row["start"] in entries or names.get(row["start"].removesuffix("-scratch")) == model
        }
        asked = [
            (
                row["protocol"],
                row["fraction"],
                entries.get(row["start"], {"fraction": 0})["fraction"],
                row["seed"],
            )
            for row in rows.values()
        ]
        assert sorted(asked) == sorted(
            [
                (protocol, 1.0, fraction, seed)
                for protocol in ("full", "linear_probe")
                for fraction in (0, 0.03, 0.1, 0.3, 1.0)
                for seed in range(seeds)
            ]
            + [("full", fraction, 1.0, seed) for fraction in (0.01, 0.1) for seed in range(seeds)]
        )
        for group in (
            entries.values(),
            [row for row in rows.values() if row["protocol"] == "full"],
            [row for row in rows.values() if row["protocol"] == "linear_probe"],
        ):
            alike = [
                {
                    key: value
                    for key, value in entry.items()
                    if key not in ("model", "start", "inputs", "fraction", "seed")
                }
                for entry in group
            ]
            assert all(each == alike[0] for each in alike)
        for entry in [*entries.values(), *rows.values()]:  # a seed is that of the weights too
            start = (
                entry.get("model")
                or PARAMS["pretrain"].get(entry["start"], {"model": entry["start"].removesuffix("-scratch")})[
                    "model"
                ]
            )
            assert PARAMS["models"][start]["seed"] == entry["seed"]


def test_the_stage_runs(tmp_path, made):
    """The stage uses something that dvc.yaml doesn't list, or leaves other files than it says."""
    folder = tmp_path / "examples/scaling"
    folder.mkdir(parents=True)
    for name in ("src", "stages"):
        os.symlink(ROOT / name, tmp_path / name)
    for name in ("params.yaml", "dvc.yaml", "root.yaml"):
        shutil.copy(EXAMPLE / name, folder)
    prepared(folder / "data/prepared/cifar100/train", 47_500)
    for number, (name, row) in enumerate(PARAMS["rows"].items()):
        write_scores(
            folder / "metrics",
            name,
            round(47_500 * row["fraction"]),
            np.arange(100) % 10,
            50 + number % 7,
            "rows",
        )
    done = subprocess.run(
        [sys.executable, "../../stages/scaling.py", "scaling"], cwd=folder, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "metrics/scaling.json").read_text())
    assert (
        len(figures["points"]) == 2 * (5 + 5 + 2)
        and len(figures["slopes"]) == 4
        and (folder / "metrics/scaling.svg").read_text().startswith("<svg")
    )
    text = (folder / "metrics/scaling.md").read_text()
    assert re.search(
        r"\| vit \| full \| cifar100 \| 1,420 \| 47,500 \| 3 \|", text
    )  # 142 a class and "(scaling.svg)" in text
    assert sorted(path.name for path in (folder / "metrics").glob("*.*")) == [
        "scaling.json",
        "scaling.md",
        "scaling.svg",
    ]


def test_page_in_git_is_the_one_that_the_run_left():
    """DVC keeps the stage's page and git doesn't: its copy for readers is an older one."""
    left = next(
        out
        for out in read_yaml(EXAMPLE / "dvc.lock")["stages"]["scaling@scaling"]["outs"]
        if out["path"] == "metrics/scaling.md"
    )
    copied = (EXAMPLE / "README.md").read_bytes().replace(b"(metrics/scaling.svg)", b"(scaling.svg)")
    assert hashlib.md5(copied).hexdigest() == left["md5"], (
        "sed 's#(scaling.svg)#(metrics/scaling.svg)#' metrics/scaling.md > README.md"
    )
