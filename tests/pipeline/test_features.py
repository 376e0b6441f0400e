"""Rows that start from the hub, features, and probes on them."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tiny import run, stages_run, write_params
from vitscale.data.arrays import load_split
from vitscale.models.store import load_model

pytestmark = pytest.mark.usefixtures("forked")


def test_rows_from_the_hub(from_the_hub):
    """A start from elsewhere has no rows in the table, or its new head has the old classes."""
    text = (from_the_hub / "metrics/summary.md").read_text()
    assert re.search(r"\| hub \| .*\| photographs \| full \|", text) and re.search(
        r"\| hub-probe \| .*\| photographs \| linear_probe \|", text
    )
    config = json.loads((from_the_hub / "models/finetuned/hub/config.json").read_text())
    assert (
        config["classes"] == ["0", "1"] and config["image_size"] == 48 and config["mean"] == [0.5, 0.4, 0.3]
    )


@torch.no_grad()
def test_features_are_the_backbones(from_the_hub):
    """What a probe trains on isn't what the start's backbone makes of the images."""
    model = load_model(from_the_hub / "models/start/hub", classes=[])
    for part in ("train", "validation"):
        images, features = (
            load_split(from_the_hub / place / "digits" / part)
            for place in ("data/prepared", "data/features/hub")
        )
        taken = model.config.preprocessing
        wanted = model.eval()(taken.to_input(taken.fitted(torch.from_numpy(np.array(images.images)))))
        assert features.images.dtype == np.float32 and np.array_equal(features.labels, images.labels)
        assert (
            torch.allclose(torch.from_numpy(np.array(features.images)), wanted, atol=1e-4)
            and wanted.std(0).min() > 0.01
        )


@pytest.mark.parametrize(("row", "start"), [("hub-probe", "hub"), ("scratch-probe", "vit-scratch")])
def test_a_probe_keeps_its_starts_backbone(from_the_hub, row, start):
    """A probe's model has another backbone than the start's, an untrained head, or no statistics of its input."""
    before, after = (
        load_file(from_the_hub / place / "model.safetensors")
        for place in (f"models/start/{start}", f"models/finetuned/{row}")
    )
    backbone = [name for name in after if name.startswith("backbone.")]
    assert len(backbone) == len(after) - 2 and all(
        torch.equal(after[name], before[name]) for name in backbone
    )
    assert after["head.weight"].abs().max() > 0
    assert None not in json.loads((from_the_hub / f"models/finetuned/{row}/config.json").read_text()).values()
    assert json.loads((from_the_hub / f"metrics/rows/{row}.json").read_text())["accuracy"] > 0.6


def test_a_probes_parameters_leave_its_features_alone(from_the_hub, tmp_path, monkeypatch):
    """Changing a probe computes the features again."""
    monkeypatch.chdir(from_the_hub)
    before = {name: (from_the_hub / name).read_text() for name in ("params.yaml", "dvc.lock")}
    write_params(from_the_hub, **{"rows__hub-probe__epochs": 4})
    try:
        run("dvc", "repro", "check", cwd=from_the_hub)  # to a dry run all waits for what runs
        text = run("dvc", "repro", "--dry", "--force-downstream", cwd=from_the_hub).stdout
    finally:
        for name, content in before.items():
            (from_the_hub / name).write_text(content)
    assert stages_run(text) == ["finetune@hub-probe", "evaluate@hub-probe", "compare"]


def test_a_size_that_the_patches_dont_divide_is_one_line(from_the_hub):
    """A start from elsewhere, whose patches params.yaml doesn't know, is trained at a size that they don't cover."""
    before = (from_the_hub / "params.yaml").read_text()
    write_params(from_the_hub, **{"rows__hub__sizes": [36]})
    try:
        result = run("python", "stages/finetune.py", "hub", cwd=from_the_hub, check=False)
    finally:
        (from_the_hub / "params.yaml").write_text(before)
    assert result.returncode == 1 and result.stderr.splitlines()[-1] == (
        "error: finetune@hub: the patch_size 8 of models/start/hub doesn't divide the size 36"
    )
