"""float16 with a scaled loss: close to float32, its overflowing steps skipped whole, counted, and the same after a resume."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tiny import run, write_params
from trainings import ADAMW, CPU, MUON, OFF, RESNET, SGD, VIT, Killed, Killing, Nowhere, raw, training_of
from vitscale.base.errors import UserError
from vitscale.runtime.device import Compute
from vitscale.training.checkpoint import Checkpoint
from vitscale.training.loop import LEAST_SCALE, fit

FLOAT16 = Compute(CPU.device, "float16")
BATCH = np.arange(16)


def overflowing(training, steps):
    """Let some steps' gradients overflow; return the training."""
    backward = training.scaler.scale

    def scale(loss):
        scaled = backward(loss)
        return scaled * torch.inf if training.step_now in steps else scaled

    step = training.step

    def noting(images, targets, number):
        training.step_now = number
        return step(images, targets, number)

    training.scaler.scale, training.step = scale, noting
    return training


def everything(training) -> dict:
    """Return a copy of what a step may change, but for the scaler."""
    state = copy.deepcopy(training.state())
    del state["scaler"], state["skipped"]
    return state


def same(one, other) -> bool:
    """Tell whether two states have the same values, bit for bit."""
    if isinstance(one, torch.Tensor):
        return raw({"": one}) == raw({"": other})
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("recipe", [ADAMW, MUON, SGD], ids=["adamw", "muon", "sgd"])
def test_an_overflowing_step_is_skipped_whole(split, recipe, accumulate):
    """A step whose gradients overflow changes a weight, a momentum or the average, or one optimizer of two takes it."""
    recipe = recipe | {"ema_decay": 0.9, "accumulate": accumulate, "warmup_epochs": 0}
    training = overflowing(training_of(split, recipe=recipe, compute=FLOAT16), {2})
    for step in range(2):
        training.step(*training.batches.batch(BATCH, step), step)
    before, scale = everything(training), training.scaler.get_scale()
    loss = training.step(*training.batches.batch(BATCH, 2), 2)
    after = everything(training)
    for state in (before, after):  # the rate is the schedule's
        for optimizer in state["optimizers"]:
            for group in optimizer["param_groups"]:
                del group["lr"]
    assert same(before, after) and loss.isfinite()
    assert training.skipped == 1 and training.scaler.get_scale() == scale / 2
    training.step(*training.batches.batch(BATCH, 3), 3)
    now = everything(training)
    assert training.skipped == 1
    assert not any(same(now["optimizers"][i], after["optimizers"][i]) for i in range(len(now["optimizers"])))
    assert not same(now["average"], after["average"]) and not same(now["model"], after["model"])


@pytest.mark.parametrize("bad", ["muon", "adamw"])
def test_one_bad_gradient_stops_both_optimizers(split, bad):
    """Only the optimizer that holds the overflowing gradient skips its step: the other one's weights run ahead."""
    training = training_of(split, recipe=MUON | {"warmup_epochs": 0}, compute=FLOAT16)
    weights = {"muon": training.model.backbone.blocks[0].mlp[0].weight, "adamw": training.model.head.bias}
    weights[bad].register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([1]), torch.inf))
    before = raw({name: value.clone() for name, value in training.model.state_dict().items()})
    training.step(*training.batches.batch(BATCH, 0), 0)
    assert raw(training.model.state_dict()) == before and training.skipped == 1


@pytest.mark.parametrize(
    ("config", "recipe"),
    [(VIT, ADAMW | {"clip_norm": 0.5}), (VIT, MUON), (VIT, SGD | {"ema_decay": 0.5}), (RESNET, SGD)],
    ids=["vit adamw", "vit muon", "vit sgd", "resnet18 sgd"],
)
def test_float16_ends_close_to_float32(split, config, recipe):
    """Gradients are clipped or applied with the loss's scale still in them, or small ones are lost."""
    rates = {"lr": 1e-2, "policy": OFF, "epochs": 3 if config is VIT else 1}
    results = []
    for compute in (CPU, FLOAT16):
        training = training_of(split, config, recipe, compute=compute, **rates)
        nn.init.normal_(training.model.head.weight, std=0.02, generator=torch.Generator().manual_seed(1))
        results.append(fit(training, split, Nowhere()))
    losses = [[epoch.train_loss for epoch in result.history] for result in results]
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]
    assert {value.dtype for value in results[1].state.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("recipe", [MUON | {"ema_decay": 0.9}, SGD], ids=["muon", "sgd"])
def test_resuming_float16_changes_nothing(split, tmp_path, capsys, recipe):
    """A resumed training begins with the first scale again, forgets what was skipped, or ends in other weights."""
    skipping = {1, 2, 6, 13}

    def new(initial=0):
        training = training_of(split, VIT, recipe, compute=FLOAT16, epochs=4, initial=initial)
        training.scaler.set_growth_interval(
            3
        )  # so that the scale changes and its count of good steps matters
        return overflowing(training, skipping)

    whole = new()
    wanted = fit(whole, split, Nowhere())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    with pytest.raises(Killed):
        fit(new(), split, Killing(tmp_path / "a.pt", 2))
    resumed = new(initial=99)
    found = fit(resumed, split, Checkpoint(tmp_path / "a.pt"))
    assert raw(found.state) == raw(wanted.state) and found.history == wanted.history
    assert same(resumed.state(), whole.state()) and resumed.skipped == len(skipping)
    ends = ["overflowed: 2 (2 so far)", "overflowed: 1 (3 so far)", "%", "overflowed: 1 (4 so far)"]
    assert [line.endswith(end) for line, end in zip(lines, ends, strict=True)] == [True] * 4, lines
    assert capsys.readouterr().out.splitlines()[-1] == lines[-1]


def test_a_training_that_overflows_for_good_is_stopped(split):
    """Each step is skipped and the scale falls to nothing: the training goes on for hours without a change."""
    training = overflowing(training_of(split, recipe=ADAMW | {"batch_size": 1}, compute=FLOAT16), range(999))
    with pytest.raises(UserError, match="still overflow at step 49 .*than float16") as caught:
        fit(training, split, Nowhere())
    assert training.scaler.get_scale() < LEAST_SCALE and len(str(caught.value).splitlines()) == 1


def test_a_loss_that_is_no_number_names_float16(split):
    """A loss beyond float16's range is skipped in silence, or the message doesn't name the precision."""
    training = training_of(split, compute=FLOAT16)
    nn.init.constant_(training.model.backbone.blocks[0].mlp[0].bias, 60_000)
    with pytest.raises(UserError, match="no longer a finite number at step 0 .*than float16"):
        fit(training, split, Nowhere())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_precisions_have_no_scale(split, capsys, precision):
    """A loss is scaled in float32 or bfloat16, where a gradient that is no number shows in the loss."""
    training = training_of(split, compute=Compute(CPU.device, precision), epochs=1)
    fit(training, split, Nowhere())
    assert not training.scaler.is_enabled() and training.state()["scaler"] == {}
    assert training.skipped == 0 and "skipped" not in capsys.readouterr().out


@pytest.mark.usefixtures("forked")
def test_the_pipeline_in_float16(done, tmp_path, monkeypatch):
    """A stage in float16 ends far from float32, or leaves weights in float16."""
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    losses = []
    for precision in ("float32", "float16"):
        monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "checkpoints" / precision))
        folder = shutil.copytree(done, tmp_path / precision, symlinks=True)
        write_params(folder, precision=precision, models__vit__dropout=0.0, pretrain__vit_digits__epochs=4)
        run("python", "stages/init.py", "vit", cwd=folder)
        run("python", "stages/pretrain.py", "vit-digits", cwd=folder)
        history = json.loads((folder / "metrics/history/pretrain/vit-digits.json").read_text())["epochs"]
        losses.append([epoch["train_loss"] for epoch in history])
        weights = load_file(folder / "models/start/vit-digits/model.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.float32}
    assert losses[1] == pytest.approx(losses[0], rel=5e-3) and losses[0] != losses[1]
