"""Each pipeline answers for itself: what a person types in a fresh clone where only one of the pipelines has run."""

import shutil
import subprocess

import pytest
import yaml

from tiny import PARAMS, PIPELINES, ROOT, run, write_params
from vitscale.base.config import read_yaml

COMMANDS = [
    "status",
    "pull",
    "checkout",
    "repro",
    "push",
    "exp run -n more -S rows.vit-digits.epochs=2",
    "exp show --no-pager",
    "exp list",
    "metrics show",
    "metrics diff",
    "params diff",
    "plots show",
    "plots diff HEAD workspace",
    "dag",
    "dag --collapse-foreach-matrix",
    "exp apply more",
    "exp push origin more",
    "data status",
    "gc -w -f",
    "status",
]
FOREIGN = {
    ".": ["examples", "scaling"],
    "examples/digits": ["cifar", "../../data", "../../metrics", "scaling"],
}


@pytest.fixture(params=["examples/digits", pytest.param(".", marks=pytest.mark.slow)])
def fresh(request, forked, tmp_path):
    """The pipeline's folder, from the root, in a clone of a repository with all pipelines, of which only that one has run."""
    origin, first, second, remote = (tmp_path / name for name in ("origin.git", "first", "second", "remote"))
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(
        lambda name: (ROOT / name).exists() and not name.startswith("tests/"), listed.splitlines()
    ):
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, first / name, follow_symlinks=False)
    folder = first / request.param
    shutil.rmtree(folder / "metrics")
    for name in ("dvc.lock", "params.yaml"):
        (folder / name).unlink()
    write_params(folder)
    run("git", "init", "-q", "-b", "main", cwd=first)
    for pipeline in PIPELINES:
        run("dvc", "remote", "add", "-q", "-d", "storage", str(remote), cwd=first / pipeline)
    run("dvc", "repro", "-q", cwd=folder)
    run("git", "add", "-A", cwd=first)
    run("git", "commit", "-qm", "run", cwd=first)
    run("git", "clone", "-q", "--bare", str(first), str(origin), cwd=tmp_path)
    run("dvc", "push", "-q", cwd=folder)
    run("git", "clone", "-q", str(origin), str(second), cwd=tmp_path)
    return request.param, second


def test_plain_commands_speak_of_the_folder_they_are_typed_in(fresh):
    """A command fails, or speaks of a pipeline that has not run here."""
    pipeline, clone = fresh
    for typed in COMMANDS:
        done = run("dvc", *typed.split(), cwd=clone / pipeline, check=False)
        text = done.stdout + done.stderr.replace(str(clone), "")
        assert done.returncode == 0, f"dvc {typed}: {text}"
        assert not [
            name for name in FOREIGN[pipeline] if name in text.replace("examples/digits/dvc_plots", "")
        ], f"dvc {typed}: {text}"
        if typed in ("repro", "pull", "checkout"):
            assert "Running stage" not in text
    assert run("dvc", "status", cwd=clone / pipeline).stdout.strip() == "Data and pipelines are up to date."


def test_pages_templates_are_everywhere():
    """A pipeline's plots are drawn with DVC's own templates, since its project has none."""
    for folder in PIPELINES[1:]:
        assert (ROOT / folder / ".dvc/plots/curves.json").read_text() == (
            ROOT / ".dvc/plots/curves.json"
        ).read_text()
        assert (ROOT / folder / ".dvc/config").read_text() == (ROOT / ".dvc/config").read_text()


@pytest.mark.parametrize("folder", PIPELINES)
def test_every_pipeline_has_the_one_dvc_yaml(folder):
    """A copy is an older one: `for each in examples/*/dvc.yaml; do cp dvc.yaml $each; done`. A link would be read as its text from git."""
    path = ROOT / folder / "dvc.yaml"
    assert path.read_bytes() == (ROOT / "dvc.yaml").read_bytes() and not path.is_symlink()
    variables, params = read_yaml(path.with_name("root.yaml")), read_yaml(path.with_name("params.yaml"))
    assert (path.parent / variables["root"]).resolve() == ROOT
    assert {variables["vit"], variables["resnet18"]} <= params["rows"].keys() and len(variables) == 3


def test_every_stage_can_enter_the_run_cache():
    """A plain output without cache keeps its stage out of the run cache, as does one that persists (DVC 3.67)."""
    for name, stage in read_yaml(ROOT / "dvc.yaml")["stages"].items():
        body = stage.get("do", stage)
        assert all(isinstance(out, str) for out in body.get("outs", [])), name
        assert "always_changed" not in body and body["deps"], name
        for out in [*body.get("metrics", []), *body.get("plots", [])]:
            assert (
                isinstance(out, str) or not {"persist", "remote", "push"} & next(iter(out.values())).keys()
            ), name


def test_tiny_parameters_are_of_the_kind_that_is_committed():
    """What this file runs lacks a section that the real pipelines have."""
    assert PARAMS.keys() == yaml.safe_load((ROOT / "params.yaml").read_text()).keys()
