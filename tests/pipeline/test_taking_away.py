"""Refused values and entries that are gone: the way back costs nothing, and nothing is left over."""

import shutil

import yaml

from tiny import ROOT, run
from vitscale.base.config import read_yaml
from vitscale.commands.prune import is_output, take_away_with_folders
from vitscale.pipeline.stage import CHECKED
from wide import state


def test_a_refused_value_costs_no_output(repo, commands):
    """Outputs that are gone once a value is refused, so that the old value back must train again; or another stage runs first."""
    before = state(repo)
    failed = run("dvc", "exp", "run", "-S", "lr=abc", cwd=repo, check=False)
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert failed.returncode != 0
    assert errors == ["error: params.yaml: lr: input should be a valid number (is: 'abc')"]
    others = before.keys() - {CHECKED, "params.yaml"}
    now = state(repo)
    assert {name: now.get(name) for name in others} == {name: before[name] for name in others}
    run("git", "checkout", "params.yaml", cwd=repo)
    run("dvc", "repro", cwd=repo)
    assert state(repo) == before and commands.new() == []


def without(folder, *entries):
    params = read_yaml(folder / "params.yaml")
    for section, name in entries:
        del params[section][name]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def test_taking_away(repo, commands, monkeypatch):
    """Catches outputs or parts of the lock that stay when a row, a start or a data set is taken away, or that go before."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    before, text = state(repo), (repo / "params.yaml").read_text()

    def prune(*options):
        return run("python", "-m", "vitscale", "prune", *options, cwd=repo).stdout.splitlines()

    assert prune() == ["nothing is left over"] and state(repo) == before
    without(
        repo,
        ("rows", "hub-probe"),
        ("features", "hub"),
        ("weights", "hub"),
        ("download", "photos"),
        ("prepare", "photos"),
    )
    said = run("dvc", "repro", cwd=repo).stdout
    assert (
        "no entry for metrics/rows/hub-probe.json, metrics/history/finetune/hub-probe.json; " in said
        and "vitscale prune`" in said
    )
    as_run = state(repo)
    named = prune("--dry")
    assert state(repo) == as_run and "dvc.lock: weights@hub" in named and "data/raw/photos/train" in named
    kept = repo / "models/finetuned/hub-probe/config.json"
    kept.chmod(0o644)
    kept.write_text("mine")
    assert (
        "models/finetuned/hub-probe stays: it is not what finetune@hub-probe left" in prune()
        and kept.read_text() == "mine"
    )
    gone = "photos", "hub"
    assert not [
        name for name in state(repo) if any(word in name for word in gone) and "models/finetuned" not in name
    ]
    assert not [
        label
        for label in read_yaml(repo / "dvc.lock")["stages"]
        if label.split("@")[-1] in (*gone, "hub-probe")
    ]
    commands.new()
    run("dvc", "repro", cwd=repo)
    assert (
        commands.new() == ["compare"]
        and run("dvc", "status", cwd=repo).stdout.strip() == "Data and pipelines are up to date."
    )
    assert all(
        line.startswith((" D", " M"))
        for line in run("git", "status", "--porcelain", cwd=repo).stdout.splitlines()
    )
    shutil.rmtree(repo / "models/finetuned/hub-probe")
    (repo / "params.yaml").write_text(text)
    run("dvc", "repro", cwd=repo)
    now = state(repo)
    assert commands.new() == [] and {name for name in before | now if before.get(name) != now.get(name)} <= {
        "dvc.lock"
    }  # in another order


def test_what_a_lock_may_name(tmp_path):
    """A lock that came from elsewhere has `prune` delete sources or files beside the repository, or follow a link."""
    pipeline, cache = tmp_path / "repo", tmp_path / "cache"
    for folder in (pipeline / "data/raw", pipeline / "src", cache):
        folder.mkdir(parents=True)
    names = [
        "data/raw/a",
        "src/a.py",
        "params.yaml",
        "../cache/a",
        "data/../src/a.py",
        str(cache / "a"),
        "data/b",
    ]
    for name in names[:-1]:
        (pipeline / name).write_text("mine")
    (pipeline / "data/link").symlink_to(cache)
    (pipeline / "data/raw/linked").symlink_to(cache / "a")  # as DVC does where cache.type is symlink
    named = [
        name for name in [*names, "data/link/a", "data/raw/linked"] if is_output(name, pipeline, {"data"})
    ]
    assert named == ["data/raw/a", "data/raw/linked"]
    for name in [*named, "data/link"]:
        take_away_with_folders(pipeline / name, pipeline)
    assert (cache / "a").read_text() == "mine" and sorted(path.name for path in pipeline.iterdir()) == [
        "params.yaml",
        "src",
    ]
