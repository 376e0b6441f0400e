"""examples/scaling: its entries are what the study asks for, and its stage makes the page of them."""

import hashlib
import json
import os
import re
import shutil
import subprocess

import numpy as np

from curves import prepared, write_scores
from dvcyaml import HARMLESS, imported
from tiny import ROOT
from vitscale.base.config import read_yaml
from vitscale.pipeline.consistency import check
from vitscale.results.configurations import model_names

EXAMPLE = ROOT / "examples/scaling"
PARAMS = read_yaml(EXAMPLE / "params.yaml")


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
    """The two pipelines have other recipes, weights or figures for the rows that carry one name."""
    study = read_yaml(ROOT / "params.yaml")
    rows = [row for row in PARAMS["rows"] if PARAMS["rows"][row]["start"] in PARAMS["weights"]]
    assert rows == ["deit_tiny-imagenet1k", "deit_tiny-imagenet1k-probe"]
    for row in rows:
        assert PARAMS["rows"][row] == study["rows"][row]
        recipe = study["rows"][row]["recipe"]
        assert PARAMS["recipes"][recipe] == study["recipes"][recipe]
        here, there = (EXAMPLE / f"metrics/rows/{row}.json"), (ROOT / f"metrics/rows/{row}.json")
        assert here.read_bytes() == there.read_bytes()
    assert PARAMS["weights"] == {"deit_tiny-imagenet1k": study["weights"]["deit_tiny-imagenet1k"]}


def test_the_example_is_what_the_study_asks_for():
    """A fraction, a seed, a protocol or the second axis is missing, or points of a model differ in more than they should."""
    check(PARAMS)
    names = model_names(PARAMS["models"])
    seeds = 3
    for model, further in (("vit", True), ("vit_hybrid", False), ("resnet18", True)):
        entries = {
            name: entry for name, entry in PARAMS["pretrain"].items() if names[entry["model"]] == model
        }
        assert sorted((entry["data"], entry["fraction"], entry["seed"]) for entry in entries.values()) == [
            *(("cifar100", fraction, seed) for fraction in (0.03, 0.1, 0.3, 1.0) for seed in range(seeds)),
            *(("tinyimagenet", 1.0, seed) for seed in range(seeds) if further),
        ]
        rows = {
            name: row
            for name, row in PARAMS["rows"].items()
            if row["start"] in entries or names.get(row["start"].removesuffix("-scratch")) == model
        }
        longer = [rows.pop(name) for name in list(rows) if "-scratch-long" in name]
        [epochs] = {entry["epochs"] for entry in entries.values() if entry["data"] == "cifar100"}
        assert longer == [
            row | {"epochs": row["epochs"] + epochs}
            for row in rows.values()
            if row["protocol"] == "full" and row["start"] not in entries
        ]
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
        ) == [
            (protocol, 1.0, seed) for protocol in ("full", "linear_probe") for seed in range(seeds) if further
        ]
        assert sorted(asked) == sorted(
            [
                (protocol, 1.0, fraction, seed)
                for protocol in ("full", "linear_probe")
                for fraction in (0, 0.03, 0.1, 0.3, 1.0)
                for seed in range(seeds)
            ]
            + [("full", fraction, 1.0, seed) for fraction in (0.01, 0.1) for seed in range(seeds) if further]
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
        len(figures["points"]) == 2 * (6 + 6 + 2) + (5 + 5) + 2
        and len(figures["slopes"]) == 6
        and (folder / "metrics/scaling.svg").read_text().startswith("<svg")
    )
    text = (folder / "metrics/scaling.md").read_text()
    assert re.search(
        r"\| vit \| full \| cifar100 \| 1,4\d\d \| 47,500 \| .* \| 3 trainings; test images and trainings \|",
        text,
    )
    assert "(vit 1,484; resnet18 742; vit_hybrid 1,484)" in text
    assert text.count(" against an untrained start fine-tuned for the epochs of both, which gets ") == 3
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
