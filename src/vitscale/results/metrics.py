"""What a model's logits on a test split are worth, with how sure we are of it."""

import math

import numpy as np

Z95 = 1.959964  # of a normal variable's draws, 95% lie within this many standard deviations


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927)."""
    share = correct / total
    centre = (share + Z95**2 / (2 * total)) / (1 + Z95**2 / total)
    half = Z95 / (1 + Z95**2 / total) * math.sqrt(share * (1 - share) / total + Z95**2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)  # rounding can lead out by a bit


def half_width(values: np.ndarray) -> float:
    """Return half the 95% interval of the mean of a value a test image (n,), over other test images."""
    return float(Z95 * values.std() / math.sqrt(len(values)))


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return how much more often `first` is right than `second`, and half the 95% interval of that.

    Both are booleans over the same test images (n,), or shares of seeds that are right; the interval is the
    paired one (Agresti 2013, section 11.1.2).
    """
    difference = first.astype(float) - second.astype(float)
    return float(difference.mean()), half_width(difference)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Return the ECE with equal-width bins of confidence (Guo et al. 2017, section 2)."""
    confidence = probabilities.max(1)
    surplus = (probabilities.argmax(1) == labels) - confidence
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(bin_of, surplus, bins)).sum() / len(labels))


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return accuracy with its 95% interval, mean cross-entropy and ECE of logits (n, classes)."""
    logits = logits.astype(np.float64)
    correct = int((logits.argmax(1) == labels).sum())
    low, high = wilson(correct, len(labels))
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return {
        "accuracy": correct / len(labels),
        "ci95_low": low,
        "ci95_high": high,
        "loss": -float(log_probabilities[np.arange(len(labels)), labels].mean()),
        "ece": expected_calibration_error(np.exp(log_probabilities), labels),
    }


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts (classes, classes): row the actual class, column the predicted one."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def per_class(counts: np.ndarray) -> dict[str, list[float]]:
    """Return the classes' precision, recall and F1 from a confusion matrix; 0 in place of 0/0."""
    right, predicted, actual = np.diag(counts), counts.sum(0), counts.sum(1)
    columns = (
        right / np.maximum(predicted, 1),
        right / np.maximum(actual, 1),
        2 * right / np.maximum(predicted + actual, 1),
    )
    return {
        name: column.tolist() for name, column in zip(("precision", "recall", "f1"), columns, strict=True)
    }
