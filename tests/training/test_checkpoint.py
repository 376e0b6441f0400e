"""Checkpoints: a training that was killed goes on to the same end, and a damaged one is left behind."""

import os
import resource

import pytest
import torch

from trainings import ADAMW, MUON, RESNET, SGD, VIT, Killed, Killing, Nowhere, raw, training_of
from vitscale.base.files import lock
from vitscale.runtime.compiler import can_compile
from vitscale.training.checkpoint import Checkpoint, checkpoint_for
from vitscale.training.loop import Training, fit

RESUMED = {
    "vit adamw": (VIT | {"dropout": 0.2, "stochastic_depth": 0.1}, ADAMW | {"ema_decay": 0.9}, 4, 3e-3),
    "vit muon": (VIT | {"dropout": 0.2, "depth": 2}, MUON, 3, 3e-3, [16, 24, 32]),
    "vit sgd": (VIT | {"dropout": 0.2, "depth": 2}, SGD | {"ema_decay": 0.9}, 4, 3e-2),
    "vit without average": (VIT | {"dropout": 0.2}, ADAMW, 3, 3e-3),
    "resnet18 sgd": (RESNET, SGD | {"ema_decay": 0.5}, 2, 1e-2, [16, 32]),
}


@pytest.mark.parametrize("case", RESUMED)
def test_resuming_changes_nothing(split, tmp_path, capsys, case):
    """A training that was killed and run again ends in other weights or figures than an undisturbed one."""
    config, recipe, epochs, lr, *sizes = RESUMED[case]
    arguments = {"epochs": epochs, "lr": lr, "sizes": sizes[0] if sizes else [32]}
    undisturbed = training_of(split, config, recipe, **arguments)
    wanted = fit(undisturbed, split, Nowhere())
    for after in range(1, epochs):
        path = tmp_path / f"{after}.pt"
        with pytest.raises(Killed):
            fit(training_of(split, config, recipe, **arguments), split, Killing(path, after))
        assert "going on" not in capsys.readouterr().out
        resumed = training_of(
            split, config, recipe, initial=99, **arguments
        )  # its own initial weights must not matter
        torch.manual_seed(1234)
        found = fit(resumed, split, Checkpoint(path))
        assert f"going on after epoch {after} of {epochs}, from {path}" in capsys.readouterr().out
        assert raw(found.state) == raw(wanted.state) and found.history == wanted.history
        assert (found.best_epoch, found.validation_accuracy) == (
            wanted.best_epoch,
            wanted.validation_accuracy,
        )
        assert raw(resumed.model.state_dict()) == raw(undisturbed.model.state_dict())
        if recipe["ema_decay"]:
            assert raw(resumed.average.state_dict()) == raw(undisturbed.average.state_dict())


@pytest.mark.parametrize(
    ("config", "count"), [(VIT | {"dropout": 0.2, "stochastic_depth": 0.1, "depth": 2}, 10), (RESNET, 2)]
)
def test_more_sizes_than_torch_compiles_by_itself(split, monkeypatch, config, count):
    """From the ninth size on a training runs uncompiled without a word, and one that was resumed there doesn't."""
    if not can_compile(torch.device("cpu")):  # which compiles something itself, once a process
        pytest.skip("needs a C++ compiler")
    sizes, compiled, compile_ = [8 * (i + 1) for i in range(count)], [], torch.compile

    def counting(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda *args, **kinds: compile_(*args, backend=counting, **kinds))
    torch._dynamo.reset()
    recipe = ADAMW | {"compile": True, "batch_size": 32}
    fit(training_of(split, config, recipe, epochs=count, sizes=sizes), split, Nowhere())
    assert len(compiled) == count


def test_a_finished_training_isnt_run_again(split, tmp_path, monkeypatch):
    """A stage killed between its last epoch and its outputs trains all over."""
    wanted = fit(training_of(split), split, Checkpoint(tmp_path / "a.pt"))
    monkeypatch.setattr(Training, "epoch", lambda *_: pytest.fail("trained again"))
    found = fit(training_of(split, initial=5), split, Checkpoint(tmp_path / "a.pt"))
    assert (
        raw(found.state) == raw(wanted.state)
        and found.history == wanted.history
        and found.best_epoch == wanted.best_epoch
    )


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: bytes(len(content)),
    ],
    ids=["a bit flipped", "cut short", "cut to nearly nothing", "empty", "zeros"],
)
def test_a_damaged_checkpoint_is_left_behind(split, tmp_path, capsys, damage):
    """A damaged checkpoint is believed, ends the training, or is passed over in silence."""
    path = tmp_path / "a.pt"
    wanted = fit(training_of(split), split, Nowhere())
    with pytest.raises(Killed):
        fit(training_of(split), split, Killing(path, 1))
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    found = fit(training_of(split), split, Checkpoint(path))
    printed = capsys.readouterr()
    assert "warning" in printed.err and str(path) in printed.err and "going on" not in printed.out
    assert raw(found.state) == raw(wanted.state) and found.history == wanted.history


def test_no_checkpoint_is_no_warning(tmp_path, capsys):
    """A first run warns of a checkpoint that can't be there."""
    assert Checkpoint(tmp_path / "none.pt").load() is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("fault", ["disk full", "fsync", "replace"])
def test_a_checkpoint_write_that_is_cut_leaves_the_last_one(tmp_path, monkeypatch, fault):
    """A full disk takes the previous checkpoint along, or leaves a part of the new one behind."""
    checkpoint = Checkpoint(tmp_path / "a.pt")
    checkpoint.save({"epochs": 1, "weights": torch.arange(5)})
    before = checkpoint.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*_):
        raise OSError(28, "No space left on device")

    try:
        if fault == "disk full":  # the write itself stops after 20 kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        else:
            monkeypatch.setattr(os, fault, full)
        with pytest.raises(OSError):
            checkpoint.save({"epochs": 2, "weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    assert checkpoint.path.read_bytes() == before and list(tmp_path.iterdir()) == [checkpoint.path]
    assert checkpoint.load()["epochs"] == 1
    checkpoint.save({"epochs": 2})
    assert checkpoint.load() == {"epochs": 2}


def test_checkpoint_for(tmp_path, monkeypatch):
    """Two trainings share a checkpoint, or it lies elsewhere than in our folder of VITSCALE_CHECKPOINTS."""
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "there"))
    for key in ("a" * 64, "b" * 64):
        with checkpoint_for("finetune@x", key) as checkpoint:
            assert checkpoint.load() is None
            assert checkpoint.path.parent == tmp_path / "there/vitscale-states"
            checkpoint.save({"key": key})
    with checkpoint_for("finetune@x", "a" * 64) as checkpoint:
        assert checkpoint.load() == {"key": "a" * 64}


def test_a_checkpoint_is_of_one_stage_and_one_key(tmp_path, monkeypatch):
    """Two trainings whose keys begin alike, or two stages, share a file, or go at one at the same time."""
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path))
    keys = [("finetune@x", "a" * 64), ("finetune@x", "a" * 20 + "b" * 44), ("finetune@y", "a" * 64)]
    paths = set()
    for stage, key in keys:
        with checkpoint_for(stage, key) as checkpoint:
            paths.add(checkpoint.path)
            assert checkpoint.path.name.startswith(stage)
            assert lock(checkpoint.path.with_suffix(".lock"), "nothing") is None
    assert len(paths) == 3
