"""The report on a repository with two branches, whose metrics come from the tiny pipeline's real runs."""

import csv
import json
import os
import re
import shutil
import struct

import numpy as np
import pytest

from tiny import ROOT, run, write_params
from vitscale.results.metrics import Z95, Trained, difference

pytestmark = pytest.mark.usefixtures("forked")

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def repository(done, forked, tmp_path_factory):
    """`main` has a run, `change` one with another learning rate in fine-tuning; each is committed."""
    folder = tmp_path_factory.mktemp("report") / "repository"
    shutil.copytree(done, folder, symlinks=True)
    run("git", "checkout", "-qb", "change", cwd=folder)
    write_params(folder, rows__vit_digits__lr_scale=30.0)
    run("dvc", "repro", "-q", cwd=folder)
    run("git", "commit", "-qam", "change", cwd=folder)
    return folder


def report(folder, *arguments: str, cwd=None, check=True):
    """Return the page of `vitscale report` with the code of this checkout, its folder and the finished command."""
    done = run(
        "python",
        "-m",
        "vitscale",
        "report",
        *arguments,
        "--out",
        str(folder / "page"),
        cwd=cwd or folder,
        check=check,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    page = folder / "page" / "report.md"
    return page.read_text() if page.exists() else None, done


def section(page: str, title: str) -> str:
    return re.search(rf"^## {title}[^\n]*\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)[1].strip()


def lines_of(text: str) -> list[list[str]]:
    """Return the cells of a Markdown table's lines, without its head."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ][2:]


def at(folder, branch: str, path: str) -> str:
    return run("git", "show", f"{branch}:{path}", cwd=folder).stdout


def accuracy(folder, branch: str) -> float:
    return json.loads(at(folder, branch, "metrics/rows/vit-digits.json"))["accuracy"]


def hits(folder, branch: str) -> np.ndarray:
    """Return what the branch's row got right."""
    predicted = json.loads(at(folder, branch, "metrics/rows/vit-digits.json"))["predicted"]
    return np.array([number == i for i, numbers in enumerate(predicted.values()) for number in numbers])


def test_the_page_says_what_the_change_did(repository):
    """A figure is of the wrong side, the interval isn't the paired one, or a stage, parameter or picture is left out."""
    page, _ = report(repository, "main", "change")
    old, new = accuracy(repository, "main"), accuracy(repository, "change")
    assert old != new, "the change must do something for this test to tell"
    _, half = difference(*(Trained(correct=hits(repository, side)[None]) for side in ("change", "main")))
    assert lines_of(section(page, "Test accuracy on digits")) == [
        [
            "vit-digits",
            f"{old:.2%}",
            f"{new:.2%}",
            f"{new - old:+.2%}",
            f"± {half:.2%}",
            "one training; test images only",
            "can't be told",
        ]
    ]
    assert lines_of(section(page, "Parameters")) == [["`rows.vit-digits.lr_scale`", "`1.0`", "`30.0`"]]
    assert [line[0] for line in lines_of(section(page, "Stages that reran"))] == [
        "finetune@vit-digits",
        "evaluate@vit-digits",
        "compare",
    ]
    assert "`rows.vit-digits`" in lines_of(section(page, "Stages that reran"))[0][1]
    assert "(curves.png)" in section(page, "Training curves")
    picture = (repository / "page" / "curves.png").read_bytes()
    assert picture.startswith(PNG) and struct.unpack(">I", picture[16:20])[0] >= 800
    counts = [
        re.findall(r"^\d+", cell)[0]
        for line in lines_of(section(page, "Confusion matrices"))
        for cell in line[1:]
    ]
    wanted = csv.DictReader(at(repository, "change", "metrics/confusion/vit-digits.csv").splitlines())
    assert counts == [line["count"] for line in wanted]


def test_the_other_way_round(repository):
    """BASE and HEAD are confused somewhere."""
    there, back = (report(repository, *sides)[0] for sides in (("main", "change"), ("change", "main")))
    old, new = (lines_of(section(page, "Test accuracy"))[0] for page in (there, back))
    assert (old[1], old[2]) == (new[2], new[1]) and float(old[3].strip("%")) == -float(new[3].strip("%"))
    assert old[4:] == new[4:]
    cells = [lines_of(section(page, "Confusion matrices"))[0][1:] for page in (there, back)]
    changes = [[int((re.findall(r"\(([+-]\d+)\)", cell) or ["0"])[0]) for cell in line] for line in cells]
    assert changes[0] == [-change for change in changes[1]]


def test_nothing_changed_is_said(repository):
    """Unchanged rows are compared all the same, or a picture of an earlier report stays behind."""
    report(repository, "main", "change")
    page, _ = report(repository, "main", "main")
    assert lines_of(section(page, "Test accuracy"))[0][3] == "unchanged"
    assert [section(page, title) for title in ("Parameters", "Training curves")] == ["None changed."] * 2
    assert [section(page, title) for title in ("Stages that reran", "Confusion matrices")] == ["None."] * 2
    assert not (repository / "page" / "curves.png").exists()


def test_the_workspace_is_the_default(repository):
    """Without HEAD the last commit is reported, not what lies in the folder."""
    path = repository / "metrics" / "rows" / "vit-digits.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(text) | {"accuracy": 0.125}))
        page, _ = report(repository, "change")
    finally:
        path.write_text(text)
    assert lines_of(section(page, "Test accuracy"))[0][2] == "12.50%"


def test_without_the_cache_the_page_is_the_same(repository, tmp_path):
    """A clone without any output of DVC's can't make the report."""
    run("git", "clone", "-q", str(repository), str(tmp_path / "clone"), cwd=tmp_path)
    there, _ = report(repository, "main", "change")
    page, _ = report(tmp_path / "clone", "origin/main", "origin/change")
    assert page.replace("origin/", "") == there
    assert (tmp_path / "clone" / "page" / "curves.png").exists()


def test_without_predictions_the_interval_is_the_wider_one(repository, tmp_path):
    """A revision without predictions fails, or the page doesn't say that the interval is of independent samples."""
    run("git", "clone", "-q", "-b", "change", str(repository), str(tmp_path / "clone"), cwd=tmp_path)
    path = tmp_path / "clone/metrics/rows/vit-digits.json"
    path.write_text(
        json.dumps(
            {name: value for name, value in json.loads(path.read_text()).items() if name != "predicted"}
        )
    )
    run("git", "commit", "-qam", "without", cwd=tmp_path / "clone")
    page, _ = report(tmp_path / "clone", "origin/main", "HEAD")
    old, new = accuracy(repository, "main"), accuracy(repository, "change")
    half = Z95 * sum(share * (1 - share) / len(hits(repository, "main")) for share in (old, new)) ** 0.5
    line = lines_of(section(page, "Test accuracy"))[0]
    assert line[3:] == [
        f"{new - old:+.2%}",
        f"± {half:.2%}",
        "one training; test images only, unpaired",
        "can't be told",
    ]


@pytest.fixture
def edited(repository, tmp_path):
    """Return a function that commits edited files on top of `change`, in a clone, and reports `origin/change` against it."""
    clone = tmp_path / "clone"
    run("git", "clone", "-q", str(repository), str(clone), cwd=tmp_path)
    shutil.copytree(repository / ".dvc" / "cache", clone / ".dvc" / "cache")

    def commit(edits) -> str:
        for path, edit in edits.items():
            there = clone / path
            there.write_text(edit(there.read_text() if there.exists() else ""))
            run("git", "add", path, cwd=clone)
        run("git", "commit", "-qm", "edit", cwd=clone)
        return report(clone, "origin/change", "HEAD")[0]

    return commit


def test_other_test_images_are_not_compared(edited):
    """Accuracies on different test sets get an interval, as if they could be compared."""

    def one_more(text):
        return re.sub(r"(\d+)$", lambda count: str(int(count[1]) + 1), text.rstrip("\n")) + "\n"

    page = edited(
        {
            "metrics/confusion/vit-digits.csv": one_more,
            "metrics/rows/vit-digits.json": lambda text: text.replace('"accuracy": 0.', '"accuracy": 0.1'),
        }
    )
    assert lines_of(section(page, "Test accuracy"))[0][5:] == ["other test images", "can't be told"]
    assert "other test images" in section(page, "Confusion matrices")


def test_other_test_images_with_the_same_labels(edited):
    """Another data set with as many images of each class is compared, image for image."""
    of_test = r"(path: data/raw/digits/test\n(?: +\w+: \w+\n)*? +md5: )\w+"
    page = edited(
        {
            "dvc.lock": lambda text: re.sub(of_test, r"\g<1>0123456789abcdef", text),
            "metrics/rows/vit-digits.json": lambda text: text.replace('"accuracy": 0.', '"accuracy": 0.1'),
        }
    )
    assert lines_of(section(page, "Test accuracy"))[0][5:] == ["other test images", "can't be told"]


def test_figures_of_other_parameters_are_warned_of(edited, repository):
    """A pull request whose parameters were never run says "unchanged" and nothing else."""
    page = edited(
        {
            "params.yaml": lambda text: text.replace("lr_scale: 30.0", "lr_scale: 3.0").replace(
                "dropout: 0.1", "dropout: 0.2"
            ),
            "src/vitscale/data/augment.py": lambda text: text + "# edited\n",
        }
    )
    found = re.search(r"^> \[!WARNING\]\n((?:>.*\n)+)", page, re.MULTILINE)[1]
    assert "> - finetune@vit-digits: rows.vit-digits.lr_scale is 3.0, its run had 30.0\n" in found
    assert "> - init@vit: models.vit.dropout is 0.2, its run had 0.1\n" in found
    assert "> - pretrain@vit-digits: ./src/vitscale/data/augment.py is not what its run had\n" in found
    assert page.index("[!WARNING]") < page.index("## Test accuracy") and "evaluate" not in found
    assert "WARNING" not in report(repository, "main", "change")[0]


def test_a_refused_params_yaml_is_warned_of(edited):
    """A pull request that no stage would take ends the report with a traceback, or passes without a word."""
    page = edited({"params.yaml": lambda text: text.replace("lr: 0.001\n", "", 1)})
    assert "> - params.yaml: lr: missing; every parameter must be given\n" in page


def test_rows_come_and_go(edited, repository):
    """A row that only one side has is left out, or breaks the page."""
    figures = (repository / "metrics/rows/vit-digits.json").read_text()
    renamed = {"params.yaml": lambda text: text.replace("rows:\n  vit-digits:", "rows:\n  another:")}
    page = edited(renamed | {"metrics/rows/another.json": lambda _: figures})
    found = [(line[0], line[3]) for line in lines_of(section(page, "Test accuracy"))]
    assert found == [("another", "new row"), ("vit-digits", "row gone")]


def test_one_pipeline_at_a_time(repository, tmp_path):
    """The example's figures stand in the root's report, or the root's in the example's."""
    clone, inner = tmp_path / "clone", tmp_path / "clone" / "inner"
    run("git", "clone", "-q", str(repository), str(clone), cwd=tmp_path)
    inner.mkdir()
    run("dvc", "init", "-q", "--subdir", cwd=inner)
    (inner / "metrics" / "rows").mkdir(parents=True)
    for name in ("dvc.lock", "params.yaml", "metrics/rows/vit-digits.json"):
        shutil.copy(clone / name, inner / name)
    (inner / "dvc.yaml").write_text("metrics: [metrics/rows/vit-digits.json]\nparams: [params.yaml]\n")
    run("git", "add", "-fA", cwd=clone)
    run("git", "commit", "-qm", "two pipelines", cwd=clone)
    row = inner / "metrics/rows/vit-digits.json"
    row.write_text(row.read_text().replace('"parameters": ', '"parameters": 1'))
    write_params(inner, seed=7, split_seed=7)
    write_params(clone, split_seed=9)
    run("git", "commit", "-qam", "both", cwd=clone)
    page, _ = report(clone, "HEAD~", "HEAD")
    assert lines_of(section(page, "Parameters")) == [["`split_seed`", "`0`", "`9`"]]
    assert lines_of(section(page, "Test accuracy"))[0][3] == "unchanged"
    page, _ = report(clone, "HEAD~", "HEAD", "--pipeline", "inner")
    assert "(inner)" in page.splitlines()[0] and lines_of(section(page, "Parameters")) == [
        [f"`{key}`", "`0`", "`7`"] for key in ("seed", "split_seed")
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is no commit"),
        (["main", "--evil"], "--evil"),
        (["main", "nowhere"], "nowhere is no commit"),
        (["main", "--pipeline", "src"], "src/dvc.yaml"),
        (["main", "--pipeline", "/"], "is not in this repository"),
    ],
)
def test_what_isnt_there_is_one_line(repository, arguments, words):
    """A wrong name ends in a traceback, or in a page of nothing."""
    shutil.rmtree(repository / "page", ignore_errors=True)
    page, done = report(repository, *arguments, check=False)
    assert done.returncode and page is None and words in done.stderr and "Traceback" not in done.stderr
    *usage, line = done.stderr.splitlines()  # argparse's own errors come after a line or two of usage
    assert words in line and (not usage or usage[0].startswith("usage: "))
