"""tools.leaks: copies of test images are found among training images, whatever was done to them; others aren't."""

import io

import numpy as np
import pytest
from PIL import Image

from tools.leaks import ALIKE, leaks, main
from vitscale.base.errors import UserError
from vitscale.data.arrays import SplitWriter


def photographs(count: int, seed: int, side: int = 32) -> np.ndarray:
    """Return images whose power falls with frequency as that of photographs, uint8 (n, side, side, 3)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    noise = np.fft.rfft2(rng.normal(size=(count, 3, side, side))) / frequency**1.2
    images = np.fft.irfft2(noise, s=(side, side))
    images += 1.5 * images.mean(1, keepdims=True)  # the channels of a photograph are alike
    images = 128 + 50 * images / images.std((1, 2, 3), keepdims=True)
    return images.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def moved(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, 2), (2, 0), (0, 0)), mode="edge")[2:, :-2]


def as_jpeg(image: np.ndarray) -> np.ndarray:
    written = io.BytesIO()
    Image.fromarray(image).save(written, "JPEG", quality=75)
    return np.asarray(Image.open(written))


def scaled(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


CHANGES = {
    "same": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "moved": moved,
    "jpeg": as_jpeg,
    "darker": lambda image: (image * 0.7).astype(np.uint8),
    "cut closer": lambda image: scaled(image[2:-2, 2:-2], 32),
    "coarser": lambda image: scaled(scaled(image, 20), 32),
    "all at once": lambda image: as_jpeg((moved(image)[:, ::-1] * 0.8).astype(np.uint8)),
}
TEST, TRAIN = photographs(200, 0), photographs(4000, 1)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(change):
    """A copy that was mirrored, moved, stored as JPEG, darkened or cut otherwise isn't among the most alike, or isn't counted."""
    train = TRAIN.copy()
    copied = {number * 7: number * 190 for number in range(20)}
    for test, place in copied.items():
        train[place] = CHANGES[change](TEST[test])
    found = leaks(TEST, train)
    assert {(pair.test, pair.train) for pair in found[:20]} == set(copied.items())
    assert found[19].similarity > ALIKE + 0.1 and found[20].similarity < ALIKE


def test_unrelated_images_are_not_counted():
    """Images that only look alike from far off pass for copies."""
    assert max(pair.similarity for pair in leaks(TEST, TRAIN)) < ALIKE


def test_larger_images_are_compared(tmp_path):
    """Data stored at another size than the target's are refused, or compared at the wrong places."""
    small = np.stack([scaled(image, 32) for image in photographs(10, 2, 64)])
    found = leaks(small[:5], photographs(10, 2, 64))
    assert [(pair.test, pair.train) for pair in sorted(found[:5], key=lambda pair: pair.test)] == [
        (number, number) for number in range(5)
    ]
    assert found[4].similarity > 0.9


def write(folder, images: np.ndarray) -> None:
    writer = SplitWriter(folder, len(images), 32, ["cat", "dog"])
    writer.add(images, np.arange(len(images)) % 2)
    writer.close()


def test_table_and_sheet(tmp_path, capsys):
    """The table or the picture shows other pairs than were found, or the count is another."""
    (tmp_path / "params.yaml").write_text("target: pets\n")
    write(tmp_path / "data/raw/pets/test", TEST[:4])
    write(tmp_path / "data/raw/web/train", np.concatenate([TRAIN[:30], TEST[3:4]]))
    main(tmp_path, "web", None, tmp_path / "sheet.png", 6)
    printed = capsys.readouterr().out
    assert "| 1.000 | 3, dog | 30, cat |" in printed
    assert f"similarity of at least {ALIKE}: 1 pairs, with 1 of 4 test images" in printed
    picture = Image.open(tmp_path / "sheet.png")
    assert picture.size == (5 * 208, 2 * 118)
    left, right = (np.asarray(picture.crop((x, 0, x + 96, 96))) for x in (0, 98))
    assert (left == right).all() and left.std() > 10


def test_what_is_missing_is_said(tmp_path):
    """A data set that wasn't downloaded, or has no images to look at, ends in a traceback."""
    (tmp_path / "params.yaml").write_text("target: pets\n")
    with pytest.raises(UserError, match="pets"):
        main(tmp_path, "web", None, tmp_path / "sheet.png", 6)
    write(tmp_path / "data/raw/pets/test", TEST[:0])
    write(tmp_path / "data/raw/web/train", TRAIN[:30])
    with pytest.raises(UserError, match="the test split of pets is empty"):
        main(tmp_path, "web", None, tmp_path / "sheet.png", 6)
