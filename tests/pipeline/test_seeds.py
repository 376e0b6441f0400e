"""A row with a list of seeds: a training for each, one line in the tables."""

import json
import shutil

import pytest
import yaml

from exported import command
from tiny import PARAMS, run, stages_run, tiny
from vitscale.base.errors import UserError
from vitscale.base.files import write_json
from vitscale.commands.export import export
from vitscale.pipeline.consistency import check

ROW = PARAMS["rows"]["vit-digits"] | {"start": "vit-scratch"}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory, forks):
    """A pipeline with one row of two seeds, and a row with the second of them alone."""
    with pytest.MonkeyPatch.context() as patch:
        forks.put_first(patch)
        patch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path_factory.mktemp("checkpoints")))
        rows = {"many": ROW | {"seed": [0, 1]}, "one": ROW | {"seed": 1}}
        folder = tiny(tmp_path_factory.mktemp("seeded") / "repo", rows=rows)
        (folder / "root.yaml").write_text("root: .\nvit: many\nresnet18: one\n")
        run("dvc", "repro", "-q", cwd=folder)
        yield folder


def test_each_seed_is_the_training_of_its_own_row(seeded):
    """A seed of a list trains another model than a row with this seed, or all of them train the same."""
    first, second, one = (
        (seeded / "models/finetuned" / name / "model.safetensors").read_bytes()
        for name in ("many/seed-0", "many/seed-1", "one")
    )
    assert second == one != first
    scores, single = (
        json.loads((seeded / f"metrics/rows/{name}.json").read_text()) for name in ("many", "one")
    )
    assert scores["trainings"][1] == {name: single[name] for name in scores["trainings"][1]}
    assert scores["accuracy"] == pytest.approx(sum(each["accuracy"] for each in scores["trainings"]) / 2)
    assert [numbers[1] for numbers in scores["predicted"].values()] == list(single["predicted"].values())
    history = json.loads((seeded / "metrics/history/finetune/many.json").read_text())
    assert [(epoch["seed"], epoch["epoch"]) for epoch in history["epochs"]] == [(0, 1), (1, 1)]


def test_the_tables_show_both_trainings(seeded):
    """The table has a single training's interval, or the curves of two trainings under one name."""
    [line] = [
        line
        for line in (seeded / "metrics/summary.md").read_text().splitlines()
        if line.startswith("| many ")
    ]
    assert "| 2 trainings; test images and trainings |" in line
    curves = (seeded / "metrics/curves.csv").read_text()
    assert "\nfinetune,many seed 0,1," in curves and "\nfinetune,many seed 1,1," in curves
    again = run("dvc", "repro", cwd=seeded)
    assert "Data and pipelines are up to date" in again.stdout


def test_a_model_of_several_is_asked_for_by_its_seed(seeded, tmp_path):
    """The first seed's model is taken without a word, with the accuracy of all of them."""
    done = command("predict", "many", tmp_path, "--pipeline", seeded)
    assert done.returncode == 1
    wanted = "error: many has a model for each of its seeds; give one of many/seed-0, many/seed-1\n"
    assert done.stderr == wanted
    with pytest.raises(UserError, match="many has a model for each of its seeds"):
        export("many", tmp_path / "all", seeded)
    export("many/seed-1", tmp_path / "out", seeded)
    accuracy = json.loads((seeded / "metrics/rows/one.json").read_text())["accuracy"]
    assert f"{accuracy:.2%} of digits's test images" in (tmp_path / "out/README.md").read_text()
    (seeded / "models/finetuned/many/seed-1/training.json").unlink()
    write_json(seeded / "models/finetuned/many/seed-1/training.json", {"best_epoch": 9})
    with pytest.raises(UserError, match="are not of the model in"):
        export("many/seed-1", tmp_path / "other", seeded)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_rows_of_two_machines(tmp_path, monkeypatch):
    """Catches a row of another machine that is trained again, or a seed that has a line of its own."""
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    pretraining = PARAMS["pretrain"]["vit-digits"]
    first, second = tmp_path / "first", tmp_path / "second"
    tiny(
        first,
        pretrain={"big": pretraining, "big-1": pretraining | {"seed": 1}},
        rows={"big": ROW | {"start": "big"}, "big-1": ROW | {"start": "big-1", "seed": 1}},
    )
    run("git", "clone", "-q", str(first), str(second), cwd=tmp_path)
    for machine, row in ((first, "big"), (second, "big-1")):
        run("dvc", "repro", "-q", f"evaluate@{row}", cwd=machine)
        run("git", "add", "-A", cwd=machine)
        run("git", "commit", "-qm", row, cwd=machine)
    run("git", "pull", "-q", "--no-rebase", str(second), "main", cwd=first, check=False)  # a conflict
    run("git", "checkout", "--ours", "dvc.lock", cwd=first)
    run("git", "add", "dvc.lock", cwd=first)
    run("git", "commit", "-qm", "both", cwd=first)
    shutil.copytree(second / ".dvc/cache", first / ".dvc/cache", dirs_exist_ok=True)
    assert stages_run(run("dvc", "repro", cwd=first).stdout) == ["compare"]
    [line] = [
        line for line in (first / "metrics/summary.md").read_text().splitlines() if line.startswith("| big")
    ]
    assert "| 2 trainings; test images and trainings |" in line
    assert "up to date" in run("dvc", "status", cwd=first).stdout


@pytest.mark.parametrize("seed", [[], [0, 0], [-1], ["0"], [True], -1, 1.0, "0", None, 2**63])
def test_what_is_no_seed_is_refused(seed):
    params = yaml.safe_load(yaml.safe_dump(PARAMS | {"rows": {"row": ROW | {"seed": seed}}}))
    with pytest.raises(
        UserError,
        match=r"rows\.row\.seed: .*a whole number from 0 to \d+, or a list of at most 1000 different ones",
    ):
        check(params)
