"""Curves and bars beside a real pipeline: they change no byte, and DVC reads the ones that are for it."""

import json
import os
import pty
import re
import shutil
import subprocess

import pytest

from tiny import ROOT, outputs, run
from vitscale.training.curves import LIVE, Live
from vitscale.training.loop import Epoch

pytestmark = pytest.mark.usefixtures("forked")


def on_terminal(*command: str, cwd) -> str:
    """Run a command on a terminal that says no width; return what it showed there."""
    master, slave = pty.openpty()
    process = subprocess.Popen(command, cwd=cwd, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            read = os.read(master, 65536)
        except OSError:  # the last process that has the terminal is gone
            break
        if not read:
            break
        shown += read
    os.close(master)
    assert process.wait() == 0, shown
    return shown.decode()


def test_no_byte_changes(copy, done, tmp_path, monkeypatch):
    """Catches curves, or a bar on a terminal, that change a training: its random numbers, its outputs, what git sees."""
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("VITSCALE_TENSORBOARD", str(tmp_path / "curves"))
    monkeypatch.setenv("VITSCALE_DVCLIVE", "1")
    shown = on_terminal("dvc", "repro", "-f", "pretrain", "finetune", cwd=copy)
    assert {path.name for path in (tmp_path / "curves").iterdir()} == {
        "pretrain@vit-digits",
        "finetune@vit-digits",
    }
    assert outputs(copy) == outputs(done)
    assert not run("git", "status", "--short", cwd=copy).stdout
    # A bar for each training, and no line an epoch, nor a bar of the scoring.
    bars = re.findall(
        r"\repoch 1/1, best validation \d+\.\d\d%: 100%\|[^|]+\| [\d.k]+ images/s, 00:00 left *\r?\n", shown
    )
    assert len(bars) == 2 and "train loss" not in shown and "scoring" not in shown, shown


def test_dvc_reads_what_is_written_for_it(copy, monkeypatch):
    """Catches files that DVC takes for no metrics or plots, that make a stage stale, or that it warns of."""
    with monkeypatch.context() as patch:
        patch.chdir(copy)
        live = Live("finetune@vit-digits")
        live.begin([])
        for i in (1, 2):
            live.epoch(Epoch(i, 0.1, 1.0 / i, 2.0, 0.25 * i), 99.0)
    assert json.loads(run("dvc", "status", "--json", cwd=copy).stdout) == {}
    table = json.loads(run("dvc", "exp", "show", "--json", cwd=copy).stdout)
    metrics = table[0]["data"]["metrics"][f"{LIVE}/metrics.json"]["data"]
    assert (
        metrics["validation"] == {"loss": 2.0, "accuracy": 0.5}
        and metrics["train"]["images_per_second"] == 99
    )
    shutil.copytree(ROOT / ".dvc/plots", copy / ".dvc/plots")
    shown = run("dvc", "plots", "diff", "--json", "--split", cwd=copy)
    assert shown.stderr == ""
    [plot] = json.loads(shown.stdout)["data"][f"{LIVE}/plots/metrics/validation/accuracy.tsv"]
    points = plot["anchor_definitions"]["<DVC_METRIC_DATA>"]
    assert [(each["step"], each["accuracy"]) for each in points] == [("1", "0.25"), ("2", "0.5")]
    with monkeypatch.context() as patch:
        patch.chdir(copy)
        live.close()
    assert not (copy / LIVE).exists()


def test_the_last_line_says_what_to_look_at(copy, monkeypatch):
    """Catches a person who is left without the next step, or sent to an experiment's folder, which DVC takes away."""
    *_, last = run("python", "stages/compare.py", cwd=copy).stdout.splitlines()
    assert (
        last.startswith("next: metrics/summary.md")
        and "`dvc plots show`" in last
        and "`vitscale demo`" in last
    )
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")
    assert "next:" not in run("python", "stages/compare.py", cwd=copy).stdout
