"""Look for near copies of the target's test images among a data set's training images.

    python -m tools.leaks cifar100 [--pipeline .] [--target cifar10] [--sheet leaks.png]

Both must be downloaded (`dvc repro download`). `prepare` drops exact copies; this finds those that were
mirrored, moved by a few pixels, cut a little closer or wider, stored as JPEG or made darker, and changes
nothing. It prints the pairs that are most alike, and draws them for a person to look at: which of them were
one photograph, only a person can say (as in Barz & Denzler 2020, *Do We Train on Test Data?*, where people
judged the nearest neighbours of each CIFAR test image; Recht et al. 2018, *Do CIFAR-10 Classifiers Generalize
to CIFAR-10?*, likewise).

First every test image, mirrored and moved too, is compared with every training image at 8 by 8 pixels. Its
nearest few are then compared at 32 by 32, with what is coarser than a few pixels taken off, since a clear sky
is like any other: the similarity is the normalised cross-correlation (Lewis 1995) of the test image's middle
at the best of a few sizes and places.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vitscale.base.endings import begin, in_words

if __name__ == "__main__":
    begin()

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.base.files import naming
from vitscale.base.progress import progress
from vitscale.commands.main import add_pipeline
from vitscale.data.arrays import Split, load_split
from vitscale.models.preprocessing import resize

SIDE, COARSE, MIDDLE = 32, 8, 24  # pixels: of what is compared, of the first look, of the part that may move
COMPONENTS = 64  # the principal ones of those at 8 by 8: a third of the work, and hardly another order
MOVES = ((0, 0), (2, 2), (2, -2), (-2, 2), (-2, -2))  # pixels, in the first look
SIZES = (28, 32, 36)  # of a test image, of which the middle is taken
NEAREST = 5  # training images that each test image is compared with closely
ALIKE = 0.5  # similarity from which a pair is worth a look; tests/test_leaks.py says what that finds
PARTS = 10_000, 100  # training and test images at a time


@dataclass(frozen=True)
class Pair:
    """A test and a training image, by their places in their splits, and how alike they are, at most 1."""

    similarity: float
    test: int
    train: int


def to_side(images: np.ndarray) -> Tensor:
    """Return images, uint8 (n, s, s, 3), as float32 (n, 3, 32, 32) in 0..255."""
    return resize(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float(), SIDE, "bilinear")


def coarse(pixels: Tensor) -> Tensor:
    """Return images (n, 3, 32, 32) at 8 by 8, (n, 192): each without its mean colour and of length 1."""
    small = F.avg_pool2d(pixels, SIDE // COARSE)
    return F.normalize((small - small.mean((2, 3), keepdim=True)).flatten(1), eps=1.0)


def moved(pixels: Tensor) -> Tensor:
    """Return images (n, 3, 32, 32) as they are, moved and mirrored, (10, n, 3, 32, 32)."""
    wide = F.pad(pixels, (2, 2, 2, 2), mode="replicate")
    views = [wide[:, :, 2 + y : 2 + y + SIDE, 2 + x : 2 + x + SIDE] for y, x in MOVES]
    return torch.stack([*views, *(view.flip(3) for view in views)])


def fine(pixels: Tensor) -> Tensor:
    """Return images (n, 3, s, s) without what is coarser than 5 pixels."""
    return pixels - F.avg_pool2d(F.pad(pixels, (2, 2, 2, 2), mode="reflect"), 5, 1)


def middles(pixels: Tensor) -> Tensor:
    """Return what is fine in the middle of images (n, 3, 32, 32) in several sizes, mirrored too.

    (6, n, 3, 24, 24), each without its mean colour and of length 1, or less where hardly anything is there.
    """
    found = []
    for size in SIZES:
        edge = (size - MIDDLE) // 2
        part = fine(resize(pixels, size, "bilinear"))[:, :, edge : edge + MIDDLE, edge : edge + MIDDLE]
        found += [part, part.flip(3)]
    views = torch.stack(found)
    views -= views.mean((3, 4), keepdim=True)
    return views / views.flatten(2).norm(dim=2).clamp_min(_least())[:, :, None, None, None]


def _least() -> float:
    """Return the length of a middle whose every value is a grey level off: less is noise."""
    return float(np.sqrt(3 * MIDDLE**2))


def similarities(test: Tensor, train: Tensor) -> Tensor:
    """Return how alike images (n, 3, 32, 32) and each one's candidates (n, k, 3, 32, 32) are, (n, k)."""
    count, candidates = train.shape[:2]
    flat = fine(train.flatten(0, 1))
    square = (SIDE, SIDE)
    product = torch.einsum(
        "vncxy,nkcxy->vnkxy",
        torch.fft.rfft2(middles(test), s=square).conj(),
        torch.fft.rfft2(flat).unflatten(0, (count, candidates)),
    )
    places = SIDE - MIDDLE + 1
    along = torch.fft.irfft2(product, s=square)[..., :places, :places]
    mean, squares = F.avg_pool2d(flat, MIDDLE, 1), F.avg_pool2d(flat**2, MIDDLE, 1)
    lengths = ((squares - mean**2).sum(1).clamp_min(0) * MIDDLE**2).sqrt().clamp_min(_least())
    return (along / lengths.unflatten(0, (count, candidates))).flatten(3).amax(3).amax(0)


def nearest(test: np.ndarray, train: np.ndarray) -> Iterator[list[Pair]]:
    """Yield, for each part of the test images, the pairs of each with its nearest training images."""
    parts = [train[start : start + PARTS[0]] for start in range(0, len(train), PARTS[0])]
    known = torch.cat([coarse(to_side(part)) for part in parts])
    basis = torch.linalg.eigh(known.T @ known).eigenvectors[:, -COMPONENTS:]
    known = known @ basis
    few = min(NEAREST, len(train))
    for start in range(0, len(test), PARTS[1]):
        pixels = to_side(test[start : start + PARTS[1]])
        views = coarse(moved(pixels).flatten(0, 1)) @ basis
        near = torch.cat(
            [(views @ part.T).unflatten(0, (-1, len(pixels))).amax(0) for part in known.split(PARTS[0])], 1
        )
        indices = near.topk(few).indices
        candidates = to_side(train[indices.flatten().numpy()]).unflatten(0, indices.shape)
        alike = similarities(pixels, candidates)
        yield [
            Pair(float(alike[i, j]), start + i, int(indices[i, j]))
            for i in range(len(pixels))
            for j in range(few)
        ]


def leaks(test: np.ndarray, train: np.ndarray) -> list[Pair]:
    """Return the pairs of images, uint8 (n, s, s, 3), that were compared closely, the most alike first."""
    with torch.inference_mode():
        count = -(-len(test) // PARTS[1])
        parts = progress(nearest(test, train), count, "looking for copies", unit=f"x {PARTS[1]} test images")
        return sorted((pair for part in parts for pair in part), key=lambda pair: -pair.similarity)


def sheet(pairs: list[Pair], test: Split, train: Split) -> Image.Image:
    """Return a picture of pairs: the test image, the training image, and the similarity under them."""
    zoom, across = 96, 5
    picture = Image.new("RGB", (across * (2 * zoom + 16), -(-len(pairs) // across) * (zoom + 22)), "white")
    for number, pair in enumerate(pairs):
        x, y = number % across * (2 * zoom + 16), number // across * (zoom + 22)
        for offset, image in ((0, test.images[pair.test]), (zoom + 2, train.images[pair.train])):
            tile = Image.fromarray(np.asarray(image)).resize((zoom, zoom), Image.Resampling.BICUBIC)
            picture.paste(tile, (x + offset, y))
        words = f"{pair.similarity:.2f}  {pair.test} and {pair.train}"
        ImageDraw.Draw(picture).text((x + 2, y + zoom + 4), words, fill="black")
    return picture


def main(pipeline: Path, data: str, target: str | None, path: Path, count: int) -> None:
    """Print and draw what is most alike. Raises UserError where a split isn't there, or is empty."""
    target = target or str(read_yaml(pipeline / "params.yaml")["target"])
    test = load_split(pipeline / f"data/raw/{target}/test")
    train = load_split(pipeline / f"data/raw/{data}/train")
    for split, name in ((test, f"test split of {target}"), (train, f"training split of {data}")):
        if not len(split):
            raise UserError(f"the {name} is empty; there is nothing to compare")
    pairs = leaks(test.images, train.images)
    print(f"| similarity | test image of {target} | training image of {data} |\n|---|---|---|")
    for pair in pairs[:count]:
        names = test.classes[test.labels[pair.test]], train.classes[train.labels[pair.train]]
        print(f"| {pair.similarity:.3f} | {pair.test}, {names[0]} | {pair.train}, {names[1]} |")
    for least in (0.9, 0.7, 0.6, ALIKE):
        found = [pair for pair in pairs if pair.similarity >= least]
        images = len({pair.test for pair in found})
        print(f"similarity of at least {least}: {len(found)} pairs, with {images} of {len(test)} test images")
    with naming(path):
        sheet(pairs[:count], test, train).save(path)
    print(f"{path}: the {min(count, len(pairs))} most alike, the test image on the left")


if __name__ == "__main__":
    with in_words():
        parser = argparse.ArgumentParser(
            prog="python -m tools.leaks", description=str(__doc__).splitlines()[0]
        )
        parser.add_argument("data", help="the data set whose training images are looked at")
        parser.add_argument("--target", help="whose test images to look for (default: params.yaml's target)")
        parser.add_argument("--sheet", type=Path, default=Path("leaks.png"), help="where to draw the pairs")
        parser.add_argument("--count", type=int, default=100, help="how many pairs to print and draw")
        add_pipeline(parser)
        its = parser.parse_args()
        main(its.pipeline, its.data, its.target, its.sheet, its.count)
