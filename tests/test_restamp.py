"""tools.restamp: code that gives the same bytes gets its hashes into the locks, other code gets nothing."""

import copy
import os
import shutil
from pathlib import Path

import pytest
from dvc.utils.serialize import modify_yaml

from tiny import ROOT, run
from tools.restamp import compare, restamp
from vitscale.base.config import read_yaml
from vitscale.base.digests import digest

UP_TO_DATE = "Data and pipelines are up to date."


pytestmark = pytest.mark.usefixtures("forked")


@pytest.fixture
def repo(done, tmp_path):
    """The tiny pipeline that has run, and beside it one with its lock whose outputs are nowhere, as the study's are on most machines."""
    folder = shutil.copytree(done, tmp_path / "repo", symlinks=True)
    other = folder / "examples/other"
    other.mkdir(parents=True)
    run("dvc", "init", "-q", "--subdir", cwd=other)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(folder / name, other)
    (other / "root.yaml").write_text((folder / "root.yaml").read_text().replace("root: .", "root: ../.."))
    (other / "dvc.lock").write_text((folder / "dvc.lock").read_text().replace(" ./s", " ../../s"))
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "other", cwd=folder)
    return folder


def most_used(folder: Path) -> Path:
    """Return the file of the library that most stages depend on."""
    paths = [
        dep["path"] for stage in read_yaml(folder / "dvc.lock")["stages"].values() for dep in stage["deps"]
    ]
    return folder / max((path for path in paths if "src/" in path), key=paths.count)


def add(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text()}{line}\n")


def restamped(folder: Path, **options):
    return run(
        "python",
        "-m",
        "tools.restamp",
        "--pipeline",
        ".",
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )


def locks(folder: Path) -> dict:
    return {
        path: read_yaml(path)["stages"] for path in (folder / "dvc.lock", folder / "examples/other/dvc.lock")
    }


def test_a_comment_is_written_into_every_lock(repo, forked):
    """Catches a lock that stays stale, one that gets another stage's or data's hash, and a stamp without a run of both."""
    add(most_used(repo), "# a comment")
    assert "modified" in run("dvc", "status", cwd=repo).stdout
    before = locks(repo)
    forked.new()
    said = restamped(repo).stdout
    ran = forked.new()
    stages = before[repo / "dvc.lock"]
    assert sorted(ran) == sorted([label for label in stages if label != "check"] * 2)
    assert (
        f"dvc.lock: {len(stages)} stages written\n" in said
        and f"examples/other/dvc.lock: {len(stages)} stages written\n" in said
    )
    assert "rerun" not in said and run("dvc", "status", cwd=repo).stdout.strip() == UP_TO_DATE
    assert ".py" not in run("dvc", "status", cwd=repo / "examples/other").stdout
    for path, after in locks(repo).items():
        for label, stage in after.items():
            old = before[path][label]
            assert {**stage, "deps": None} == {**old, "deps": None}
            assert [dep for dep in stage["deps"] if not dep["path"].endswith(".py")] == [
                dep for dep in old["deps"] if not dep["path"].endswith(".py")
            ]
    stamped = locks(repo)
    run("dvc", "repro", cwd=repo)
    assert forked.new() == [] and locks(repo) == stamped


def test_another_result_is_named_and_nothing_touched(repo):
    """Catches a lock that says of results that they come from code which gives others."""
    script = repo / "stages/init.py"
    script.write_text(
        script.read_text().replace(
            "if __name__",
            "import torch\n\nseeded = torch.manual_seed\ntorch.manual_seed = lambda seed: seeded(seed + 1)\n\nif __name__",
            1,
        )
    )
    before = {path: digest(path) for path in locks(repo)}
    failed = restamped(repo, check=False)
    assert failed.returncode == 1 and "init@vit: models/start/vit-scratch" in failed.stderr.splitlines()
    assert "prepare" not in failed.stderr and {path: digest(path) for path in locks(repo)} == before


def test_only_what_was_shown_is_written(repo, tmp_path):
    """Catches a stamp on a stage of a kind that wasn't run, on other parameters, or on code that was never compared."""
    base = shutil.copytree(repo, tmp_path / "base", symlinks=True)
    add(most_used(repo), "# a comment")
    with modify_yaml(repo / "dvc.lock") as lock:
        stages = lock["stages"]
        kinds = {label.split("@")[0] for label in stages}
        stages["finetune@vit-digits"]["params"]["params.yaml"]["lr"] = 0.5
        next(dep for dep in stages["prepare@digits"]["deps"] if dep["path"].endswith(".py"))["md5"] = "0" * 32
        del stages["init@vit"]
    before = read_yaml(repo / "dvc.lock")["stages"]
    written, rerun = restamp(repo, base, kinds - {"evaluate"})
    after = read_yaml(repo / "dvc.lock")["stages"]
    changed = {label for label in before if before[label] != after[label]}
    assert changed == before.keys() - {
        "evaluate@vit-digits",
        "finetune@vit-digits",
        "prepare@digits",
    } and written == len(changed)
    assert dict(line.split(": ") for line in rerun) == {
        "evaluate@vit-digits": "no such stage was compared, or it leaves a new output",
        "init@vit": "was never run",
        "finetune@vit-digits": "its command, parameters, inputs or outputs are other ones too",
        "prepare@digits": "it ran with other code than that of BASE",
    }


def test_what_counts_as_a_difference():
    """Catches a stage or an output that goes unnoticed since one side lacks it; a new output that stands in the way."""
    old = {"init@a": {"x": "1"}, "init@b": {"y": "1"}, "compare": {"z": "1"}}
    assert compare(old, old, []) == ([], {"init", "compare"})
    new = copy.deepcopy(old)
    new["compare"]["picture"] = "1"
    assert compare(old, new, []) == ([], {"init"})
    assert compare(new, old, [])[0] == ["compare: picture"]
    assert compare(old, {**old, "init@b": {"y": "2"}}, [])[0] == ["init@b: y"]
    assert compare(old, {**old, "compare": {"z": "2"}}, ["compare"]) == ([], {"init"})
    assert compare(old, {**old, "check": {"w": "1"}}, ["check"]) == ([], {"init", "compare"})
    del new["init@b"]
    assert (
        compare(old, new, [])[0] == ["only the old code has the stage init@b"]
        and compare(new, old, [])[0][-1] == "only the new code has the stage init@b"
    )
