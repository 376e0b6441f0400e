"""The benchmarks on tiny models: that what they time is what they say."""

import json
import math
import sys

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from made import CPU
from tiny import ROOT
from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.data.augment import Policy
from vitscale.models.store import ModelConfig
from vitscale.pipeline.consistency import check
from vitscale.training.optimizers import Recipe

sys.path.insert(0, str(ROOT))

from benchmarks import throughput, time_to_accuracy, ways

VIT = ModelConfig.from_json(
    {
        "architecture": "vit",
        "image_size": 32,
        "patch_size": 8,
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "mlp_dim": 32,
        "pool": "mean",
        "positions": "learned",
        "dropout": 0.0,
        "stochastic_depth": 0.0,
        "classes": [str(i) for i in range(10)],
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
)
RECIPE = Recipe(
    **{
        "optimizer": "adamw",
        "beta2": 0.99,
        "batch_size": 64,
        "weight_decay": 0.05,
        "warmup_epochs": 0,
        "label_smoothing": 0.1,
        "clip_norm": 1.0,
        "ema_decay": 0.0,
        "compile": False,
    }
)
POLICY = Policy(
    **{"crop_padding": 2, "flip": True, "trivial_augment": False, "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}
)
SETTING = ways.Setting(VIT, RECIPE, POLICY, CPU)


def test_time_to_accuracy(done):
    """The clock stops at an epoch that doesn't reach the accuracy, or leaves a stage out."""

    def measure(accuracy):
        return time_to_accuracy.measure("vit-digits", accuracy, done / "params.yaml", done / "data/prepared")

    low = measure(0.001)
    assert list(low["stages"]) == ["init@vit", "pretrain@vit-digits", "finetune@vit-digits"]
    first_two = low["stages"]["init@vit"] + low["stages"]["pretrain@vit-digits"]
    assert first_two < low["seconds"] <= sum(low["stages"].values())
    high = measure(1.1)  # which no training reaches
    assert (
        high["seconds"] is None and high["best_validation_accuracy"] == low["best_validation_accuracy"] <= 1
    )


def test_time_to_accuracy_says_what_is_missing(done, tmp_path):
    """Data that aren't prepared, or a row that isn't there, end in a traceback."""
    with pytest.raises(UserError, match="dvc repro prepare@digits"):
        time_to_accuracy.measure("vit-digits", 0.5, done / "params.yaml", tmp_path)
    with pytest.raises(UserError, match="no row nope; it has vit-digits"):
        time_to_accuracy.measure("nope", 0.5, done / "params.yaml", done / "data/prepared")


def test_parameters_of_time_to_accuracy_are_those_of_the_prepared_data():
    """The benchmark's own parameters are rejected by the schema, or speak of other data than `dvc repro` prepares."""
    own, study = (read_yaml(ROOT / path) for path in ("benchmarks/time_to_accuracy.yaml", "params.yaml"))
    check(own)
    assert "vit-cifar100" in own["rows"]
    for name in ("split_seed", "target", "download", "prepare"):
        assert own[name] == study[name]


@pytest.mark.parametrize("way", [throughput.Usual, throughput.HuggingFace])
def test_the_other_ways_train(way):
    """A way of training that ours is compared with takes no step, or leaves the weights alone."""
    torch.manual_seed(0)
    other = way(SETTING, throughput.random_split(VIT), 64)
    steps = []
    handle = register_optimizer_step_post_hook(
        lambda optimizer, *_: steps.append(
            any(parameter.grad.any() for group in optimizer.param_groups for parameter in group["params"])
        )
    )
    try:
        speed, share = other.measure(3)
    finally:
        handle.remove()
    assert 0 < speed < math.inf and (share is None or 0 <= share < 1)
    assert len(steps) == (3 if way is throughput.Usual else 5) and all(steps)


def test_the_matrix_rate_is_in_flops(monkeypatch):
    """The floor is reckoned from a rate that is off by the number of products or by the two operations of each."""
    with FlopCounterMode(display=False) as counter:  # the clock of a machine that does a billion a second
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: counter.get_total_flops() / 1e9)
        assert throughput.matrix_rate(CPU, 64) == pytest.approx(1e9)


def test_throughput_prints_json(capsys, monkeypatch):
    """The figures aren't valid JSON, or one that README quotes is missing."""
    monkeypatch.setattr(throughput, "setting_of", lambda model: SETTING)
    monkeypatch.setattr(throughput, "BATCH_SIZES", (64,))
    monkeypatch.setattr(throughput, "read_yaml", lambda path: {"models": {"vit": {}, "vit-1": {"seed": 1}}})
    monkeypatch.setattr(sys, "argv", ["throughput", "--json", "--repeats", "1", "--steps", "1"])
    throughput.main()
    figures = json.loads(capsys.readouterr().out)["vit"]
    ours, *others = figures["ways"]
    assert ours == "ours" and [name.rsplit(",")[0] for name in others] == [
        "usual float32",
        "usual bfloat16",
        "Trainer float32",
        "Trainer bfloat16",
    ]
    assert (
        list(figures["ratio"]) == others
        and figures["peak_gib"] > 0
        and figures["floor_images_per_second"] > 0
    )
    for name in others:
        speeds = figures["ways"]["ours"]["images_per_second"], figures["ways"][name]["images_per_second"]
        assert figures["ratio"][name] == pytest.approx(speeds[0] / speeds[1])
