"""The committed figures come from the committed code and parameters, and the README shows those figures."""

import hashlib
from pathlib import Path

import pytest

from tiny import ROOT
from vitscale.files import read_yaml
from vitscale.stage import find

PIPELINES = [ROOT, ROOT / "examples/digits", ROOT / "examples/scaling"]


def stages(folder: Path):
    return read_yaml(folder / "dvc.lock")["stages"].items()


@pytest.mark.parametrize("folder", PIPELINES, ids=["study", "digits", "scaling"])
def test_lock_holds_the_committed_code_parameters_and_metrics(folder):
    """What `dvc status` says of code, parameters and files in git, without the data it would need for the rest."""
    seen, params = 0, read_yaml(folder / "params.yaml")
    for name, stage in stages(folder):
        for entry in stage["deps"] + stage["outs"]:
            path = folder / entry["path"]
            if path.suffix == ".py" or (path.is_relative_to(folder / "metrics") and path.suffix):
                assert hashlib.md5(path.read_bytes()).hexdigest() == entry["md5"], f"{name}: {entry['path']} is not what the run had"
                seen += 1
        for dotted, value in stage.get("params", {}).get("params.yaml", {}).items():
            assert find(params, dotted) == value, f"{name}: {dotted} is not what the run had"
    assert seen > 100


@pytest.mark.parametrize("folder", PIPELINES, ids=["study", "digits", "scaling"])
def test_every_entry_has_been_run(folder):
    params, names = read_yaml(folder / "params.yaml"), {name for name, _ in stages(folder)}
    sections = {"download": "download", "prepare": "prepare", "init": "models", "weights": "weights", "pretrain": "pretrain",
                "features": "features", "finetune": "rows", "evaluate": "rows"}
    single = set(read_yaml(folder / "dvc.yaml")["stages"]) - set(sections)
    assert "compare" in single and names == {f"{stage}@{key}" for stage, section in sections.items() for key in params[section]} | single


def test_readme_shows_the_committed_table():
    table = [line for line in (ROOT / "metrics/summary.md").read_text().splitlines() if line.startswith("|")]
    assert len(table) > 5 and "\n".join(table) in (ROOT / "README.md").read_text()


def test_readme_maps_every_flag_of_the_course_project():
    text = (ROOT / "README.md").read_text().split("course project's flags")[1].split("##")[0]
    for flag in ("mode batch_size epochs image_size num_classes data_dir patch_size dim heads depth mlp_dim dropout optimizer lr "
                 "weight_decay checkpoint model_name").split():
        assert f"`{flag}`" in text
