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
from vitscale.results.scaling import curves_of
from vitscale.results.scaling_findings import findings
from vitscale.results.scaling_page import drawing, page

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
            each.interval
            for each in made
            if each.accuracy == value["accuracy"] and each.model == value["model"]
        }
        assert (value["low"], value["high"]) == same
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


def test_the_stage_runs(forked, tmp_path):
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
        ["python", "../../stages/scaling.py", "scaling"], cwd=folder, text=True, capture_output=True
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
        r"\| vit \| full \| cifar100 \| 1,420 \| 47,500 \| .* \| 3 trainings; test images and trainings \|",
        text,
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
