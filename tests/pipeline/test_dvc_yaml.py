"""dvc.yaml lists what a stage uses, all and only that."""

import importlib.util
import shutil
import sys
from contextlib import contextmanager

import pytest
import yaml

from dvcyaml import HARMLESS, OF_THE_CHECK, STAGES, body, imported
from tiny import ROOT, run
from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.pipeline.schema import Params
from vitscale.pipeline.stage import CHECKED, Stage


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_what_is_imported(stage):
    listed = {
        dep.replace("${root}/", "")
        for dep in body(read_yaml(ROOT / "dvc.yaml"), stage)["deps"]
        if dep.endswith(".py")
    }
    files = imported(ROOT / "stages" / f"{stage}.py") - (
        HARMLESS - OF_THE_CHECK if stage == "check" else HARMLESS
    )
    assert listed == files | {f"stages/{stage}.py"}


def test_params_are_checked_before_anything_else():
    """A section that `check` doesn't look at, and a stage that doesn't wait for it: DVC removes its outputs first."""
    pipeline = read_yaml(ROOT / "dvc.yaml")
    assert body(pipeline, "check")["params"] == list(Params.model_fields)
    for stage in pipeline["stages"].keys() - {"check"}:
        assert CHECKED in body(pipeline, stage)["deps"], stage


def test_no_name_gets_into_a_command():
    """What `${key}` or `${item}` gives is typed into a shell: a row called `$(…)` runs."""
    for stage, content in read_yaml(ROOT / "dvc.yaml")["stages"].items():
        assert content.get("do", content)["cmd"] == f"python ${{root}}/stages/{stage}.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, from_the_hub):
    """A copy of the finished pipeline, whose stages the tests below run again."""
    return shutil.copytree(from_the_hub, tmp_path_factory.mktemp("finished") / "repo", symlinks=True)


def entries():
    for stage in STAGES:
        for kind in ("params", "deps", "outs", "metrics", "plots"):
            for entry in body(read_yaml(ROOT / "dvc.yaml"), stage).get(kind, []):
                name = entry if isinstance(entry, str) else next(iter(entry))
                if not name.endswith(".py"):
                    yield pytest.param(stage, kind, entry, id=f"{stage}-{kind}-{name}")


def stage_main(name):
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module.main


KEY = {
    "check": None,
    "download": "digits",
    "prepare": "digits",
    "init": "vit",
    "weights": "hub",
    "features": "hub",
    "pretrain": "vit-digits",
    "finetune": "vit-digits",
    "evaluate": "vit-digits",
    "compare": None,
}


def perform(name):
    stage = Stage(name, KEY[name])
    stage_main(name)(stage)
    stage.finish()


@contextmanager
def edited_pipeline(folder):
    """Yield dvc.yaml's content and a function that writes a changed one; the file is put back after the block."""
    path = folder / "dvc.yaml"
    original = path.read_text()

    def save(content):
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    try:
        yield yaml.safe_load(original), save
    finally:
        path.write_text(original)
        shutil.rmtree(folder / ".vitscale/partial", ignore_errors=True)


@pytest.mark.parametrize("stage, kind, entry", list(entries()))
def test_a_missing_entry_stops_the_stage(finished, hub_mirror, monkeypatch, stage, kind, entry):
    """Taking any one entry out of dvc.yaml makes the stage fail, so nothing that it uses can go undeclared."""
    monkeypatch.chdir(finished)
    monkeypatch.setenv("VITSCALE_MIRROR", str(hub_mirror[0]))
    with edited_pipeline(finished) as (content, save):
        body(content, stage)[kind].remove(entry)
        save(content)
        with pytest.raises(UserError, match="dvc.yaml doesn't list"):
            perform(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_an_entry_too_many_stops_the_stage(finished, hub_mirror, monkeypatch, stage):
    monkeypatch.chdir(finished)
    monkeypatch.setenv("VITSCALE_MIRROR", str(hub_mirror[0]))
    with edited_pipeline(finished) as (content, save):
        body(content, stage)["params"].append("lr" if stage == "init" else "models.vit.depth")
        save(content)
        with pytest.raises(UserError, match="never used"):
            perform(stage)


@pytest.mark.parametrize("name", ["lx", "lr.lr", "models.vit.width"])
def test_a_parameter_that_there_isnt_is_said_in_a_line(finished, monkeypatch, name):
    """A slip in dvc.yaml ends a script by hand in a traceback; DVC itself says it."""
    monkeypatch.chdir(finished)
    with edited_pipeline(finished) as (content, save):
        body(content, "init")["params"].append(name)
        save(content)
        with pytest.raises(UserError, match=f"dvc.yaml lists {name} among"):
            perform("init")


def test_stages_import_neither_dvc_nor_transformers():
    """A GPU node without DVC, transformers or scikit-learn runs every stage script."""
    code = (
        "import sys, runpy\n"
        "for name in ('dvc', 'transformers', 'sklearn', 'pandas', 'matplotlib'): sys.modules[name] = None\n"
        f"for stage in {STAGES}: runpy.run_path(f'{ROOT}/stages/{{stage}}.py', run_name='loaded')"
    )
    run(sys.executable, "-c", code, cwd=ROOT)
