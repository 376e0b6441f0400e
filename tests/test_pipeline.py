"""The tiny pipeline for real, through DVC: same bytes twice, kills and what follows, experiments, what changes rerun."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tiny import ROOT, outputs, run, tiny, undisturbed, write_params
from vitscale.base.digests import digest

ROW = "metrics/rows/vit-digits.json"


@pytest.fixture(autouse=True)
def checkpoints(tmp_path, monkeypatch):
    """A folder of each test's own, since a finished training's checkpoint serves every workspace."""
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return tmp_path / "checkpoints"


@pytest.fixture
def copy(done, tmp_path):
    shutil.copytree(done, tmp_path / "repo", symlinks=True)
    return tmp_path / "repo"


def ran(result):
    return [line.split("'")[1] for line in result.stdout.splitlines() if line.startswith("Running stage")]


def test_same_bytes_in_two_fresh_folders(done, tmp_path):
    """Every output of a second run, elsewhere and without the first one's checkpoints, is the same to the byte."""
    second = tiny(tmp_path / "second")
    start = time.monotonic()
    run("dvc", "repro", "-q", cwd=second)
    assert time.monotonic() - start < 60  # 20 s alone on 2 cores
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
    assert (
        names[ROW] == set(list(figures)[:7])
        and all(values == set(list(training)[:3]) for path, values in names.items() if path != ROW)
        and len(names) == 3
    )


def test_nothing_to_do_is_quick(copy):
    run("dvc", "repro", "-q", cwd=copy)
    start = time.monotonic()
    result = run("dvc", "repro", cwd=copy)
    assert "up to date" in result.stdout and time.monotonic() - start < 10
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


@pytest.mark.parametrize("typed, lr", [("1e-4", 1e-4), ("1e-5", 1e-5)])
def test_experiment_with_another_lr(copy, typed, lr):
    """`dvc exp run -S lr=1e-5` works as typed, though DVC writes 1e-05; preparation is not run again."""
    result = run("dvc", "exp", "run", "-S", f"lr={typed}", cwd=copy)
    assert ran(result) == ["pretrain@vit-digits", "finetune@vit-digits", "evaluate@vit-digits", "compare"]
    [epoch] = json.loads((copy / "metrics/history/finetune/vit-digits.json").read_text())["epochs"]
    assert 0 < epoch["lr"] < lr
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
    for stage, key in (
        ("prepare", "digits"),
        ("pretrain", "vit-digits"),
        ("finetune", "vit-digits"),
        ("evaluate", "vit-digits"),
    ):
        run(sys.executable, f"stages/{stage}.py", key, cwd=copy)
    after = outputs(copy)
    differing = {path for path in before if before[path] != after[path]}
    assert differing and {path.split("/")[0] for path in differing} <= {"data", "metrics"}
    assert {path for path in differing if path.startswith("data/")} == {"data/raw/digits/test/images.npy"}
    assert not any(path.startswith("metrics/history") for path in differing)


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory):
    """The outputs of three epochs that nothing stopped."""
    return undisturbed(tmp_path_factory, rows__vit_digits__epochs=3)


@pytest.mark.parametrize("point", ["mid-epoch", "writing a checkpoint", "writing outputs"])
def test_killed_stage_goes_on_to_the_same_bytes(three_epochs, tmp_path, point):
    folder = tmp_path / "repo"
    shutil.copytree(three_epochs, folder, symlinks=True)
    shutil.rmtree(folder / "models/finetuned")
    (folder / "metrics/history/finetune/vit-digits.json").unlink()
    killed = run(
        sys.executable,
        str(ROOT / "tests/killer.py"),
        point,
        "stages/finetune.py",
        "vit-digits",
        cwd=folder,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    result = run("dvc", "repro", "-f", "-s", "finetune@vit-digits", cwd=folder)
    if point != "writing outputs":  # there the training was over
        assert "going on after epoch 1 of 3" in result.stdout
    assert outputs(folder) == outputs(three_epochs)
    assert not list((folder / ".vitscale/partial").iterdir())


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A fine-tuning long enough to be killed in the middle, never stopped."""
    return undisturbed(tmp_path_factory, rows__vit_digits__epochs=60)


@pytest.mark.parametrize("whole_group", [False, True], ids=["dvc alone", "the whole group"])
def test_killed_dvc(long, tmp_path, checkpoints, whole_group):
    """After `kill -9` of DVC the orphan trains on; a second `dvc repro` waits for it, or goes on where it was killed."""
    folder = tmp_path / "repo"
    shutil.copytree(long, folder, symlinks=True)
    dvc = subprocess.Popen(
        ["dvc", "repro", "-f", "-s", "finetune@vit-digits"],
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: list(checkpoints.glob("finetune@*.pt")))
    (os.killpg if whole_group else os.kill)(dvc.pid, signal.SIGKILL)
    dvc.wait()
    if not whole_group:
        os.killpg(dvc.pid, signal.SIGSTOP)  # the orphan, or it may be done before the second DVC has started
    second = subprocess.Popen(
        ["dvc", "repro", "-f", "-s", "finetune@vit-digits"],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wanted = "going on after epoch" if whole_group else "waiting for it to end"
    said = next((line for line in second.stdout if wanted in line), None)
    if not whole_group:
        os.killpg(dvc.pid, signal.SIGCONT)
    second.communicate()
    assert said and second.returncode == 0
    assert outputs(folder) == outputs(long)


def test_temporary_workspace_and_queue_go_on_from_the_same_checkpoint(three_epochs, tmp_path):
    """A training killed in the workspace goes on in `dvc exp run --temp`, and a killed one there in the queue."""
    folder = tmp_path / "repo"
    shutil.copytree(three_epochs, folder, symlinks=True)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "run", cwd=folder)
    for lr, experiment in ((0.002, ("--temp",)), (0.003, ("--queue",))):
        write_params(folder, lr=lr)
        run("dvc", "repro", "-q", "pretrain@vit-digits", cwd=folder)
        run(
            sys.executable,
            str(ROOT / "tests/killer.py"),
            "mid-epoch",
            "stages/finetune.py",
            "vit-digits",
            cwd=folder,
            check=False,
        )
        run("git", "checkout", "-q", "--", ".", cwd=folder)
        result = run(
            "dvc", "exp", "run", *experiment, "-n", f"lr-{len(experiment[0])}", "-S", f"lr={lr}", cwd=folder
        )
        if experiment == ("--queue",):
            result = run("dvc", "exp", "run", "--run-all", cwd=folder)
        text = result.stdout + run("dvc", "queue", "logs", "lr-7", cwd=folder, check=False).stdout
        assert "going on after epoch 1 of 3" in text


def test_two_workers_sweep_a_queue(copy, monkeypatch):
    """Workers get in each other's way or take turns, or run the code of the workspace, which was edited after queueing."""
    monkeypatch.setenv("VITSCALE_THREADS", "1")
    rates = [1e-4, 3e-3]
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
    deadline, most = time.monotonic() + 120, 0
    while re.search("Queued|Running", status := run("dvc", "queue", "status", cwd=copy).stdout):
        assert time.monotonic() < deadline, status
        most = max(most, status.count("Running"))
        time.sleep(1)
    assert status.count("Success") == 2 and most == 2, status
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


def test_second_process_on_the_same_training_waits(copy, tmp_path):
    """Two workspaces at the same training: the second says that it waits, then takes over the first one's result."""
    from vitscale.base.files import locked

    shutil.copytree(copy, tmp_path / "other", symlinks=True)
    first = run(sys.executable, "stages/finetune.py", "vit-digits", cwd=copy)
    lock = next((tmp_path / "checkpoints").glob("finetune@*.lock"))
    with locked(lock):
        second = subprocess.Popen(
            [sys.executable, "stages/finetune.py", "vit-digits"],
            cwd=tmp_path / "other",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "waiting for it to end" in second.stderr.readline()
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0 and "epoch 1/1" in first.stdout and "epoch 1/1" not in out
    assert outputs(tmp_path / "other") == outputs(copy)


def test_damaged_checkpoint_is_started_over(three_epochs, tmp_path, checkpoints):
    folder = tmp_path / "repo"
    shutil.copytree(three_epochs, folder, symlinks=True)
    run(
        sys.executable,
        str(ROOT / "tests/killer.py"),
        "mid-epoch",
        "stages/finetune.py",
        "vit-digits",
        cwd=folder,
        check=False,
    )
    [path] = checkpoints.glob("finetune@*.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = run(sys.executable, "stages/finetune.py", "vit-digits", cwd=folder)
    assert result.stderr.startswith("warning: the checkpoint") and "going on" not in result.stdout
    assert outputs(folder) == outputs(three_epochs)


@pytest.mark.parametrize("limit", [20_000, 3_000])
def test_full_disk_while_training(done, tmp_path, limit):
    """No room for the checkpoint or for the weights: one line, no half-written output, the others untouched."""
    import resource

    folder = tmp_path / "repo"
    shutil.copytree(done, folder, symlinks=True)
    shutil.rmtree(folder / "models/finetuned")
    before = outputs(folder)
    result = run(
        sys.executable,
        "stages/finetune.py",
        "vit-digits",
        cwd=folder,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 1 and result.stderr.count("error:") == 1 and "Traceback" not in result.stderr
    assert "File too large" in result.stderr
    del before["metrics/history/finetune/vit-digits.json"]
    after = outputs(folder)
    after.pop("metrics/history/finetune/vit-digits.json", None)
    assert after == before and not list((folder / ".vitscale/partial").iterdir())


def test_diverging_training_says_step_and_rate(copy):
    write_params(copy, lr=1e30, recipes__vit__clip_norm=0.0)
    result = run("dvc", "repro", cwd=copy, check=False)
    assert result.returncode != 0
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "at step 1 (learning rate 9.33e+29)" in line  # the second of six steps, a sixth of the cosine
    assert not (copy / "models/start/vit-digits").exists()
    assert (copy / "models/finetuned/vit-digits/model.safetensors").exists()


def test_parameters_are_checked_by_every_stage(copy):
    write_params(copy, rows__vit_digits__start="nowhere")
    for stage, key in (
        ("download", "digits"),
        ("prepare", "digits"),
        ("init", "vit"),
        ("evaluate", "vit-digits"),
    ):
        result = run(sys.executable, f"stages/{stage}.py", key, cwd=copy, check=False)
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
        "stray" not in summary and "| deit | — | — | linear_probe | not run | — | — | — | 87.00% |" in summary
    )


@pytest.mark.cuda
def test_same_bytes_twice_on_cuda(copy, tmp_path, monkeypatch):
    made = []
    for name in ("first", "second"):
        monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / name))
        monkeypatch.setenv("VITSCALE_DEVICE", "cuda")
        run(sys.executable, "stages/pretrain.py", "vit-digits", cwd=copy)
        made.append(digest(copy / "models/start/vit-digits"))
    assert made[0] == made[1]
