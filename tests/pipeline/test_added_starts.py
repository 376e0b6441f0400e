"""Starts and data sets that the examples add, on models and images as they are served."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from served import served_by_torchvision
from tiny import PARAMS, ROOT, run, stages_run, tiny, write_params
from vitscale.base.config import read_yaml
from vitscale.data.sources import Download, bring

pytestmark = pytest.mark.usefixtures("forked")


def few_images(mirror: Path, name: str = "few", image_size: int = 32) -> dict:
    """Put a folder of 24 images of 32 px into a mirror; return its entry of `download`."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label in ("0", "1"):
            (mirror / name / split / label).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                    mirror / name / split / label / f"{i}.png"
                )
    entry = {"source": "imagefolder", "image_size": image_size, "sha256": {}}
    return entry | {"sha256": bring(name, Download(**entry), mirror / "written", mirror / "kept")}


@pytest.mark.parametrize(
    "start",
    ["resnet18-imagenet1k", pytest.param("vit_b16-imagenet1k", marks=pytest.mark.slow)],  # 86M weights
)
def test_the_example_runs_where_the_weights_are(mirror, tmp_path, start):
    """examples/imagenet1k doesn't run where the weights can be had, or its rows don't stand beside the published figures."""
    params = read_yaml(ROOT / "examples/imagenet1k/params.yaml")
    entry, _ = served_by_torchvision(mirror, params["weights"][start]["name"])
    rows = {name: params["rows"][name] for name in (start, f"{start}-probe")}
    rows[start] |= {"epochs": 1, "sizes": [32]}
    folder = tiny(
        tmp_path / "repo",
        target="few",
        download={"few": few_images(mirror)},
        prepare={"few": {"validation": 0.25}},
        models={},
        pretrain={},
        weights={start: params["weights"][start] | {"sha256": entry["sha256"]}},
        features={start: params["features"][start]},
        rows=rows,
        **{section: params[section] for section in ("augment", "recipes", "published")},
    )
    run("dvc", "repro", "-q", cwd=folder)
    table, published = (
        (folder / "metrics/summary.md").read_text(),
        params["published"][f"{start}-probe"]["accuracy"],
    )
    assert re.search(rf"\| {start} \| \S+M \| imagenet1k \| full \| \d", table)
    assert re.search(
        rf"\| {start}-probe \| \S+M \| imagenet1k \| linear_probe \| \d.*\| {published:.2%} \|", table
    )
    config = json.loads((folder / f"models/finetuned/{start}-probe/config.json").read_text())
    assert config["image_size"] == 224 and config["classes"] == ["0", "1"]
    assert "up to date" in run("dvc", "status", cwd=folder).stdout


def test_the_example_pretrains_on_imagenet100(mirror, tmp_path):
    """examples/imagenet100 doesn't run on a folder of images, or pinning them trains again."""
    params = read_yaml(ROOT / "examples/imagenet100/params.yaml")
    found = few_images(mirror, "imagenet100", 224)["sha256"]
    for entry in params["pretrain"].values():
        assert (
            entry["epochs"] == 200
            and entry["sizes"] == [224]
            and params["recipes"][entry["recipe"]]["batch_size"] == 256
        )
        entry["epochs"] = 1
        params["recipes"][entry["recipe"]] |= {"batch_size": 4, "warmup_epochs": 0, "compile": False}
    download, prepare = (
        PARAMS[section] | {"imagenet100": params[section]["imagenet100"]}
        for section in ("download", "prepare")
    )
    folder = tiny(
        tmp_path / "repo",
        download=download,
        prepare=prepare,
        rows={},
        **{section: params[section] for section in ("augment", "models", "recipes", "pretrain")},
    )
    first = run("dvc", "repro", "pretrain@vit_16-imagenet100", cwd=folder)
    assert all(value in first.stdout for value in found.values())
    write_params(folder, download__imagenet100__sha256=found)
    pinned = run("dvc", "repro", "pretrain@vit_16-imagenet100", cwd=folder).stdout
    assert stages_run(pinned) == ["download@imagenet100"] and "paste" not in pinned
    config = json.loads((folder / "models/start/vit_16-imagenet100/config.json").read_text())
    assert (config["image_size"], config["patch_size"], config["classes"]) == (224, 16, ["0", "1"])


def test_every_published_start_has_its_rows():
    """A published row stands in no pipeline."""
    params, example = (read_yaml(ROOT / folder / "params.yaml") for folder in (".", "examples/imagenet1k"))
    assert params["published"].keys() <= params["rows"].keys() | example["rows"].keys()
    assert all(example["published"][name] == params["published"][name] for name in example["published"])
    for name in params["weights"]:
        assert (
            example["weights"][name] == params["weights"][name]
            and example["rows"][f"{name}-probe"] == params["rows"][f"{name}-probe"]
        )
