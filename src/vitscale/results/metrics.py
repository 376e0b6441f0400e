"""What a model's logits on a test split are worth, with how sure we are of it."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959964  # of a normal variable's draws, 95% lie within this many standard deviations


def wilson(correct: float, total: float, z: float = Z95) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927); `z` is the quantile."""
    share = correct / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)  # rounding can lead out by a bit


@dataclass(frozen=True)
class Spread:
    """How far trainings lie apart that differ in their seeds alone.

    `variance` is that of their accuracies on the same test images, with its degrees of freedom. `of_images`
    is the part of it that other test images would give too; the variance over test images has that already.
    """

    variance: float
    of_images: float
    freedom: int


def spread_of(groups: Iterable[np.ndarray]) -> Spread | None:
    """Return the spread that groups of trainings share, each group (trainings, test images) of booleans.

    The mean squares of an analysis of variance (Montgomery 2017, section 13.3). None where no group has two
    trainings.
    """
    squares, rest, freedom = 0.0, 0.0, 0
    for correct in groups:
        means, count = correct.mean(1), correct.shape[1]
        squares += float(((means - means.mean()) ** 2).sum())
        off = correct - means[:, None] - correct.mean(0) + means.mean()
        rest += float((off**2).sum()) / max(count - 1, 1) / count
        freedom += len(correct) - 1
    return Spread(squares / freedom, rest / freedom, freedom) if freedom else None


@dataclass(kw_only=True)
class Trained:
    """What the trainings of one configuration got right, (trainings, test images), and their spread.

    `spread` is None where it is not known: then every interval is over test images alone.
    """

    correct: np.ndarray
    spread: Spread | None = None

    @property
    def accuracy(self) -> float:
        """The mean over trainings and test images."""
        return float(self.correct.mean())

    @property
    def covers(self) -> str:
        """What an interval is over."""
        count = len(self.correct)
        trainings = f"{count} trainings" if count > 1 else "one training"
        return f"{trainings}; test images {'only' if self.spread is None else 'and trainings'}"

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the accuracy's 95% interval: Wilson's, of as many images as have this variance."""
        shares, accuracy = self.correct.mean(0), self.accuracy
        variance, quantile = _with_trainings(float(shares.var()) / len(shares), len(shares), [1.0], [self])
        quantile = quantile if self.spread else Z95
        known = variance and 0 < accuracy < 1
        images = accuracy * (1 - accuracy) / variance if known else len(shares)
        return wilson(accuracy * images, images, quantile)


def _with_trainings(
    variance: float, images: int, weights: Sequence[float], trained: Sequence[Trained]
) -> tuple[float, float]:
    """Return the variance of a weighted sum of accuracies, and the quantile of its 95% interval.

    To the `variance` over test images that over trainings is added where it is known. The degrees of freedom
    are Satterthwaite's (1946).
    """
    shares: dict[Spread | None, float] = defaultdict(float)
    for weight, each in zip(weights, trained, strict=True):
        shares[each.spread] += weight**2 / len(each.correct)
    spreads = {} if None in shares else {spread: share for spread, share in shares.items() if spread}
    beyond = sum(share * (spread.variance - spread.of_images) for spread, share in spreads.items())
    total = variance + max(0.0, beyond)
    doubt = variance**2 / max(images - 1, 1)
    doubt += sum((share * spread.variance) ** 2 / spread.freedom for spread, share in spreads.items())
    if not doubt:
        return total, Z95
    from scipy import stats  # takes a second to import

    return total, float(stats.t.ppf(0.975, total**2 / doubt))


def weighted_sum(weights: Sequence[float], trained: Sequence[Trained]) -> tuple[float, float]:
    """Return a weighted sum of accuracies on the same test images, and half its 95% interval.

    Two images are added in which one model's answer decides, for and against: so few images, or few
    disagreements, don't pass for certainty (Agresti & Min 2005, *Simple improved confidence intervals for
    comparing matched proportions*).
    """
    values = sum(weight * each.correct.mean(0) for weight, each in zip(weights, trained, strict=True))
    images, added = len(values) + 2, max(map(abs, weights)) ** 2
    variance = ((values**2).sum() + added) / images - (values.sum() / images) ** 2
    total, quantile = _with_trainings(float(variance) / images, images, weights, trained)
    return float(values.mean()), quantile * math.sqrt(total)


def difference(first: Trained, second: Trained) -> tuple[float, float]:
    """Return how much more often `first` is right than `second` on the same test images, and half the 95%
    interval of that, paired (Agresti 2013, section 11.1.2).
    """
    return weighted_sum([1.0, -1.0], [first, second])


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


def mean_scores(each: list[dict[str, float]], correct: np.ndarray) -> dict:
    """Return the scores of one training, or the means over several with the interval over those too.

    `correct` is (trainings, test images).
    """
    if len(each) == 1:
        return dict(each[0])
    low, high = Trained(correct=correct, spread=spread_of([correct])).interval
    means = {name: float(np.mean([scores[name] for scores in each])) for name in each[0]}
    return means | {"ci95_low": low, "ci95_high": high, "trainings": each}


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
