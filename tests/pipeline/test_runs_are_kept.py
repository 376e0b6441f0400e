"""A value that has been run comes from DVC's cache: in experiments, on branches, at a colleague's, after a pull."""

import shutil

import pytest

from tiny import ROOT, run, write_params
from wide import TRAINING, committed, state


@pytest.mark.parametrize(
    "way",
    [
        "workspace",
        pytest.param("temp", marks=pytest.mark.slow),
        pytest.param("queue", marks=pytest.mark.slow),
    ],
)
def test_an_experiment_on_a_value_that_was_run(repo, commands, checkpoints, way):
    """Catches an experiment that trains what another one, wherever it ran, has trained."""
    options = {"workspace": [], "temp": ["--temp"], "queue": ["--queue"]}[way]

    def experiment(name, *more):
        run("dvc", "exp", "run", "-n", name, "-S", "lr=0.002", *more, *options, cwd=repo)
        if way == "queue":
            run("dvc", "exp", "run", "--run-all", cwd=repo)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return commands.new()

    assert sorted(experiment("first")) == TRAINING
    if way == "workspace":
        run("git", "checkout", "-q", ".", cwd=repo)
    assert experiment("second", "-S", "published.hub-probe.images=2") == ["compare"]
    run("dvc", "exp", "apply", "first", cwd=repo)
    run("dvc", "repro", cwd=repo)
    assert commands.new() == []


@pytest.mark.slow
def test_another_branch_and_back(repo, commands, checkpoints):
    """Catches a branch whose committed lock makes another one's runs be forgotten."""
    run("git", "checkout", "-qb", "faster", cwd=repo)
    write_params(repo, lr=0.002)
    run("dvc", "repro", cwd=repo)
    committed(repo)
    assert sorted(commands.new()) == TRAINING
    for branch in ("main", "faster", "main"):
        run("git", "checkout", "-q", branch, cwd=repo)
        shutil.rmtree(checkpoints, ignore_errors=True)
        run("dvc", "repro", cwd=repo)
        assert commands.new() == [] and run("git", "status", "--porcelain", cwd=repo).stdout == ""


def test_a_colleague_runs_nothing_again(repo, commands, tmp_path, monkeypatch):
    """Catches runs whose record, outputs or metrics stay behind: `dvc push --run-cache` leaves out all but the workspace's."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    first, second = repo, tmp_path / "second"
    run("dvc", "remote", "add", "-q", "-d", "storage", str(tmp_path / "storage"), cwd=first)
    committed(first)
    run("git", "clone", "-q", str(first), str(second), cwd=tmp_path)
    states = {}
    for lr in (0.002, 1e-3):
        write_params(first, lr=lr)
        run("dvc", "repro", cwd=first)
        states[lr] = state(first)
    assert sorted(commands.new()) == TRAINING
    run("python", "-m", "vitscale", "runs", "push", cwd=first)
    run("python", "-m", "vitscale", "runs", "fetch", "--pipeline", str(second), cwd=tmp_path)
    for lr in (1e-3, 0.002, 1e-3):
        write_params(second, lr=lr)
        run("dvc", "repro", cwd=second)
        assert commands.new() == [] and state(second) == states[lr]
    failed = run("python", "-m", "vitscale", "runs", "fetch", "--remote", "nowhere", cwd=second, check=False)
    assert (
        failed.returncode == 1
        and failed.stderr == "error: config file error: remote 'nowhere' doesn't exist\n"
    )


@pytest.mark.slow
def test_what_was_pulled_is_a_run_too(repo, commands, tmp_path):
    """Catches a README whose `dvc commit -f` doesn't make runs of what a pull brought: back from a change they would run again."""
    run("dvc", "remote", "add", "-q", "-d", "storage", str(tmp_path / "storage"), cwd=repo)
    committed(repo)
    run("dvc", "push", cwd=repo)
    clone = tmp_path / "clone"
    run("git", "clone", "-q", str(repo), str(clone), cwd=tmp_path)
    run("dvc", "pull", cwd=clone)
    run("dvc", "commit", "-f", cwd=clone)
    before, text = state(clone), (clone / "params.yaml").read_text()
    write_params(clone, lr=0.003)
    run("dvc", "repro", cwd=clone)
    assert sorted(commands.new()) == TRAINING
    (clone / "params.yaml").write_text(text)
    run("dvc", "repro", cwd=clone)
    assert commands.new() == [] and state(clone) == before
