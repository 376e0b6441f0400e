"""What stands in for the cache until DVC has the outputs: the state of a training."""

import os
import re
import shutil
import signal
import subprocess

import pytest

from forked import wait_for
from tiny import run, write_params
from vitscale.pipeline.stage import release_states


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
        .replace(
            "cmd: python ${root}/stages/finetune.py",
            "cmd: python ${root}/stages/finetune.py && kill -9 $PPID",
        )
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


NOTE, SHOWN_BY = f"finetune@x-{'a' * 32}", "b" * 32


@pytest.fixture
def noted(checkpoints, tmp_path, monkeypatch):
    """A finished training's state, a note of it and a dvc.lock that records its outputs; somebody's model beside."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".vitscale/trained").mkdir(parents=True)
    (tmp_path / "dvc.lock").write_text(f"md5: {SHOWN_BY}")
    checkpoints.mkdir(parents=True)
    for path in (checkpoints / f"{NOTE}.pt", checkpoints / "mine.pt", tmp_path / "mine.pt"):
        path.write_bytes(b"")
    (tmp_path / f".vitscale/trained/{NOTE}").write_text(SHOWN_BY)
    return tmp_path / ".vitscale/trained"


def test_a_note_releases_its_state(noted, checkpoints):
    """States of finished trainings pile up, and so do their notes."""
    release_states("finetune@y")
    assert not list(noted.iterdir()) and [path.name for path in checkpoints.iterdir()] == ["mine.pt"]


@pytest.mark.parametrize("content", ["", "c" * 32, SHOWN_BY[1:]], ids=["empty", "of another run", "cut"])
def test_a_state_stays_until_it_is_recorded(noted, checkpoints, content):
    """A note that was cut short, or of outputs that no dvc.lock records, loses a training of hours."""
    (noted / NOTE).write_text(content)
    release_states("finetune@y")
    assert (checkpoints / f"{NOTE}.pt").exists() and (noted / NOTE).exists()


def test_a_note_of_what_is_not_ours(noted, checkpoints, tmp_path):
    """A note that came with a folder from elsewhere names any file, which is deleted then."""
    (noted / NOTE).write_text(f"{SHOWN_BY} {tmp_path / 'mine.pt'}")
    (noted / "my@mine").write_text(SHOWN_BY)
    (noted / f"finetune@z-{'a' * 32}").mkdir()
    (noted / f"finetune@v-{'a' * 32}").write_bytes(b"\xff")
    (checkpoints / f"finetune@w-{'a' * 32}.pt").symlink_to(tmp_path / "mine.pt")
    (noted / f"finetune@w-{'a' * 32}").write_text(SHOWN_BY)
    before = len(list(checkpoints.iterdir()))
    release_states("finetune@y")
    assert (tmp_path / "mine.pt").exists() and len(list(checkpoints.iterdir())) == before
