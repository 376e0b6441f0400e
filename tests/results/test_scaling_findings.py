"""What is said of the scaling curve follows from its figures."""

import pytest

from curves import point, pooled, power
from vitscale.results.scaling import Point
from vitscale.results.scaling_findings import UNKNOWN, crossing, findings


def said_of(*lines: list[Point]) -> str:
    return "\n".join(findings(pooled([each for line in lines for each in line])))


def test_sentences_follow_the_figures():
    """A sentence claims a trend or a gain that the figures don't have."""
    assert "the error falls with pretraining images; its slope is -0.200 ± 0." in said_of(power(-0.2))
    assert "the error rises" in said_of(power(0.1, scale=0.2))
    flat = [point(images, 0.5, 0.6, 0.4) for images in (10, 100, 1000)]
    assert "neither clearly falls nor rises" in said_of(flat)
    assert "no slope" in said_of(flat[:2])
    assert (
        "pretraining on 30,000 images gains against an untrained start with the same fine-tuning (+"
        in said_of([point(0, 0.2, 0.2, total=100_000), *power(-0.2)])
    )
    assert "loses against an untrained start with the same fine-tuning (-" in said_of(
        [point(0, 0.95, 0.95, total=100_000), *power(-0.2)]
    )
    assert "makes no difference beyond the interval against" in said_of([point(0, 0.5, 0.6, 0.4), *flat])


def test_nothing_is_claimed_of_one_training():
    """A curve of single trainings "falls", "gains" or is "ahead", by an interval that leaves out other trainings."""
    curve = [
        point(0, 0.2, total=100_000),
        *[point(images, 0.2 + images / 1e5, total=100_000) for images in (100, 1000, 30_000)],
    ]
    text = said_of(curve, [point(each.images, each.accuracy / 2, model="a", total=100_000) for each in curve])
    assert text.count(UNKNOWN) == len(text.splitlines()) == 5
    assert not any(word in text for word in (" gains ", "loses", "falls", "rises", "beyond", "makes no"))


def of(model, *accuracies):
    return pooled(
        [
            point(images, accuracy, accuracy, model=model, total=10_000)
            for images, accuracy in zip((0, 100, 1000), accuracies)
        ]
    )


@pytest.mark.parametrize(
    ("resnet", "vit", "listed", "end"),
    [
        (
            (0.5, 0.6, 0.7),
            (0.4, 0.6, 0.8),
            "resnet18 at 0; neither at 100; vit at 1,000",
            "the lead changes within what was measured",
        ),
        (
            (0.5, 0.6, 0.7),
            (0.4, 0.5, 0.6),
            "resnet18 at 0; resnet18 at 100; resnet18 at 1,000",
            "neither curve overtakes the other within what was measured",
        ),
        (
            (0.5, 0.6, 0.7),
            (0.4, 0.6, 0.7),
            "resnet18 at 0; neither at 100; neither at 1,000",
            "whether one overtakes the other is not settled",
        ),
        (
            (0.5, 0.6, 0.7),
            (0.5, 0.6, 0.7),
            "neither at 0; neither at 100; neither at 1,000",
            "whether one overtakes the other is not settled",
        ),
        ((0.5,), (0.4, 0.5), "resnet18 at 0", "neither curve overtakes the other within what was measured"),
    ],
)
def test_who_is_ahead(resnet, vit, listed, end):
    """The lead is told other than the figures have it, or a change of it, or its absence, that isn't there."""
    first, second = of("resnet18", *resnet), of("vit", *vit)
    text = crossing(first, second, "full")
    assert (
        text
        == f"full, which of resnet18 and vit is ahead beyond the interval by pretraining images: {listed}. So {end}."
    )
    assert len(resnet) < 2 or text.replace("full", "full, cifar100", 1) in findings(first + second)
