"""Scores against scikit-learn and textbook formulas."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from vitscale.base.files import write_metrics
from vitscale.results.metrics import (
    confusion,
    expected_calibration_error,
    per_class,
    scores,
    wilson,
)
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


def test_a_confidence_of_1_is_of_the_last_bin():
    """An image that the model is wholly sure of has a bin of its own."""
    sure, nearly = [1.0, 0.0], [0.96, 0.04]
    found = expected_calibration_error(np.array([sure, nearly]), np.array([1, 0]))
    assert found == pytest.approx(abs(0.5 - 0.98))


def test_ece_of_extreme_models():
    """A calibrated model doesn't get 0, or one that is sure of wrong answers doesn't get 1."""
    sure = np.eye(4)[[0, 1, 2, 3]]
    assert expected_calibration_error(sure, np.arange(4)) == 0
    assert expected_calibration_error(sure, (np.arange(4) + 1) % 4) == 1
    even = np.full((4, 4), 0.25)
    assert expected_calibration_error(even, np.array([0, 1, 2, 3])) == pytest.approx(0)


def test_predictions_say_what_was_right_and_where():
    """A class without test images shifts the others, an image is held against another one's label, or one is lost."""
    labels, predicted = np.array([3, 0, 3, 2, 0]), np.array([3, 2, 0, 2, 0])
    kept = by_class(labels, predicted, ["a", "none", "c, d", "e"])
    assert kept["predicted"] == {"a": [2, 0], "none": [], "c, d": [2], "e": [3, 0]}
    assert hits(kept).tolist() == [[False, True, True, True, False]]
    both = by_class(labels, np.stack([predicted, labels]), ["a", "none", "c, d", "e"])
    assert both["predicted"] == {
        "a": [[2, 0], [0, 0]],
        "none": [[], []],
        "c, d": [[2], [2]],
        "e": [[3, 0], [3, 3]],
    }
    assert hits(both).tolist() == [[False, True, True, True, False], [True] * 5]


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
