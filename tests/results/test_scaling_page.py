"""What the scaling curve's page and picture say, and the example's own."""

import hashlib
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import vl_convert

from curves import point, pooled, power, prepared, write_scores
from dvcyaml import HARMLESS, imported
from tiny import ROOT
from vitscale.base.config import read_yaml
from vitscale.base.entries import Published
from vitscale.pipeline.consistency import check
from vitscale.results.configurations import model_names
from vitscale.results.drawn import PAPER
from vitscale.results.scaling import curves_of
from vitscale.results.scaling_findings import findings
from vitscale.results.scaling_page import page
from vitscale.results.scaling_picture import drawing

EXAMPLE = ROOT / "examples/scaling"
PARAMS = read_yaml(EXAMPLE / "params.yaml")


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
    return pooled(found)


def test_page(made):
    """A figure isn't on the page, or a published point passes for a measured one."""
    text = page(made, PUBLISHED, "cifar10")
    assert (
        "| vit | full | — | 0 | 1,000 | 31.00% | " in text
        and "| vit | full | cifar100 | 30,000 | 10 | 41.00% | " in text
    )
    assert (
        "(famous 94.64%): a course project's" in text and "outside 1,000 to 30,000 images of cifar100" in text
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
            each.interval
            for each in made
            if each.accuracy == value["accuracy"] and each.model == value["model"]
        }
        assert (value["low"], value["high"]) == same
    assert len(drawing(made[:5], {}, "cifar10")["hconcat"]) == 1


@pytest.fixture(scope="module")
def more(made):
    """The curves, a point of another data set, and one of weights that others trained."""
    single = [
        point(9000, 0.5, 0.52, model=model, data="other", steps=7, total=100_000)
        for model in ("vit", "resnet18")
    ]
    others = point(1_281_167, 0.95, model="deit", data="web", others="famous/deit", total=100_000)
    return [*made, *pooled([*single, others])]


def test_page_says_what_stands_beside_the_curves(more):
    """Another's weights pass for ours, or a point of other data for a point of the curve."""
    text = page(more, {}, "cifar10")
    assert "| deit | full | web, by others | 1,281,167 | 1,000 | 95.00% | " in text
    assert "| vit | full | other | 9,000 | 1,000 | 51.00% | " in text
    shown, open_ = text.split("## What it doesn't show")
    assert "deit" not in shown.split("## What the curve shows")[1]
    assert "outside 1,000 to 30,000 images of cifar100 and 9,000 images of other, or other data" in open_
    assert "cifar100 and other differ by their numbers of images or by the images and classes" in open_
    assert "deit (famous/deit, pretrained on web) is another model" in open_
    assert "the same number of steps at every number of pretraining images (vit 7; resnet18 7)" in open_
    alone = page(more[:9], {}, "cifar10")
    assert "web" not in alone and "differ by their" not in alone and "Weights that others" not in alone


def test_page_says_where_the_steps_differ(more):
    """The page says "the same number of steps" of points that had more and fewer."""
    text = page([*more, point(100, 0.4, data="other", steps=8, total=100_000)], {}, "cifar10")
    assert "other steps at every number of pretraining images (vit 7 or 8; resnet18 7)" in text


def test_picture_draws_what_stands_beside_the_curves(more):
    """A point of other data is on a line or filled like the curve's, another's weights are one of our points, or the second panel is of the wrong start."""
    spec = drawing(more, {}, "cifar10")
    values = spec["hconcat"][0]["data"]["values"]
    hollow = [(value["model"], value["images"]) for value in values if value["hollow"]]
    assert hollow == [("resnet18", 9000), ("vit", 9000)] and len(values) == 9 + len(hollow)
    lines = [value["curve"] for value in values if value["hollow"]]
    assert len(set(lines)) == 2 and not set(lines) & {
        value["curve"] for value in values if not value["hollow"]
    }
    svg = vl_convert.vegalite_to_svg(spec)
    for words in (
        "full, pretrained by others",
        "deit",
        "1,281,167",
        "filled: pretrained on cifar100; hollow: pretrained on other",
        "cifar10 images, after pretraining on 30,000",
    ):
        assert f">{words}</text>" in svg, words
    assert svg.count(f'fill="{PAPER}"') == 1 + 2, "the paper and the hollow points"


# The example
def test_code_dependencies_are_what_is_imported():
    stage = read_yaml(EXAMPLE / "dvc.yaml")["stages"]["scaling"]["do"]
    listed = {dep.replace("${root}/", "") for dep in stage["deps"] if dep.endswith(".py")}
    assert listed == imported(ROOT / "stages/scaling.py") - HARMLESS | {"stages/scaling.py"}


TRAIN_IMAGES = {"cifar100": 47_499, "tinyimagenet": 95_000}


def schedule(entry: dict) -> tuple[int, int]:
    """Return a pretraining's steps and those of its warm-up, as training.loop has them."""
    recipe = PARAMS["recipes"][entry["recipe"]]
    each = TRAIN_IMAGES[entry["data"]] // recipe["batch_size"]
    return entry["epochs"] * each, round(recipe["warmup_epochs"] * each)


def as_on_cifar100(entry: dict) -> dict:
    """Return a pretraining with what must differ by its data put back: epochs, and the recipe with its warm-up."""
    return {
        **entry,
        "data": "any",
        "epochs": schedule(entry),
        "recipe": PARAMS["recipes"][entry["recipe"]] | {"warmup_epochs": "any"},
    }


def test_deits_rows_are_the_studys():
    """The two pipelines have other recipes for the rows that carry one name, or other weights."""
    study = read_yaml(ROOT / "params.yaml")
    rows = [row for row in PARAMS["rows"] if PARAMS["rows"][row]["start"] in PARAMS["weights"]]
    assert rows == ["deit_tiny-imagenet1k", "deit_tiny-imagenet1k-probe"]
    for row in rows:
        assert PARAMS["rows"][row] == study["rows"][row]
        assert (
            PARAMS["recipes"][PARAMS["rows"][row]["recipe"]] == study["recipes"][study["rows"][row]["recipe"]]
        )
    assert PARAMS["weights"] == {"deit_tiny-imagenet1k": study["weights"]["deit_tiny-imagenet1k"]}


def test_the_example_is_what_the_study_asks_for():
    """A fraction, a seed, a protocol or the second axis is missing, or points of a model differ in more than they should."""
    check(PARAMS)
    names = model_names(PARAMS["models"])
    for model, seeds in (("vit", 3), ("resnet18", 3)):
        entries = {
            name: entry for name, entry in PARAMS["pretrain"].items() if names[entry["model"]] == model
        }
        assert sorted((entry["data"], entry["fraction"], entry["seed"]) for entry in entries.values()) == [
            *(("cifar100", fraction, seed) for fraction in (0.03, 0.1, 0.3, 1.0) for seed in range(seeds)),
            *(("tinyimagenet", 1.0, seed) for seed in range(seeds)),
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
            if "tinyimagenet" not in row["start"]
        ]
        assert sorted(
            (row["protocol"], row["fraction"], row["seed"])
            for row in rows.values()
            if "tinyimagenet" in row["start"]
        ) == [(protocol, 1.0, seed) for protocol in ("full", "linear_probe") for seed in range(seeds)]
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
            [as_on_cifar100(entry) for entry in entries.values()],
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


def test_the_stage_runs(forked, tmp_path):
    """The stage uses something that dvc.yaml doesn't list, or leaves other files than it says."""
    folder = tmp_path / "examples/scaling"
    folder.mkdir(parents=True)
    for name in ("src", "stages"):
        os.symlink(ROOT / name, tmp_path / name)
    for name in ("params.yaml", "dvc.yaml", "root.yaml"):
        shutil.copy(EXAMPLE / name, folder)
    for data, images in TRAIN_IMAGES.items():
        prepared(folder / f"data/prepared/{data}/train", images)
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
        ["python", "../../stages/scaling.py", "scaling"], cwd=folder, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "metrics/scaling.json").read_text())
    assert (
        len(figures["points"]) == 2 * (6 + 6 + 2) + 2
        and len(figures["slopes"]) == 4
        and (folder / "metrics/scaling.svg").read_text().startswith("<svg")
    )
    text = (folder / "metrics/scaling.md").read_text()
    assert re.search(
        r"\| vit \| full \| cifar100 \| 1,4\d\d \| 47,500 \| .* \| 3 trainings; test images and trainings \|",
        text,
    )
    assert "(resnet18 742; vit 1,484)" in text
    assert "(scaling.svg)" in text
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
