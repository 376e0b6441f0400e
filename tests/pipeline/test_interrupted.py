"""The tiny pipeline killed, waiting, out of room or diverging, and what follows."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from tiny import ROOT, outputs, run, undisturbed, write_params
from vitscale.training.optimizers import learning_rate

pytestmark = pytest.mark.usefixtures("forked")


@pytest.fixture(scope="module")
def three_epochs(forks, tmp_path_factory):
    """The outputs of three epochs that nothing stopped."""
    return undisturbed(tmp_path_factory, forks, rows__vit_digits__epochs=3)


@pytest.mark.parametrize("point", ["mid-epoch", "writing a checkpoint", "writing outputs"])
def test_killed_stage_goes_on_to_the_same_bytes(three_epochs, tmp_path, point):
    folder = tmp_path / "repo"
    shutil.copytree(three_epochs, folder, symlinks=True)
    shutil.rmtree(folder / "models/finetuned")
    (folder / "metrics/history/finetune/vit-digits.json").unlink()
    killed = run(
        "python",
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


def wait_for(condition, seconds=600):  # only a test that hangs takes that long
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def long(forks, tmp_path_factory):
    """A fine-tuning long enough to be killed in the middle, never stopped."""
    return undisturbed(tmp_path_factory, forks, rows__vit_digits__epochs=60)


@pytest.mark.parametrize("whole_group", [False, True], ids=["dvc alone", "the whole group"])
def test_killed_dvc(long, started, tmp_path, checkpoints, whole_group):
    """After `kill -9` of DVC the orphan trains on, over what a second `dvc repro` restores; or that one starts anew."""
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
    second = subprocess.Popen(
        ["dvc", "repro", "-f", "-s", "finetune@vit-digits"],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = next((line for line in second.stdout if "going on after epoch" in line), None)
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
            "python",
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


def test_second_process_on_the_same_training_waits(copy, tmp_path, checkpoints):
    """Two workspaces at the same training: the second says that it waits, then takes over the first one's result."""
    from vitscale.base.files import locked

    shutil.copytree(copy, tmp_path / "other", symlinks=True)
    first = run("python", "stages/finetune.py", "vit-digits", cwd=copy)
    lock = next(checkpoints.glob("finetune@*.lock"))
    with locked(lock, "nothing"):
        second = subprocess.Popen(
            ["python", "stages/finetune.py", "vit-digits"],
            cwd=tmp_path / "other",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "waiting for it to end" in second.stderr.readline()
    out, _ = second.communicate(timeout=600)
    assert second.returncode == 0 and "epoch 1/1" in first.stdout and "epoch 1/1" not in out
    assert outputs(tmp_path / "other") == outputs(copy)


def test_damaged_checkpoint_is_started_over(three_epochs, tmp_path, checkpoints):
    folder = tmp_path / "repo"
    shutil.copytree(three_epochs, folder, symlinks=True)
    run(
        "python",
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
    result = run("python", "stages/finetune.py", "vit-digits", cwd=folder)
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
        "python",
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
    write_params(copy, lr=1000.0, pretrain__vit_digits__lr_scale=1e6, recipes__vit__clip_norm=0.0)
    result = run("dvc", "repro", cwd=copy, check=False)
    assert result.returncode != 0
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    step, rate = re.search(r"at step (\d) \(learning rate (\S+)\)", line).groups()
    assert rate == f"{learning_rate(int(step), 6, 0, 1e9):.3g}"  # of six steps, on half a cosine
    assert not (copy / "models/start/vit-digits").exists()
    assert (copy / "models/finetuned/vit-digits/model.safetensors").exists()
