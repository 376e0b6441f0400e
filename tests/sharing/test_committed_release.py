"""The committed release, pulled in a fresh clone, scores on its test images what the committed metrics have."""

import json
import os
import subprocess
import sys

import pytest

from lean import BLOCKED
from tiny import ROOT, run
from vitscale.base.config import read_yaml
from vitscale.data.arrays import load_split

SCORED = 300  # images: seconds
CODE = """
import json, sys
sys.modules.update(dict.fromkeys(BLOCKED))
from pathlib import Path
from vitscale.data.arrays import load_split
from vitscale.models.finished import finished_rows, load_finished
folder = Path(sys.argv[1])
images = load_split(folder / "models/released/test-images").images[:SCORED]
rows = finished_rows(folder)
print(json.dumps({row: load_finished(row, folder)(list(images)).probabilities.argmax(1).tolist() for row in rows}))
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A fresh clone of the checkout's last commit, and nothing but what it pulls."""
    folder = tmp_path_factory.mktemp("clone") / "repo"
    run("git", "clone", "-q", str(ROOT), str(folder), cwd=ROOT)
    run("dvc", "--cd", "models/released", "pull", cwd=folder)
    return folder


def test_the_release_answers_as_the_committed_metrics(clone):
    """Catches weights that are not those of the committed figures, or that need more than the lean requirements."""
    code = CODE.replace("BLOCKED", repr(sorted(BLOCKED))).replace("SCORED", str(SCORED))
    done = subprocess.run(
        [sys.executable, "-c", code, clone], env=os.environ | {"PYTHONPATH": str(clone / "src")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, split = json.loads(done.stdout), load_split(clone / "models/released/test-images")
    assert "vit-cifar100" in found and len(split) == 1000
    assert {*found} <= {*read_yaml(clone / "params.yaml")["rows"]}
    for row, answers in found.items():
        kept = json.loads((clone / f"metrics/rows/{row}.json").read_text())["predicted"]
        of_class = {name: iter(numbers) for name, numbers in kept.items()}
        wanted = [next(of_class[split.classes[label]]) for label in split.labels[:SCORED]]
        assert sum(ours != theirs for ours, theirs in zip(wanted, answers, strict=True)) <= 3, row


def test_the_release_is_small(clone):
    """Catches a release that makes every clone large."""
    files = [path for path in (clone / "models/released/.dvc/remote").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30_000_000


def test_no_line_end_is_turned(tmp_path):
    """Catches a clone with core.autocrlf, as on Windows' disks, in which every stage counts as changed and trains anew."""
    run("git", "clone", "-q", "-c", "core.autocrlf=true", str(ROOT), "clone", cwd=tmp_path)
    ends = run("git", "ls-files", "--eol", cwd=tmp_path / "clone").stdout.splitlines()
    assert len(ends) > 300 and [line for line in ends if "w/crlf" in line or "w/mixed" in line] == []
