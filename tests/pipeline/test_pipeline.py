"""The tiny pipeline for real, through DVC: same bytes twice, experiments, what changes rerun."""

import json
import os
import re
import shutil
import subprocess
import time

import numpy as np
import pytest

from tiny import outputs, run, stages_run, tiny, write_params
from vitscale.base.digests import digest
from wide import ROW

pytestmark = pytest.mark.usefixtures("forked")


def ran(result):
    return stages_run(result.stdout)


def test_same_bytes_in_two_fresh_folders(done, started, tmp_path):
    """Every output of a second run, elsewhere and without the first one's checkpoints, is the same to the byte."""
    second = tiny(tmp_path / "second")
    run("dvc", "repro", "-q", cwd=second)
    first = outputs(done)
    assert outputs(second) == first
    assert {path.split("/")[0] for path in first} == {"data", "models", "metrics", "plots"}


def test_metrics_show_their_figures_and_no_list(done):
    """A figure is missing, a training without any is shown, or predictions fill the table."""
    figures = json.loads((done / ROW).read_text())
    assert list(figures) == [
        "accuracy",
        "ci95_low",
        "ci95_high",
        "loss",
        "ece",
        "parameters",
        "macs",
        "precision",
        "recall",
        "f1",
        "test_labels_sha256",
        "predicted",
    ]
    assert 0 <= figures["ci95_low"] <= figures["accuracy"] <= figures["ci95_high"] <= 1
    training = json.loads((done / "metrics/history/finetune/vit-digits.json").read_text())
    assert (
        list(training) == ["validation_accuracy", "best_epoch", "train_images", "epochs"]
        and training["train_images"] == 217
    )
    shown = json.loads(run("dvc", "metrics", "show", "--json", cwd=done).stdout)[""]["data"]
    names = {path: set(each["data"]) for path, each in shown.items()}
    assert names.pop("metrics/headline.json") == {"validation", "validation/vit-digits", "test/vit-digits"}
    assert (
        names[ROW] == set(list(figures)[:7])
        and all(values == set(list(training)[:3]) for path, values in names.items() if path != ROW)
        and len(names) == 3
    )


def test_nothing_to_do_runs_nothing(copy, started):
    """A second `dvc repro` runs a stage again, or leaves the workspace other than git has it."""
    run("dvc", "repro", "-q", cwd=copy)
    result = run("dvc", "repro", cwd=copy)
    assert "up to date" in result.stdout and ran(result) == []
    assert run("dvc", "status", cwd=copy).stdout.strip() == "Data and pipelines are up to date."
    assert run("git", "status", "--porcelain", cwd=copy).stdout == ""


def test_a_policy_that_a_stage_does_not_use_leaves_it_alone(copy):
    """`augment.light` draws the preview anew, whose data are the same, so pretraining (with `strong`) doesn't run."""
    write_params(copy, augment__light__flip=True)
    assert ran(run("dvc", "repro", cwd=copy)) == [
        "prepare@digits",
        "finetune@vit-digits",
        "evaluate@vit-digits",
        "compare",
    ]


def test_experiment_with_another_lr(copy):
    """`dvc exp run -S lr=1e-5` works as typed, though DVC writes 1e-05; preparation is not run again."""
    result = run("dvc", "exp", "run", "-S", "lr=1e-5", cwd=copy)
    assert ran(result) == ["pretrain@vit-digits", "finetune@vit-digits", "evaluate@vit-digits", "compare"]
    [epoch] = json.loads((copy / "metrics/history/finetune/vit-digits.json").read_text())["epochs"]
    assert 0 < epoch["lr"] < 1e-5
    assert ROW in run("dvc", "metrics", "diff", cwd=copy).stdout


def test_noise_for_test_images_leaves_the_weights_alone(copy, checkpoints):
    """The test split is read for scoring and for leaving its images out of training, and for nothing else."""
    images = copy / "data/raw/digits/test/images.npy"
    noise = np.random.default_rng(0).integers(0, 256, np.load(images).shape, dtype=np.uint8)
    before = outputs(copy)
    os.chmod(images, 0o644)
    images.unlink()
    np.save(images, noise)
    shutil.rmtree(copy / "models/finetuned")
    (copy / "dvc.lock").unlink()  # it knows the right ones
    for stage, key in (
        ("prepare", "digits"),
        ("pretrain", "vit-digits"),
        ("finetune", "vit-digits"),
        ("evaluate", "vit-digits"),
    ):
        run("python", f"stages/{stage}.py", key, cwd=copy)
    after = outputs(copy)
    differing = {path for path in before if before[path] != after[path]}
    assert differing and {path.split("/")[0] for path in differing} <= {"data", "metrics"}
    assert {path for path in differing if path.startswith("data/")} == {"data/raw/digits/test/images.npy"}
    assert not any(path.startswith("metrics/history") for path in differing)


MEETING = """def main(stage: Stage) -> None:
    import os, time
    met, end = Path({!r}), time.monotonic() + 300
    met.mkdir(exist_ok=True)
    (met / str(stage.param("lr"))).touch()
    while len(os.listdir(met)) < 2:  # the other worker's
        assert time.monotonic() < end, "the other worker didn't come"
        time.sleep(0.1)
"""


def test_two_workers_sweep_a_queue(copy, tmp_path, monkeypatch):
    """Workers get in each other's way or take turns, or run the code of the workspace, which was edited after queueing."""
    monkeypatch.setenv("VITSCALE_THREADS", "1")
    rates = [1e-4, 3e-3]
    stage = copy / "stages/pretrain.py"
    stage.write_text(
        stage.read_text().replace("def main(stage: Stage) -> None:\n", MEETING.format(str(tmp_path / "met")))
    )
    run("dvc", "exp", "run", "--queue", "-S", f"lr={','.join(map(str, rates))}", cwd=copy)
    code = copy / "src/vitscale/results/metrics.py"
    code.write_text(code.read_text().replace('"accuracy": correct / len(labels)', '"accuracy": 0.123'))
    subprocess.run(
        ["dvc", "queue", "start", "-j", "2"],
        cwd=copy,
        check=True,  # the workers would hold a pipe open
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 900
    while re.search("Queued|Running", status := run("dvc", "queue", "status", cwd=copy).stdout):
        assert time.monotonic() < deadline, status
        time.sleep(1)
    assert status.count("Success") == 2, status
    assert len(list((tmp_path / "met").iterdir())) == 2
    experiments = json.loads(run("dvc", "exp", "show", "--json", cwd=copy).stdout)[1]["experiments"]
    found = {
        each["revs"][0]["data"]["params"]["params.yaml"]["data"]["lr"]: each["revs"][0]["rev"]
        for each in experiments
    }
    assert sorted(found) == rates
    figures = [json.loads(run("git", "show", f"{rev}:{ROW}", cwd=copy).stdout) for rev in found.values()]
    assert figures[0]["loss"] != figures[1]["loss"] and all(each["accuracy"] != 0.123 for each in figures)
    run("dvc", "repro", "-q", cwd=copy)
    assert json.loads((copy / ROW).read_text())["accuracy"] == 0.123


def test_parameters_are_checked_by_every_stage(copy):
    write_params(copy, rows__vit_digits__start="nowhere")
    for stage, key in (
        ("download", "digits"),
        ("prepare", "digits"),
        ("init", "vit"),
        ("evaluate", "vit-digits"),
    ):
        result = run("python", f"stages/{stage}.py", key, cwd=copy, check=False)
        assert result.returncode == 1
        assert (
            result.stderr.splitlines()[0]
            == "error: params.yaml: rows.vit-digits.start: there is no nowhere; there are vit-scratch, vit-digits"
        )


def test_row_that_params_do_not_name_stays_out(copy):
    """A stray file in metrics/rows never enters the summary; a published row without a run is 'not run'."""
    shutil.copy(copy / ROW, copy / "metrics/rows/stray.json")
    write_params(copy, published={"deit": {"accuracy": 0.87, "protocol": "linear_probe", "images": 1000}})
    run("dvc", "repro", "-q", cwd=copy)
    summary = (copy / "metrics/summary.md").read_text()
    assert (
        "stray" not in summary
        and "| deit | — | — | linear_probe | not run | — | — | — | — | — | 87.00% |" in summary
    )


@pytest.mark.cuda
def test_same_bytes_twice_on_cuda(copy, tmp_path, monkeypatch):
    made = []
    for name in ("first", "second"):
        monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / name))
        monkeypatch.setenv("VITSCALE_DEVICE", "cuda")
        run("python", "stages/pretrain.py", "vit-digits", cwd=copy)
        made.append(digest(copy / "models/start/vit-digits"))
    assert made[0] == made[1]
