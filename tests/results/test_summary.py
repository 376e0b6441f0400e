"""The tables that `compare` makes of scores: every row, its controls and what is published."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from made import study
from tiny import ROOT
from vitscale.base.config import read_yaml
from vitscale.base.entries import Weights
from vitscale.base.errors import UserError
from vitscale.base.files import write_json, write_metrics
from vitscale.results.configurations import configurations, controls_of, gain
from vitscale.results.metrics import wilson
from vitscale.results.study import Study
from vitscale.results.summary import accuracy_table, curves, headline, leftovers, summarise
from vitscale.results.tables import by_class, figures_in

TUNING = {
    "protocol": "full",
    "inputs": "prepared",
    "recipe": "vit",
    "augment": "light",
    "sizes": [32],
    "epochs": 4,
    "lr_scale": 1.0,
    "fraction": 1.0,
    "seed": 0,
}
PRETRAIN = {
    "vit-a": {"model": "vit", "data": "dataset-a", "epochs": 3},
    "big-a": {"model": "big", "data": "dataset-a", "epochs": 3},
}
ROWS = {
    "vit-a": {"start": "vit-a"} | TUNING,
    "vit-scratch": {"start": "vit-scratch"} | TUNING,
    "vit-a-probe": {"start": "vit-a"} | TUNING | {"protocol": "linear_probe"},
}
HUB = Weights(source="huggingface", name="a/vit", sha256=None, data="imagenet", license="MIT")
PUBLISHED = {
    "vit-a": {"accuracy": 0.65, "protocol": "full"},
    "vit-a-probe": {"accuracy": 0.7236, "protocol": "full"},
    "famous": {"accuracy": 0.9464, "protocol": "linear_probe"},
}


def write_scores(path: Path, labels: np.ndarray, right: int) -> None:
    """Write the metrics of a row that has so many of the test images right, the first ones."""
    predicted = np.where(np.arange(len(labels)) < right, labels, (labels + 1) % 8)
    low, high = wilson(right, len(labels))
    write_metrics(
        path,
        {
            "accuracy": right / len(labels),
            "ci95_low": low,
            "ci95_high": high,
            "ece": 0.0625,
            "parameters": 1_234_567,
            **by_class(labels, predicted, list("abcdefgh")),
        },
    )


@pytest.fixture
def results(tmp_path) -> Path:
    """Return a folder with scores and predictions of two rows, one row not run, and files of rows long gone."""
    for name, right in (("vit-a", 30), ("vit-scratch", 20), ("stray", 40)):
        write_scores(tmp_path / f"rows/{name}.json", np.arange(40) % 8, right)
    write_json(
        tmp_path / "rows/famous.json", {"accuracy": 1.0, "ci95_low": 1.0, "ci95_high": 1.0, "parameters": 1}
    )
    return tmp_path


def table_of(results: Path, rows: dict = ROWS, published: dict = PUBLISHED) -> dict[str, list[str]]:
    """Return the summary's cells by row, without the header."""
    text = summarise(
        study(rows, PRETRAIN, results, published=published, weights={"hub": HUB}, target="dataset-b")
    )
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert (
        lines[0]
        == [
            "row",
            "parameters",
            "pretrained on",
            "protocol",
            "accuracy",
            "95% interval",
            "ECE",
            "over",
            "over scratch",
            "over longer scratch",
            "published",
        ]
        and "dataset-b" in text
    )
    assert all(len(line) == 11 for line in lines)
    return {line[0]: line for line in lines[2:]}


def test_summary_shows_every_row(results):
    """A row is missing or shown with other figures than its own, or a file without a row is shown."""
    table = table_of(results)
    assert list(table) == ["vit-a", "vit-scratch", "vit-a-probe", "famous"]  # and no "stray"
    half = stats.t.ppf(0.975, 41) * math.sqrt(11 - 100 / 42) / 42
    gained = f"+25.00% ± {half:.2%}, test images only"
    assert table["vit-a"][1:] == [
        "1.23M",
        "dataset-a",
        "full",
        "75.00%",
        "59.81% to 85.81%",
        "6.2%",
        "one training; test images only",
        gained,
        "—",
        "65.00%",
    ]
    ends = ["35.20% to 64.80%", "6.2%", "one training; test images only"]
    assert table["vit-scratch"][1:] == ["1.23M", "—", "full", "50.00%", *ends, "—", "—", "—"]
    rows = ROWS | {
        "vit-scratch": ROWS["vit-scratch"] | {"epochs": 7},
        "hub": ROWS["vit-a"] | {"start": "hub"},
    }
    assert table_of(results, rows)["vit-a"][8:10] == ["—", gained]
    assert table_of(results, rows)["hub"][2:5] == ["imagenet", "full", "not run"]


def test_a_row_without_a_file_is_not_run(results):
    """A row that hasn't been run gets figures, breaks the table, or hides."""
    wanted = ["vit-a-probe", "—", "dataset-a", "linear_probe", "not run", *["—"] * 6]
    assert table_of(results)["vit-a-probe"] == wanted
    (results / "rows/vit-a.json").unlink()
    assert table_of(results)["vit-a"][4] == "not run"
    assert [line[0] for line in accuracy_table(study(ROWS, PRETRAIN, results, published=PUBLISHED))] == [
        "vit-scratch"
    ]


def test_published_stands_beside_the_same_protocol_only(results):
    """A published accuracy is held against another protocol, or one without a row here is left out or gets figures."""
    table = table_of(results)
    assert table["vit-a"][10] == "65.00%" and table["vit-a-probe"][10] == "—"
    famous = ["famous", "—", "—", "linear_probe", "not run", *["—"] * 5, "94.64%"]
    assert table["famous"] == famous  # its file is a stray one
    same = PUBLISHED | {"vit-a-probe": {"accuracy": 0.7236, "protocol": "linear_probe"}}
    assert table_of(results, published=same)["vit-a-probe"][10] == "72.36%"
    other = PUBLISHED | {"vit-a": {"accuracy": 0.65, "protocol": "linear_probe"}}
    assert table_of(results, published=other)["vit-a"][10] == "—"
    assert accuracy_table(study(ROWS, PRETRAIN, results, published=PUBLISHED))[0][4] == 0.65
    assert accuracy_table(study(ROWS, PRETRAIN, results, published=other))[0][4] == ""


def test_accuracy_table(results):
    """The plotted table holds other figures than the rows', or a stray file's."""
    table = accuracy_table(study(ROWS, PRETRAIN, results))
    assert [line[0] for line in table] == ["vit-a", "vit-scratch"]
    assert table[0][1:] == [0.75, *wilson(30, 40), ""]


@pytest.mark.parametrize("name", [name for name in TUNING if name not in ("seed", "inputs")])
def test_a_control_has_the_same_fine_tuning(name):
    """A row is compared with one that differs in more than its start."""
    other = {
        "protocol": "linear_probe",
        "recipe": "other",
        "augment": "strong",
        "sizes": [16, 32],
        "epochs": 5,
        "lr_scale": 2.0,
        "fraction": 0.5,
    }[name]
    rows = {"vit-a": ROWS["vit-a"], "vit-scratch": ROWS["vit-scratch"] | {name: other}}
    assert controls_of("vit-a", study(rows, PRETRAIN, Path())) == []
    rows |= {"again": ROWS["vit-scratch"], "seed-1": ROWS["vit-scratch"] | {"seed": 1}}
    assert controls_of("vit-a", study(rows, PRETRAIN, Path())) == ["again", "seed-1"]


def test_the_longer_control_has_the_epochs_of_both():
    """The control with more epochs is any with more, or a probe on features has none."""
    rows = ROWS | {"long": ROWS["vit-scratch"] | {"epochs": 7}, "longer": ROWS["vit-scratch"] | {"epochs": 8}}
    assert controls_of("vit-a", study(rows, PRETRAIN, Path())) == ["vit-scratch"]
    assert controls_of("vit-a", study(rows, PRETRAIN, Path()), more_epochs=True) == ["long"]
    assert controls_of("vit-a", study(ROWS, PRETRAIN, Path()), more_epochs=True) == []
    probe = TUNING | {"protocol": "linear_probe", "sizes": []}
    starts = {"a": "vit-a", "b": "vit-scratch"}  # each with its own features
    rows = {name: probe | {"start": each, "inputs": f"features/{each}"} for name, each in starts.items()}
    assert controls_of("a", study(rows, PRETRAIN, Path())) == ["b"]


def test_a_control_has_the_same_model():
    """A row is compared with another model's scratch training, an untrained row with itself, or a row with no control."""
    assert controls_of("vit-a", study(ROWS, PRETRAIN, Path())) == ["vit-scratch"]
    assert controls_of("vit-scratch", study(ROWS, PRETRAIN, Path())) == []
    assert controls_of("vit-a-probe", study(ROWS, PRETRAIN, Path())) == []
    rows = ROWS | {"big-a": {"start": "big-a"} | TUNING}
    assert controls_of("big-a", study(rows, PRETRAIN, Path())) == []


def test_gain_needs_the_same_test_images(results):
    """Rows scored on different test images are compared all the same."""
    first, second = configurations(study(ROWS, PRETRAIN, results))
    value, half = gain(first, second)
    assert value == 0.25 and half > 0
    write_scores(
        results / "rows/vit-scratch.json", np.arange(40)[::-1] % 8, 20
    )  # as many of each class, in another order
    with pytest.raises(UserError, match="vit-a and vit-scratch"):
        gain(*configurations(study(ROWS, PRETRAIN, results)))


def test_leftovers_are_files_without_an_entry(results):
    """A row's file is taken for a leftover, or one whose entry is gone is not."""
    for name in (
        "pretrain/vit-a",
        "pretrain/gone",
        "finetune/vit-a",
        "finetune/vit-scratch",
        "finetune/lost",
    ):
        write_json(results / f"history/{name}.json", {})
    found = leftovers(study(ROWS, PRETRAIN, results), results)
    assert [path.relative_to(results).as_posix() for path in found] == [
        "rows/famous.json",
        "rows/stray.json",
        "history/pretrain/gone.json",
        "history/finetune/lost.json",
    ]


def test_curves(tmp_path):
    """A training's history is missing, doubled or under another name, or a stray file's is shown."""
    header = ["epoch", "lr", "train_loss", "validation_loss", "validation_accuracy"]
    for stage, name, epochs in (("pretrain", "vit-a", 2), ("finetune", "vit-a", 1), ("finetune", "gone", 3)):
        lines = [dict(zip(header, [epoch + 1, 1e-05, 2.5, 2.25, 0.125])) for epoch in range(epochs)]
        write_metrics(tmp_path / "history" / stage / f"{name}.json", {"epochs": lines})
    found = curves(study(ROWS, PRETRAIN, tmp_path))
    figures = [1e-05, 2.5, 2.25, 0.125]
    trained = [("pretrain", "vit-a", 1), ("pretrain", "vit-a", 2), ("finetune", "vit-a", 1)]
    assert found == [[*entry, *figures] for entry in trained]


def test_headline(tmp_path):
    """Catches a model's mean over another's rows, a row's test accuracy shown as validation, or a row that hasn't run."""
    for row, validation in (("vit-a", 0.5), ("vit-scratch", 0.75), ("hub", 0.875)):
        write_metrics(tmp_path / f"history/finetune/{row}.json", {"validation_accuracy": validation})
    write_scores(tmp_path / "rows/vit-a.json", np.arange(8), 2)
    rows = ROWS | {"hub": {"start": "hub"} | TUNING}
    found = headline(study(rows, PRETRAIN, tmp_path, weights={"hub": HUB}, models={"vit": {}, "big": {}}))
    assert found == {
        "validation": {"vit": 0.625, "hub": 0.875},
        "validation/vit-a": 0.5,
        "validation/vit-scratch": 0.75,
        "validation/hub": 0.875,
        "test/vit-a": 0.25,
    }


@pytest.mark.parametrize("pipeline", [".", "examples/digits", "examples/scaling", "examples/tinyimagenet"])
def test_headline_leaves_room_for_a_parameter(pipeline):
    """Catches a pipeline whose `dvc exp show` has over eight columns, the experiment, its time and a parameter among them."""
    params = read_yaml(ROOT / pipeline / "params.yaml")
    study = Study.read(params.__getitem__, figures_in(ROOT / pipeline / "metrics"))
    assert 1 <= len(headline(study)["validation"]) <= 5
