"""Scores against scikit-learn and textbook formulas, and the tables that `compare` makes of them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from made import study
from vitscale.base.entries import Weights
from vitscale.base.errors import UserError
from vitscale.base.files import write_json, write_metrics
from vitscale.results.metrics import (
    confusion,
    expected_calibration_error,
    paired_difference,
    per_class,
    scores,
    wilson,
)
from vitscale.results.summary import accuracy_table, control_of, curves, gain, leftovers, summarise
from vitscale.results.tables import by_class, hits


def answers(count: int = 500, classes: int = 7, never: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (float32) that know something of their labels; class `never` is neither shown nor predicted."""
    rng = np.random.default_rng(count + classes)
    usual = [label for label in range(classes) if label != never]
    labels = rng.choice(usual, count)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1
    if never is not None:
        logits[:, never] = -50
    return logits, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


# Figures


@pytest.mark.parametrize(("count", "classes"), [(500, 7), (1, 2), (33, 100)])
def test_scores_equal_scikit_learns(count, classes):
    """Accuracy or cross-entropy isn't what scikit-learn calculates from the same logits."""
    logits, labels = answers(count, classes)
    found = scores(logits, labels)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, logits.argmax(1)))
    assert found["loss"] == pytest.approx(
        sklearn_metrics.log_loss(labels, softmax(logits), labels=range(classes)), rel=1e-9
    )
    assert (found["ci95_low"], found["ci95_high"]) == wilson(round(found["accuracy"] * count), count)
    assert found["ece"] == pytest.approx(naive_ece(softmax(logits), labels, 15))
    assert json.loads(json.dumps(found)) == found  # plain numbers, for the metrics file


def test_scores_of_huge_logits_are_finite():
    """A confident model's loss overflows."""
    found = scores(np.array([[1e4, 0.0], [-1e4, 1e4]], dtype=np.float32), np.array([1, 1]))
    assert found["loss"] == pytest.approx(5e3) and found["accuracy"] == 0.5 and math.isfinite(found["ece"])


@pytest.mark.parametrize("never", [None, 0, 6])
def test_confusion_equals_scikit_learns(never):
    """Rows and columns are swapped, or a class that never occurs is left out of the matrix."""
    logits, labels = answers(never=never)
    found = confusion(labels, logits.argmax(1), 7)
    assert found.shape == (7, 7)
    assert np.array_equal(found, sklearn_metrics.confusion_matrix(labels, logits.argmax(1), labels=range(7)))


@pytest.mark.parametrize(
    "case", ["usual", "class absent and never predicted", "class never predicted", "class absent"]
)
def test_per_class_equals_scikit_learns(case):
    """Precision, recall or F1 of a class is wrong, or isn't 0 where there is nothing to divide by."""
    logits, labels = answers(never=3 if case == "class absent and never predicted" else None)
    predicted = logits.argmax(1)
    if case == "class never predicted":
        predicted = np.where(predicted == 3, 4, predicted)
    if case == "class absent":
        labels = np.where(labels == 3, 4, labels)
    found = per_class(confusion(labels, predicted, 7))
    wanted = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(7), zero_division=0
    )[:3]
    assert list(found) == ["precision", "recall", "f1"] and np.allclose(
        np.array(list(found.values())), wanted
    )
    assert all(type(value) is float for values in found.values() for value in values)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),  # Newcombe 1998
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_equals_published_intervals(correct, total, low, high):
    """The interval isn't Wilson's: these are worked examples (Newcombe 1998, table I, method 3)."""
    found = wilson(correct, total)
    assert found == pytest.approx((low, high), abs=6e-5)


def test_wilson_stays_in_0_to_1():
    """Rounding puts an end of the interval below 0, which prints as -0.00%, or above 1."""
    outside = {}
    for total in (1, 2, 3, 7, 10, 50, 360, 1797, 9999, 10_000, 12_345):
        for correct in {0, 1, total // 2, total - 1, total}:
            low, high = wilson(correct, total)
            assert low - 1e-12 <= correct / total <= high + 1e-12
            if low < 0 or high > 1:
                outside[correct, total] = low, high
    assert not outside


def test_wilson_solves_its_equation():
    """An end isn't a share p with |p - correct / total| = z sqrt(p (1 - p) / total)."""
    for correct, total in ((3, 10), (77, 100), (9_321, 10_000)):
        for end in wilson(correct, total):
            assert abs(end - correct / total) == pytest.approx(
                1.959964 * math.sqrt(end * (1 - end) / total), rel=1e-6
            )


def naive_ece(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Return the ECE by its definition, bin by bin (Guo et al. 2017, equation 3)."""
    total = 0.0
    for m in range(bins):
        chosen = [i for i in range(len(labels)) if m / bins < probabilities[i].max() <= (m + 1) / bins]
        if chosen:
            accuracy = sum(probabilities[i].argmax() == labels[i] for i in chosen) / len(chosen)
            confidence = sum(probabilities[i].max() for i in chosen) / len(chosen)
            total += len(chosen) / len(labels) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("classes", [2, 7])
def test_ece_equals_its_definition(bins, classes):
    """The expected calibration error isn't the one of Guo et al."""
    logits, labels = answers(classes=classes)
    for sharpness in (0.3, 1.0, 5.0):
        probabilities = softmax(sharpness * logits)
        assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(
            naive_ece(probabilities, labels, bins)
        )


def test_ece_of_extreme_models():
    """A calibrated model doesn't get 0, or one that is sure of wrong answers doesn't get 1."""
    sure = np.eye(4)[[0, 1, 2, 3]]
    assert expected_calibration_error(sure, np.arange(4)) == 0
    assert expected_calibration_error(sure, (np.arange(4) + 1) % 4) == 1
    even = np.full((4, 4), 0.25)
    assert expected_calibration_error(even, np.array([0, 1, 2, 3])) == pytest.approx(0)


@pytest.mark.parametrize(
    "counts", [(40, 12, 5, 43), (0, 10, 0, 0), (50, 0, 0, 50), (0, 5, 5, 0), (9000, 300, 180, 520)]
)
def test_paired_difference_equals_the_textbook(counts):
    """The interval isn't that of paired shares: (b - c) / n ± z sqrt(b + c - (b - c)² / n) / n."""
    neither, b, c, right = counts
    first = np.repeat([False, True, False, True], [neither, b, c, right])
    second = np.repeat([False, False, True, True], [neither, b, c, right])
    n = sum(counts)
    found, half = paired_difference(first, second)
    assert found == pytest.approx((b - c) / n)
    assert half == pytest.approx(1.959964 * math.sqrt(b + c - (b - c) ** 2 / n) / n)
    assert paired_difference(second, first) == pytest.approx((-found, half))


# Tables

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
            "parameters": 1_234_567,
            **by_class(labels, predicted, list("abcdefgh")),
        },
    )


@pytest.fixture
def results(tmp_path) -> Path:
    """Return a folder with scores and predictions of two rows, one row not run, and files of rows long gone."""
    for name, right in (("vit-a", 30), ("vit-scratch", 20), ("stray", 40)):
        write_scores(tmp_path / f"scores/{name}.json", np.arange(40) % 8, right)
    write_json(
        tmp_path / "scores/famous.json", {"accuracy": 1.0, "ci95_low": 1.0, "ci95_high": 1.0, "parameters": 1}
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
            "over scratch",
            "over longer scratch",
            "published",
        ]
        and "dataset-b" in text
    )
    assert all(len(line) == 9 for line in lines)
    return {line[0]: line for line in lines[2:]}


def test_summary_shows_every_row(results):
    """A row is missing or shown with other figures than its own, or a file without a row is shown."""
    table = table_of(results)
    assert list(table) == ["vit-a", "vit-scratch", "vit-a-probe", "famous"]  # and no "stray"
    half = 1.959964 * math.sqrt(10 - 100 / 40) / 40
    assert table["vit-a"][1:] == [
        "1.23M",
        "dataset-a",
        "full",
        "75.00%",
        "59.81% to 85.81%",
        f"+25.00% ± {half:.2%}",
        "—",
        "65.00%",
    ]
    assert table["vit-scratch"][1:] == ["1.23M", "—", "full", "50.00%", "35.20% to 64.80%", "—", "—", "—"]
    rows = ROWS | {
        "vit-scratch": ROWS["vit-scratch"] | {"epochs": 7},
        "hub": ROWS["vit-a"] | {"start": "hub"},
    }
    assert table_of(results, rows)["vit-a"][6:8] == ["—", f"+25.00% ± {half:.2%}"]
    assert table_of(results, rows)["hub"][2:5] == ["imagenet", "full", "not run"]


def test_a_row_without_a_file_is_not_run(results):
    """A row that hasn't been run gets figures, breaks the table, or hides."""
    wanted = ["vit-a-probe", "—", "dataset-a", "linear_probe", "not run", "—", "—", "—", "—"]
    assert table_of(results)["vit-a-probe"] == wanted
    (results / "scores/vit-a.json").unlink()
    assert table_of(results)["vit-a"][4] == "not run"
    assert [line[0] for line in accuracy_table(study(ROWS, PRETRAIN, results, published=PUBLISHED))] == [
        "vit-scratch"
    ]


def test_published_stands_beside_the_same_protocol_only(results):
    """A published accuracy is held against another protocol, or one without a row here is left out or gets figures."""
    table = table_of(results)
    assert table["vit-a"][8] == "65.00%" and table["vit-a-probe"][8] == "—"
    famous = ["famous", "—", "—", "linear_probe", "not run", "—", "—", "—", "94.64%"]
    assert table["famous"] == famous  # its file is a stray one
    same = PUBLISHED | {"vit-a-probe": {"accuracy": 0.7236, "protocol": "linear_probe"}}
    assert table_of(results, published=same)["vit-a-probe"][8] == "72.36%"
    other = PUBLISHED | {"vit-a": {"accuracy": 0.65, "protocol": "linear_probe"}}
    assert table_of(results, published=other)["vit-a"][8] == "—"
    assert accuracy_table(study(ROWS, PRETRAIN, results, published=PUBLISHED))[0][4] == 0.65
    assert accuracy_table(study(ROWS, PRETRAIN, results, published=other))[0][4] == ""


def test_accuracy_table(results):
    """The plotted table holds other figures than the rows', or a stray file's."""
    table = accuracy_table(study(ROWS, PRETRAIN, results))
    assert [line[0] for line in table] == ["vit-a", "vit-scratch"]
    assert table[0][1:] == [0.75, *wilson(30, 40), ""]


@pytest.mark.parametrize("name", TUNING)
def test_a_control_has_the_same_fine_tuning(name):
    """A row is compared with one that differs in more than its start."""
    other = {
        "protocol": "linear_probe",
        "inputs": "features/vit-scratch",
        "recipe": "other",
        "augment": "strong",
        "sizes": [16, 32],
        "epochs": 5,
        "lr_scale": 2.0,
        "fraction": 0.5,
        "seed": 1,
    }[name]
    rows = {"vit-a": ROWS["vit-a"], "vit-scratch": ROWS["vit-scratch"] | {name: other}}
    assert control_of("vit-a", study(rows, PRETRAIN, Path())) is None
    rows["again"] = ROWS["vit-scratch"]
    assert control_of("vit-a", study(rows, PRETRAIN, Path())) == "again"


def test_the_longer_control_has_the_epochs_of_both():
    """The control with more epochs is any with more, or a probe's control has the features of another start."""
    rows = ROWS | {"long": ROWS["vit-scratch"] | {"epochs": 7}, "longer": ROWS["vit-scratch"] | {"epochs": 8}}
    assert (
        control_of("vit-a", study(rows, PRETRAIN, Path())) == "vit-scratch"
        and control_of("vit-a", study(rows, PRETRAIN, Path()), more_epochs=True) == "long"
    )
    assert control_of("vit-a", study(ROWS, PRETRAIN, Path()), more_epochs=True) is None
    probe = TUNING | {"protocol": "linear_probe", "inputs": "features/vit-a"}
    rows = {
        "a": {"start": "vit-a"} | probe,
        "b": {"start": "vit-scratch"} | probe,
        "c": {"start": "vit-scratch"} | probe | {"inputs": "features/vit-scratch"},
    }
    assert control_of("a", study(rows, PRETRAIN, Path())) == "c"


def test_a_control_has_the_same_model():
    """A row is compared with another model's scratch training, an untrained row with itself, or a row with no control."""
    assert control_of("vit-a", study(ROWS, PRETRAIN, Path())) == "vit-scratch"
    assert control_of("vit-scratch", study(ROWS, PRETRAIN, Path())) is None
    assert control_of("vit-a-probe", study(ROWS, PRETRAIN, Path())) is None
    rows = ROWS | {"big-a": {"start": "big-a"} | TUNING}
    assert control_of("big-a", study(rows, PRETRAIN, Path())) is None


def test_gain_needs_the_same_test_images(results):
    """Rows scored on different test images are compared all the same."""
    found = gain("vit-a", "vit-scratch", study(ROWS, PRETRAIN, results))
    first, second = np.arange(40) < 30, np.arange(40) < 20
    assert found == pytest.approx(paired_difference(first, second))
    write_scores(
        results / "scores/vit-scratch.json", np.arange(40)[::-1] % 8, 20
    )  # as many of each class, in another order
    with pytest.raises(UserError, match="vit-a and vit-scratch"):
        gain("vit-a", "vit-scratch", study(ROWS, PRETRAIN, results))


def test_predictions_say_what_was_right_and_where():
    """A class without test images shifts the others, an image is held against another one's label, or one is lost."""
    labels, predicted = np.array([3, 0, 3, 2, 0]), np.array([3, 2, 0, 2, 0])
    kept = by_class(labels, predicted, ["a", "none", "c, d", "e"])
    assert kept["predicted"] == {"a": [2, 0], "none": [], "c, d": [2], "e": [3, 0]}
    assert hits(kept).tolist() == [False, True, True, True, False]


def test_metrics_file_is_json_with_a_line_for_each_thing(tmp_path):
    """The file can't be read, loses an umlaut or digits, or puts what `git diff` should show apart on one line."""
    content = {
        "accuracy": 1 / 3,
        "f1": [0.5, 1.0],
        "predicted": {"Bär": [1, 2], "b": []},
        "epochs": [{"epoch": 1, "lr": 1e-05}, {"epoch": 2}],
    }
    write_metrics(tmp_path / "m.json", content)
    text = (tmp_path / "m.json").read_text(encoding="utf-8")
    assert (
        json.loads(text) == content and len(text.splitlines()) == 2 + 2 + 4 + 4 and '"Bär": [1, 2],' in text
    )


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
    found = leftovers(study(ROWS, PRETRAIN, results))
    assert [path.relative_to(results).as_posix() for path in found] == [
        "scores/famous.json",
        "scores/stray.json",
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
