"""The command that checks params.yaml."""

import os
import subprocess
import sys

import pytest
import yaml

from schemas import changed, faults
from tiny import ROOT


def command(*arguments: str) -> subprocess.CompletedProcess:
    """Run `vitscale check` in the checkout's root, with the checkout's own code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-m", "vitscale", "check", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("arguments", "path"), [([], "params.yaml"), (["examples/digits"], "examples/digits/params.yaml")]
)
def test_the_command_says_good(arguments, path):
    """`vitscale check` doesn't run in a fresh checkout, or rejects what is in it."""
    done = command(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: good\n", "")


def test_the_command_fails_with_the_faults(tmp_path):
    """The command ends well (code 0), with a traceback, or without the faults, where params.yaml is wrong."""
    content = changed("lr", -1.0, changed("rows.vit-scratch.epochs", 0))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    done = command(str(tmp_path))
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.splitlines() == [f"error: {fault}" for fault in faults(content)]
        and len(faults(content)) == 2
    )
    done = command(str(tmp_path / "nowhere"))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "nowhere" in done.stderr
