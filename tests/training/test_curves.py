"""Curves while a training runs: what TensorBoard and DVC read, after an end, a kill and another training."""

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainings import Killed, Killing, Nowhere, raw, training_of
from vitscale.base.errors import UserError
from vitscale.models.preprocessing import Preprocessing
from vitscale.training.checkpoint import Checkpoint
from vitscale.training.curves import LIVE, NAMES, SPEED, Live, curves_for
from vitscale.training.loop import fit

RUN = "finetune@vit-digits"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test is in a folder of its own, as a stage is in its pipeline's, with TensorBoard's folder in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITSCALE_TENSORBOARD", "curves")


def train(split, checkpoint, **plan):
    """Train with the curves that the environment asks for."""
    training = training_of(split, **plan)
    with curves_for(RUN, training.model.config.preprocessing) as listeners:
        return fit(training, split, checkpoint, listeners)


def seen():
    """Return what TensorBoard reads: figures by name and epoch, and images by epoch."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = event_accumulator.EventAccumulator(f"curves/{RUN}", {"tensors": 0, "images": 0, "scalars": 0})
    run.Reload()
    scalars = {
        name: [(each.step, each.value) for each in run.Scalars(name)] for name in run.Tags()["scalars"]
    }
    images = [(each.step, each.encoded_image_string) for each in run.Images("train/images")]
    return scalars, images


def assert_shown(result, epochs):
    scalars, _ = seen()
    assert scalars.keys() == {*NAMES.values(), SPEED}
    for field, name in NAMES.items():
        assert [step for step, _ in scalars[name]] == list(range(1, epochs + 1)), name
        assert [value for _, value in scalars[name]] == pytest.approx(
            [getattr(each, field) for each in result.history]
        )


def test_tensorboard_reads_every_epoch_once(split):
    """Catches a figure under another's name, at another epoch, or left out."""
    pytest.importorskip("tensorboard")
    assert_shown(train(split, Nowhere(), epochs=3), 3)
    scalars, _ = seen()
    assert len(scalars[SPEED]) == 3 and min(value for _, value in scalars[SPEED]) > 0


@pytest.mark.parametrize("known", [True, False], ids=["same folder", "new folder"])
def test_a_resumed_training_goes_on_in_its_curve(split, monkeypatch, known):
    """Catches an epoch that stands there twice, since it was told before the kill, or never."""
    pytest.importorskip("tensorboard")
    with monkeypatch.context() as patch:
        if not known:
            patch.delenv("VITSCALE_TENSORBOARD")
        with pytest.raises(Killed):
            train(split, Killing(Path("a.pt"), before=3), epochs=4)
    assert_shown(train(split, Checkpoint(Path("a.pt")), epochs=4), 4)


def test_another_training_takes_its_place(split):
    """Catches a curve whose last epochs are of the training before."""
    pytest.importorskip("tensorboard")
    train(split, Nowhere(), epochs=4)
    assert_shown(train(split, Nowhere(), epochs=2, lr=1e-4), 2)


def test_images_are_those_that_the_model_got(split, monkeypatch):
    """Catches images before augmentation, of another size, or with another standardisation taken back."""
    pytest.importorskip("tensorboard")
    got, training = [], training_of(split, epochs=4, sizes=[16, 32])
    step = training.step

    def noting(images, targets, number):
        got.append(images)
        return step(images, targets, number)

    training.step = noting
    with curves_for(RUN, training.model.config.preprocessing) as listeners:
        fit(training, split, Nowhere(), listeners)
    _, images = seen()
    assert [epoch for epoch, _ in images] == [1, 3]
    each = training.batches.steps_per_epoch
    for (_, png), batch in zip(images, (got[0], got[2 * each])):
        Path("grid.png").write_bytes(png)
        side = batch.shape[-1]
        grid = np.asarray(Image.open("grid.png"), dtype=float)
        assert grid.shape == (4 * side, 4 * side, 3)
        for i in range(16):
            row, column = divmod(i, 4)
            tile = grid[row * side : (row + 1) * side, column * side : (column + 1) * side]
            wanted = (batch[i].permute(1, 2, 0) * 0.3 + 0.5).clamp(0, 1) * 255
            assert np.abs(tile - wanted.numpy()).max() <= 0.51


def test_without_tensorboard_one_line(split, monkeypatch):
    """Catches a traceback, curves that are silently left out, and an import where nobody asks for curves."""
    for name in ("tensorboard", "tensorboard.compat.proto"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"VITSCALE_TENSORBOARD needs the package tensorboard.*pip install"):
        train(split, Nowhere())
    monkeypatch.delenv("VITSCALE_TENSORBOARD")
    train(split, Nowhere())
    assert not Path("curves").exists() and not LIVE.exists()


@pytest.mark.parametrize("variable", ["VITSCALE_TENSORBOARD", "VITSCALE_DVCLIVE"])
def test_a_full_disk_ends_the_curves_alone(split, monkeypatch, capsys, variable):
    """Catches a training that is lost, or a line at every step, since its curves' disk is full."""
    pytest.importorskip("tensorboard")
    undisturbed = fit(training_of(split), split, Nowhere())

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.delenv("VITSCALE_TENSORBOARD")
    monkeypatch.setenv(variable, "1")
    training = training_of(split)
    with curves_for(RUN, training.model.config.preprocessing) as listeners:
        [curves] = listeners
        monkeypatch.setattr(curves.writers[0], "_figures", full)
        result = fit(training, split, Nowhere(), listeners)
    assert raw(result.state) == raw(undisturbed.state) and result.history == undisturbed.history
    [said] = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert "the disk is full" in said and "the training goes on" in said
    assert not LIVE.exists()


def test_a_training_that_never_begins(monkeypatch):
    """Catches another error, with a traceback, in place of the one that kept the training from its first step."""
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("VITSCALE_DVCLIVE", "1")
    given = Preprocessing(image_size=8, interpolation="bilinear", mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(UserError, match="a reason"), curves_for(RUN, given):
        raise UserError("a reason")


def test_dvclive_files_are_there_while_it_trains(split, monkeypatch):
    """Catches figures that DVC doesn't find, files that stay behind, and a file of somebody's that is deleted."""
    monkeypatch.delenv("VITSCALE_TENSORBOARD")
    monkeypatch.setenv("VITSCALE_DVCLIVE", "1")
    Path(".dvc").mkdir()
    LIVE.mkdir(parents=True)
    (LIVE / "mine.txt").write_text("mine")
    found = []

    class Looking(Nowhere):
        def save(self, state: dict) -> None:
            files = {path.relative_to(LIVE).as_posix(): path for path in LIVE.rglob("*.*")}
            found.append({name: path.read_text() for name, path in files.items()})
            assert json.loads(Path(".dvc/tmp/exps/run/DVCLIVE_STEP_COMPLETED").read_text())["step"] == len(
                found
            )

    result = train(split, Looking(), epochs=2)
    last = json.loads(found[1]["metrics.json"])
    assert last["run"] == RUN and last["step"] == 2
    assert last["validation"]["accuracy"] == result.history[1].validation_accuracy
    table = found[1]["plots/metrics/train/loss.tsv"].splitlines()
    assert table == ["step\tloss", *(f"{each.epoch}\t{each.train_loss}" for each in result.history)]
    assert [path.name for path in LIVE.rglob("*")] == ["mine.txt"]
    assert not list(Path(".dvc").rglob("DVCLIVE*"))


def test_what_a_kill_left_is_not_gone_on_with(split, monkeypatch):
    """Catches figures of a training that was killed in front of another's."""
    monkeypatch.delenv("VITSCALE_TENSORBOARD")
    monkeypatch.setenv("VITSCALE_DVCLIVE", "1")
    history = fit(training_of(split, epochs=2), split, Nowhere()).history
    killed = Live(RUN)
    killed.begin([])
    killed.epoch(history[0], 1.0)
    again = Live(RUN)
    again.begin(history)
    assert len((LIVE / "plots/metrics/train/loss.tsv").read_text().splitlines()) == 3
    again.close()
    assert not LIVE.exists()


def test_features_have_no_images():
    """Catches a probe on stored features that fails, since they are no images."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from torch import ones

    given = Preprocessing(image_size=8, interpolation="bilinear", mean=[0.5] * 3, std=[0.5] * 3)
    with curves_for(RUN, given) as [curves]:
        curves.begin([])
        curves.step(ones(2, 7))
    run = event_accumulator.EventAccumulator(f"curves/{RUN}").Reload()
    assert not run.Tags()["images"]
