"""Points of a scaling curve and the results that they come from."""

import numpy as np

from vitscale.base.files import write_metrics
from vitscale.data.arrays import SplitWriter
from vitscale.results.configurations import pool_spreads
from vitscale.results.scaling import Point
from vitscale.results.tables import by_class


def point(
    images: int,
    *accuracies: float,
    model: str = "vit",
    data: str = "cifar100",
    target_images: int = 1000,
    total: int = 1000,
    **others: object,
) -> Point:
    """Return a point whose seeds got exactly so many of `total` test images right, the first ones."""
    correct = np.stack([np.arange(total) < round(accuracy * total) for accuracy in accuracies])
    return made(correct, images, model, data if images else "", target_images, **others)


def made(
    correct: np.ndarray,
    images: int,
    model: str = "vit",
    data: str = "x",
    target_images: int = 1,
    **others: object,
) -> Point:
    """Return the point of trainings that got so much right, (seeds, test images)."""
    return Point(
        model=model,
        protocol="full",
        fraction=target_images / 1000,
        data=data,
        images=images,
        target_images=target_images,
        rows=["row"] * len(correct),
        correct=correct,
        test_images=["one"],
        start=None,
        **others,
    )


def pooled(points: list[Point]) -> list[Point]:
    """Return the points, with the spread that each shares."""
    pool_spreads((point.pool, point) for point in points)
    return points


def power(exponent: float, model: str = "vit", scale: float = 1.0) -> list[Point]:
    return [
        point(
            images,
            *(1 - scale * wobble * images**exponent for wobble in (0.99, 1.0, 1.01)),
            model=model,
            total=100_000,
        )
        for images in (1_000, 3_000, 10_000, 30_000)
    ]


def prepared(folder, images: int) -> None:
    """Write a split of so many images of a pixel, of ten classes."""
    writer = SplitWriter(folder, images, 1, list("abcdefghij"))
    writer.add(np.zeros((images, 1, 1, 3), dtype=np.uint8), np.arange(images) % 10)
    writer.close()


def write_scores(
    folder, name: str, images: int, labels: np.ndarray, right: int, scores: str = "rows"
) -> None:
    """Write the metrics of a row that was trained on so many images and has so many test images right, the first ones."""
    write_metrics(folder / f"history/finetune/{name}.json", {"train_images": images})
    predicted = np.where(np.arange(len(labels)) < right, labels, labels + 1)
    write_metrics(folder / f"{scores}/{name}.json", by_class(labels, predicted, list("abcdefghijk")))
