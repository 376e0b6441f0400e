"""What stands in for the cache until DVC has the outputs: the state of a training."""

import os
import re
import shutil
import signal
import subprocess

from forked import wait_for
from tiny import run, write_params


def test_a_whole_run_leaves_no_state(repo, commands, checkpoints):
    """Catches states of finished trainings that pile up: a ResNet-18's takes 45 MB."""
    write_params(repo, lr=0.002)
    run("dvc", "repro", cwd=repo)
    assert len(list(checkpoints.glob("*.lock"))) == 3 and not list(checkpoints.glob("*.pt"))


def test_dvc_killed_before_it_has_the_outputs(done, forked, checkpoints, tmp_path):
    """Catches a state that goes as soon as the training is over, or because the lock of a fresh clone has the very outputs."""
    run("git", "clone", "-q", str(done), str(tmp_path / "repo"), cwd=tmp_path)
    folder = tmp_path / "repo"
    (folder / "dvc.yaml").write_text(
        (folder / "dvc.yaml")
        .read_text()
        .replace("stages/finetune.py\n", "stages/finetune.py && kill -9 $PPID\n")
    )
    run("dvc", "repro", cwd=folder, check=False)
    assert list(checkpoints.glob("finetune@vit-digits-*.pt")) and list(
        (folder / ".vitscale/trained").glob("finetune@vit-digits-*")
    )
    again = run("dvc", "repro", cwd=folder, check=False).stdout
    assert "nothing left to train after epoch 1 of 1, from " in again and "epoch 1/1" not in again
    run("git", "checkout", "-q", "dvc.yaml", cwd=folder)
    again = run("dvc", "repro", cwd=folder).stdout
    assert "nothing left to train" in again and not list(checkpoints.glob("*.pt"))


def test_stopped_by_the_keyboard(done, started, checkpoints, tmp_path):
    """Catches a Ctrl-C that doesn't say what is kept and how to go on."""
    folder = shutil.copytree(done, tmp_path / "repo", symlinks=True)
    write_params(folder, rows__vit_digits__epochs=300)
    process = subprocess.Popen(
        ["dvc", "repro", "finetune@vit-digits"],
        cwd=folder,
        start_new_session=True,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # below, since a shell's background job ignores SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: list(checkpoints.glob("finetune@*.pt")))
    os.killpg(process.pid, signal.SIGINT)
    said = re.search(r"stopped; run it again to go on after epoch (\d+) of 300\n", process.communicate()[1])
    process = subprocess.Popen(
        ["dvc", "repro", "finetune@vit-digits"],
        cwd=folder,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert any(
        f"going on after epoch {said[1]} of 300, from {checkpoints}/finetune@vit-digits" in line
        for line in process.stdout
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
