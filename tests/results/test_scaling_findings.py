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


@pytest.mark.parametrize(
    ("longer", "verdict"),
    [(0.55, "gains"), (0.65, "loses"), (0.6, "makes no difference beyond the interval")],
)
def test_pretraining_is_held_against_as_many_epochs_too(longer, verdict):
    """The control's own accuracy is missing, or what pretraining gives over it isn't what the figures have."""
    control = point(0, longer, longer, total=10_000)
    last = point(30_000, 0.6, 0.6, total=10_000, longer=control)
    nothing = point(0, 0.4, 0.4, total=10_000)
    pooled([nothing, last, control])
    text = "\n".join(findings([nothing, last]))
    assert (
        f"vit, full, cifar100: pretraining on 30,000 images {verdict} against an untrained start fine-tuned for "
        f"the epochs of both, which gets {longer:.2%} ({0.6 - longer:+.2%} ± "
    ) in text


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


def both(vit: float, resnet: float, other_vit: float, other_resnet: float, images: int = 50_000) -> str:
    """Return what is said of two curves that end at such accuracies, and of such points on other data."""
    points = []
    for model, last, other in (("vit", vit, other_vit), ("resnet18", resnet, other_resnet)):
        trained = {"model": model, "total": 10_000, "steps": 900}
        points += [
            point(0, 0.2, 0.2, model=model, total=10_000),
            *(point(count, last, last, **trained) for count in (100, 1000, 30_000)),
            point(images, other, other, data="other", **trained),
        ]
    return said_of(points)


def test_one_number_of_images_is_no_curve():
    """A point of another data set has a slope, lies on the curve of the first, or is said to have no slope."""
    text = both(0.6, 0.7, 0.62, 0.69)
    assert "full, cifar100, which of" in text and "full, other, which of" not in text
    assert text.count("slope") == text.count("cifar100: by a straight line in log-log") == 2
    assert "vit, full, other: pretraining on 50,000 images gains against an untrained start" in text


@pytest.mark.parametrize(
    ("there", "verdict"),
    [(0.65, "gains"), (0.55, "loses"), (0.6, "makes no difference beyond the interval")],
)
def test_other_data_is_held_against_the_end_of_the_curve(there, verdict):
    """Pretraining on other data is held against another point, or says a gain that the figures don't have."""
    said = f"vit, full: pretraining on 50,000 images of other {verdict} against 30,000 of cifar100, in 900 steps each ("
    assert said + f"{there - 0.6:+.2%} ± " in both(0.6, 0.7, there, 0.7)


def test_other_steps_are_said():
    """Two trainings of different length are told as if they were alike."""
    curve = [point(count, 0.6, 0.6, steps=900) for count in (10, 100, 1000)]
    assert "of cifar100, in 800 steps, not 900 (" in said_of(
        [*curve, point(2000, 0.6, 0.6, data="other", steps=800)]
    )


@pytest.mark.parametrize(
    ("vit", "resnet", "said"),
    [
        (0.65, 0.75, "other: resnet18; after 30,000 of cifar100: resnet18; so the lead doesn't change. "),
        (0.75, 0.65, "other: vit; after 30,000 of cifar100: resnet18; so the lead changes. "),
        (
            0.75,
            0.75,
            "other: neither; after 30,000 of cifar100: resnet18; so whether it changes is not settled. ",
        ),
    ],
)
def test_the_lead_on_other_data(vit, resnet, said):
    """The lead, or a change of it, is told other than the figures have it."""
    text = both(0.6, 0.7, vit, resnet)
    assert (
        f"full: which of resnet18 and vit is ahead beyond the interval after 50,000 images of {said}" in text
    )
    more = (resnet - 0.7) - (vit - 0.6)
    assert f"From the one to the other resnet18 gains {more:+.2%} ± " in text


def test_one_training_on_other_data_claims_nothing():
    """A single training on other data "gains" or is "ahead" by an interval that leaves out other trainings."""
    points = [
        point(images, 0.5 + images / 1e5, model=model, data=data, total=10_000)
        for model in ("vit", "resnet18")
        for data, counts in (("cifar100", (10, 100, 1000)), ("other", (5000,)))
        for images in counts
    ]
    text = said_of(points)
    assert text.count(UNKNOWN) == len(text.splitlines()) == 6
