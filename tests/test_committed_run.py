"""The committed figures come from the committed code and parameters, and the README shows those figures."""

import copy
import hashlib
from pathlib import Path

import pytest
import yaml

from tiny import ROOT
from vitscale.base.config import read_yaml
from vitscale.pipeline.graph import read_pipeline
from vitscale.pipeline.recorded import leftovers, not_run

PIPELINES = [ROOT, ROOT / "examples/digits", ROOT / "examples/scaling"]


def parts(folder: Path) -> tuple[dict, dict, dict]:
    """Return a folder's pipeline, parameters and recorded stages."""
    return *read_pipeline(lambda file: read_yaml(folder / file)), read_yaml(folder / "dvc.lock")["stages"]


def hashing(folder: Path, **edited: str):
    """Return a function from a file's path to its hash, None for what isn't there, and the list of the files it was asked for."""
    seen = []

    def md5(path: str) -> str | None:
        if not (folder / path).is_file():
            return None
        seen.append(path)
        return edited.get(Path(path).stem) or hashlib.md5((folder / path).read_bytes()).hexdigest()

    return md5, seen


@pytest.mark.parametrize("folder", PIPELINES, ids=["study", "digits", "scaling"])
def test_lock_holds_the_committed_code_parameters_and_metrics(folder):
    """What `dvc status` says of code, parameters and files in git, without the data it would need for the rest."""
    md5, seen = hashing(folder)
    assert not_run(*parts(folder), md5) == []
    assert len(seen) > 100 and len([path for path in seen if path.startswith("metrics/")]) > 15
    assert leftovers(*parts(folder)) == {}


def test_what_was_not_run_is_named():
    """Parameters, code or figures that no run had pass for those of the committed run."""
    pipeline, params, lock = parts(ROOT / "examples/digits")
    params["lr"] = 0.002
    params["rows"]["another"] = copy.deepcopy(params["rows"]["vit-scratch"])
    params["rows"]["vit-scratch"]["epochs"] = 41
    del params["rows"]["vit-scratch"]["fraction"]
    lock = yaml.safe_load(yaml.safe_dump(lock))
    lock["evaluate@vit-digits"]["outs"][0]["md5"] = "0" * 32
    found = not_run(pipeline, params, lock, hashing(ROOT / "examples/digits", progress="1", prepare="2")[0])
    trained = [
        f"{stage}@{name}"
        for stage, section in (("pretrain", "pretrain"), ("finetune", "rows"))
        for name in params[section]
    ]
    assert [line for line in found if ": lr is" in line] == [
        f"{label}: lr is 0.002, its run had 0.001"
        for label in ["check", *trained]
        if label != "finetune@another"
    ]
    assert {
        "finetune@another was never run",
        "evaluate@another was never run",
        "finetune@vit-scratch: rows.vit-scratch.epochs is 41, its run had 40",
        "finetune@vit-scratch: rows.vit-scratch.fraction is None, its run had 1.0",
        "compare: rows.vit-scratch.epochs is 41, its run had 40",
        "evaluate@vit-digits: metrics/confusion/vit-digits.csv is not what its run left",
        "prepare@digits-0to4: ../../src/vitscale/data/prepare.py is not what its run had",
    } <= set(found)
    assert not any("progress" in line or line.startswith("init") for line in found)


def test_workflow_and_ci_check_before_they_run():
    """`dvc repro` rewrites the lock first, so that parameters that were never run pass the check."""
    for path in (".github/workflows/pull-request.yml", ".ci/run"):
        text = (ROOT / path).read_text()
        assert 0 < text.index("pytest -n 0 tests/test_committed_run.py") < text.index("&& dvc repro")
