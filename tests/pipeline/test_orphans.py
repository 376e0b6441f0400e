"""Stages whose `dvc` is gone, and those under which an input changes: nothing of theirs is moved into place."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tiny import ROOT, outputs, run
from vitscale.base.errors import UserError
from vitscale.pipeline import parent
from vitscale.pipeline.unchanged import Given

# As DVC runs a stage: `dvc` starts a shell that starts the script. The stage prints, waits, and prints again.
STAGE = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT / "src")!r})
from vitscale.pipeline.parent import Parent
here = Parent("finetune@x")
print(os.getpid(), here.handle is not None, flush=True)
time.sleep(float(sys.argv[1]))
here.check()
print("moved", flush=True)
"""
DVC = """
import subprocess, sys
subprocess.run([sys.argv[1], "-c", sys.argv[2]])
"""
linux = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux's alone")


def start(tmp_path, name: str, shell: str, command: str, **env):
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / name).write_text(DVC)
    return subprocess.Popen(
        [
            sys.executable,
            str(tmp_path / name),
            shell,
            command.format(python=sys.executable, stage=tmp_path / "stage.py"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != "DVC_STAGE"} | env,
    )


@linux
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@pytest.mark.parametrize(
    "command",
    ["{python} {stage} 30", "{python} {stage} 30; true", "env A=1 sh -c '{python} {stage} 30; true'"],
)
def test_an_orphan_ends(shell, command, tmp_path):
    """A stage trains on after `kill -9` of its dvc, whether or not a shell stands between."""
    dvc = start(tmp_path, "dvc", shell, command, DVC_STAGE="finetune@x")
    assert dvc.stdout.readline().split()[1] == "True"
    dvc.kill()
    began = time.monotonic()
    assert dvc.stdout.read() == "" and time.monotonic() - began < 10  # its end closes the pipe
    dvc.wait()


@linux
@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("dvc", {}),
        ("terminal", {"DVC_STAGE": "finetune@x"}),
        ("dvc", {"DVC_STAGE": "finetune@y"}),
        ("terminal", {}),
    ],
)
def test_a_script_by_hand_goes_on(name, env, tmp_path):
    """A script under nohup or in tmux ends when the terminal or the shell that started it goes."""
    shell = start(tmp_path, name, "/bin/sh", "nohup {python} {stage} 1", **env)
    assert shell.stdout.readline().split()[1] == "False"
    os.kill(shell.pid, signal.SIGKILL)
    assert shell.stdout.read() == "moved\n"
    shell.wait()


@linux
def test_an_orphan_moves_nothing(monkeypatch):
    """A stage whose dvc ends in the instant before its outputs are moved moves them all the same."""
    process = subprocess.Popen(["sleep", "60"])
    monkeypatch.setenv("DVC_STAGE", "x")
    monkeypatch.setattr(parent, "find_dvc", lambda: process.pid)
    monkeypatch.setattr(parent.threading.Thread, "start", lambda self: None)
    stage = parent.Parent("x")
    stage.check()
    process.kill()
    process.wait()
    with pytest.raises(UserError, match="dvc has ended, so nothing was moved into place"):
        stage.check()
    os.close(stage.handle)


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (["/v/bin/python", "/v/bin/dvc", "repro"], True),
        (["/v/bin/dvc", "repro"], True),
        (["python3", "-m", "dvc", "exp", "run"], True),
        (["python3", "/v/lib/dvc/__main__.py", "exp"], True),
        (["bash", "-c", "dvc repro"], False),
        (["vim", "/home/me/dvc.yaml"], False),
        (["python", "stages/x.py", "dvc"], False),
        ([], False),
    ],
)
def test_which_process_is_dvc(command, wanted):
    """A stage is bound to an editor, or not to its dvc."""
    assert parent._is_dvc(command) == wanted


DECLARED = {"params": ["lr", "rows.a"], "deps": ["code.py", "data"], "outs": []}


def edit_large(folder):
    with open(folder / "data/large", "r+b") as file:
        file.write(b"1")


EDITS = {
    "lr": (
        lambda folder: (folder / "params.yaml").write_text("lr: 2\nrows: {a: {e: 1}}"),
        "lr of params.yaml",
    ),
    "row": (
        lambda folder: (folder / "params.yaml").write_text("lr: 1\nrows: {b: {e: 1}}"),
        "rows.a of params.yaml",
    ),
    "code": (lambda folder: (folder / "code.py").write_text("b"), "code.py"),
    "large": (edit_large, "data/large"),
    "new": (lambda folder: (folder / "data/new").write_text(""), "data/new"),
    "gone": (lambda folder: (folder / "data/small").unlink(), "data/small"),
}


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    (tmp_path / "params.yaml").write_text("lr: 1\nrows: {a: {e: 1}}")
    (tmp_path / "data").mkdir()
    for name, size in (("code.py", 1), ("data/small", 1), ("data/large", 1_000_000)):
        (tmp_path / name).write_bytes(bytes(size))
    os.utime(tmp_path / "data/large", (1, 1))
    return Given(DECLARED, {"lr": 1, "rows": {"a": {"e": 1}}})


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_under_a_running_stage(given, tmp_path, name):
    """dvc.lock says that outputs were made from parameters, code or inputs that were edited meanwhile."""
    edit, what = EDITS[name]
    edit(tmp_path)
    with pytest.raises(UserError) as caught:
        given.check("finetune@x")
    assert str(caught.value) == (
        f"finetune@x: {what} changed while the stage ran, so nothing was moved into place; "
        "put it back, or run the stage again"
    )


def test_what_is_the_same_is_no_edit(given, tmp_path):
    """A stage of hours is refused for another row, or for a file that was written anew with the same bytes."""
    (tmp_path / "params.yaml").write_text("rows: {b: {}, a: {e: 1}}\nlr: 1\nseed: 2")
    (tmp_path / "code.py").write_bytes(bytes(1))
    os.utime(tmp_path / "code.py", (5, 5))
    given.check("finetune@x")


@pytest.mark.usefixtures("forked")
def test_a_stage_moves_nothing_after_an_edit(copy):
    """A whole stage passes over an edit of an input while it ran."""
    script = copy / "stages/init.py"
    script.write_text(
        script.read_text().replace(
            "def main(stage: Stage) -> None:\n",
            "def main(stage: Stage) -> None:\n    Path(__file__).open('a').write('#')\n",
        )
    )
    before = outputs(copy)
    result = run("python", "stages/init.py", "vit", cwd=copy, check=False)
    assert result.returncode == 1 and "init.py changed while the stage ran" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and outputs(copy) == before
