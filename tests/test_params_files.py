"""Every params.yaml is in the form that DVC gives it, and its comments say what metrics say."""

import difflib
import json
import re
import shutil
import subprocess

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import modify_yaml

from tiny import PIPELINES, ROOT
from vitscale.base.config import read_yaml
from vitscale.pipeline.consistency import check

FILES = [*(f"{folder}/params.yaml" for folder in PIPELINES), "benchmarks/time_to_accuracy.yaml"]


@pytest.mark.parametrize("file", FILES)
def test_dvc_changes_one_line(file, tmp_path):
    """`dvc exp run -S` rewrites the whole file: in another form a pull request would show its change among many that are none."""
    text, path = (ROOT / file).read_text(), tmp_path / "params.yaml"
    row = next(iter(read_yaml(ROOT / file)["rows"]))
    for override in ("lr=1e-4", f"rows.{row}.epochs=77", "+rows.another={}"):
        shutil.copy(ROOT / file, path)
        apply_overrides(path, [override])  # what `-S` does
        changes = [
            line
            for line in difflib.ndiff(text.splitlines(), path.read_text().splitlines())
            if line[0] in "+-"
        ]
        assert [line[0] for line in changes] == (["+"] if "another" in override else ["-", "+"]), changes
        assert changes[0].partition("#")[1:] == changes[-1].partition("#")[1:] or "another" in override, (
            "its comment is gone"
        )
    shutil.copy(ROOT / file, path)
    with modify_yaml(path):
        pass
    assert path.read_text() == text


@pytest.mark.parametrize("file", FILES)
def test_parameters_are_good(file):
    """A pipeline that can't run, since its params.yaml has a fault."""
    check(read_yaml(ROOT / file))


@pytest.mark.parametrize("folder", PIPELINES)
def test_a_rows_comment_is_its_accuracy(folder):
    """A comment is of an older run, is missing, or stands where nothing was run."""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", f"{folder}/metrics/rows"], cwd=ROOT)
    if changed.returncode:  # 1: a run on this machine gave other figures; 129: this is no git repository
        pytest.skip(
            f"{folder}/metrics/rows are not the committed ones; .ci/run looks before it runs anything"
        )
    section = re.split(r"(?m)^(?=\w+:)", (ROOT / folder / "params.yaml").read_text())
    [rows] = [part for part in section if part.startswith("rows:")]
    said = dict(re.findall(r"(?m)^  ([\w-]+): # (\d+\.\d\d%)", rows))
    files = (ROOT / folder / "metrics/rows").glob("*.json")
    assert said == {file.stem: f"{json.loads(file.read_text())['accuracy']:.2%}" for file in files}


def test_a_full_budget_has_its_controls():
    """examples/gpu: a control from scratch that has another training than the row it stands beside, or another total."""
    params = read_yaml(ROOT / "examples/gpu/params.yaml")
    for model in ("vit", "resnet18"):
        start, row = params["pretrain"][f"{model}-cifar100"], params["rows"][f"{model}-cifar100"]
        scratch = row | {"start": f"{model}-scratch"}
        assert params["rows"][f"{model}-scratch"] == scratch
        assert params["rows"][f"{model}-scratch-long"] == scratch | {
            "epochs": start["epochs"] + row["epochs"]
        }
