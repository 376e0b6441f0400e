"""One rule for each kind of image file, held against a PNG that shows the same: in the decoder and in the import."""

import os
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from layouts import classes_of, imported, write_form
from oddities import COLOURS, GREY, SHADES, SIDE, VEIL, not_taken, on_grey, save, shown, twins
from vitscale.base.errors import UserError
from vitscale.data.decode import square
from vitscale.data.sources import SPLITS

TWINS, NOT_TAKEN = twins(), not_taken()


@pytest.fixture
def no_ghostscript(tmp_path, monkeypatch):
    """A `gs` comes first in PATH that leaves a mark; the mark must not be there in the end."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    yield
    assert not (tmp_path / "started").exists()


# ---- the decoder ----
@pytest.mark.parametrize("name", TWINS)
def test_a_file_and_its_twin(name):
    """Pixels differ from those of the PNG that shows the same: as stored, enlarged and shrunk."""
    content, seen = TWINS[name]
    found = square(content, SIDE)
    assert (found.dtype, found.shape) == (np.uint8, (SIDE, SIDE, 3))
    assert np.array_equal(found, seen)
    assert np.array_equal(square(content, SIDE, resize=False), seen)
    for side in (20, 48):
        assert np.array_equal(square(content, side), square(save(seen), side))


def test_half_transparent_is_laid_on_grey():
    """Half a veil is cut to all or nothing, or is laid on another colour."""
    found = square(save(np.dstack([COLOURS, VEIL])), SIDE)
    assert np.abs(found.astype(int) - on_grey(COLOURS, VEIL)).max() <= 1
    found = square(save(Image.fromarray(np.dstack([SHADES, VEIL]), "LA")), SIDE)
    assert np.abs(found.astype(int) - on_grey(SHADES[..., None].repeat(3, 2), VEIL)).max() <= 1


@pytest.mark.parametrize("colour", [0, 255], ids=["black", "white"])
def test_a_logo_stays_seen(colour):
    """A white drawing on nothing becomes a blank image, or a black one does."""
    logo = np.full((SIDE, SIDE, 4), colour, np.uint8)
    logo[..., 3] = 0
    logo[8:24, 8:24, 3] = 255
    for content in (save(logo), save(logo, "WEBP", lossless=True)):
        found = square(content, SIDE)
        assert (found[8:24, 8:24] == colour).all() and (found[0, 0] == GREY).all()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)], ids=["1x1", "1x3000", "3000x1"])
def test_thin_images(kind, size):
    """The centre pixel of a thin image isn't what is scaled, or a side of no pixel ends in an error."""
    width, height = size
    along = np.arange(width * height) * 251 // 3000
    row = np.stack([along, 255 - along, along // 2], axis=-1).astype(np.uint8).reshape(height, width, 3)
    content = save(row, kind, **({"lossless": True} if kind == "WEBP" else {}))
    pixels = shown(content)
    found = square(content, SIDE)
    assert np.array_equal(found, square(save(pixels), SIDE))
    centre = pixels[(height - 1) // 2 : height // 2 + 1, (width - 1) // 2 : width // 2 + 1].astype(int)
    assert (found == found[0, 0]).all() and np.abs(centre - found[0, 0]).max(-1).min() == 0


def test_the_centre_square():
    """A wide image is squashed, or another part than its middle is taken; so too after a turn."""
    wide = np.zeros((SIDE, SIDE + 20, 3), np.uint8)
    wide[:, 10:-10] = COLOURS
    assert np.array_equal(square(save(wide), SIDE), COLOURS)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(square(save(wide, exif=exif), SIDE), np.rot90(COLOURS, -1))
    with pytest.raises(ValueError, match="52x32"):
        square(save(wide), SIDE, resize=False)


# ---- JPEGs at reduced scale ----
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("size", "side"), [((500, 375), 224), ((500, 375), 64), ((640, 427), 32)])
def test_a_shrunk_photograph(orientation, size, side):
    """Decoded at a reduced scale it is another cut, another turn, or visibly coarser than the whole one shrunk."""
    flower = Image.fromarray(load_sample_images().images[1]).resize(size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = save(flower, "JPEG", quality=95, exif=exif)
    pixels = np.rot90(shown(content), -1 if orientation == 6 else 0)
    difference = square(content, side).astype(int) - square(save(np.ascontiguousarray(pixels)), side)
    assert np.abs(difference).mean() < 3 and np.abs(difference).max() < 100
    shifted = np.roll(square(content, side), 2, 1).astype(int) - square(content, side)
    assert np.abs(shifted).mean() > 4  # so two pixels to the side would be seen


@pytest.mark.parametrize("size", [(2000, 64), (64, 2000), (100, 100), (64, 64)], ids=str)
def test_a_jpeg_that_is_not_shrunk_is_decoded_whole(size):
    """A long image's reduced scale is taken from its long side, and its short side is enlarged again."""
    noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    content = save(noise, "JPEG")
    assert np.array_equal(square(content, 64), square(save(shown(content)), 64))


# ---- what isn't taken ----
@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_is_not_taken(no_ghostscript, name):
    """A decoder beyond the list is started, whatever the file is called, or another error than ValueError comes."""
    with pytest.raises(ValueError) as caught:
        square(NOT_TAKEN[name], SIDE)
    assert str(caught.value) and "\n" not in str(caught.value)


def test_a_file_with_an_unknown_decoder_of_the_plugins_kind(monkeypatch):
    """A format that a newer Pillow or a plugin adds is read, since all that Pillow knows are."""
    Image.init()
    seen = []
    monkeypatch.setitem(Image.OPEN, "NEWER", (lambda *_: seen.append("started"), lambda prefix: True))
    monkeypatch.setattr(Image, "ID", [*Image.ID, "NEWER"])
    with pytest.raises(ValueError):
        square(b"newer than this code", SIDE)
    assert seen == []


# ---- the import ----
@pytest.mark.parametrize("form", ["", ".zip", ".tar.gz"])
def test_an_import_decodes_as_the_decoder_does(mirror, tmp_path, form):
    """`download` has another rule than `square` for one of the kinds."""
    contents = {f"{i:03d} {name.rsplit('.', 1)[0]}": name for i, name in enumerate(TWINS)}
    members = {
        f"{split}/{label}/{name}": TWINS[name][0] for split in SPLITS for label, name in contents.items()
    }
    write_form(mirror, "things", form, members)
    found = classes_of(imported("things", tmp_path / "out")[1])
    assert {
        label for label, name in contents.items() if not np.array_equal(found[label], [TWINS[name][1]])
    } == set()


@pytest.mark.parametrize("form", ["", ".zip", ".tar"])
def test_an_import_refuses_what_is_not_taken(mirror, tmp_path, no_ghostscript, form):
    """Ghostscript or another decoder runs for a file that is called .png, or the file is dropped in silence."""
    names = {name: f"train/cat/{name.replace(' ', '_')}.png" for name in NOT_TAKEN}
    members = {f"{split}/cat/good.png": save(COLOURS) for split in SPLITS}
    where = write_form(mirror, "things", form, members | {names[name]: NOT_TAKEN[name] for name in names})
    with pytest.raises(UserError) as caught:
        imported("things", tmp_path / "out")
    lines = str(caught.value).splitlines()
    pattern = (
        f"{re.escape(str(where))}: (.+) can't be decoded as an image \\(.+\\); replace it or take it out"
    )
    matches = [re.fullmatch(pattern, line) for line in lines]
    assert all(matches), lines
    assert sorted(match[1] for match in matches) == sorted(names.values())


def test_the_stage_starts_no_ghostscript(work, no_ghostscript):
    """An EPS named .png in a data set runs a program on what a stranger wrote."""
    eps = NOT_TAKEN["EPS"]
    where = work.put("things", {f"{split}/cat/{i}.png": eps for split in SPLITS for i in range(2)})
    work.refused(
        "download",
        *(
            f"{where}: {split}/cat/{i}\\.png can't be decoded as an image \\(.+\\); replace it or take it out"
            for split in sorted(SPLITS)
            for i in range(2)
        ),
    )
