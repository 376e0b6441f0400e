"""What stages say about files that are no images, and about images of other kinds."""

import re

import numpy as np
import pytest
from PIL import Image, features

from archives import splits
from vitscale.base.errors import UserError
from vitscale.data.sources import SPLITS
from works import CLASSES, UNKNOWN, damaged, encode, fingerprints, make_set, members_of


def avif_without_its_colours() -> bytes:
    content = encode(make_set()["train"]["cat"][0], "AVIF")
    at = content.index(b"mdat") + 4
    return content[:at] + bytes(len(content) - at)


def dds_of_unknown_kind() -> bytes:
    content = bytearray(encode(make_set()["train"]["cat"][0], "DDS"))
    content[80:84] = (2**20).to_bytes(4, "little")
    return bytes(content)


UNDECODABLE = {
    "text": lambda: b"these are not the pixels you are looking for\n",
    "empty": lambda: b"",
    "half a PNG": lambda: encode(make_set()["train"]["cat"][0])[:1500],
    "a PNG's altered byte": lambda: damaged(encode(make_set()["train"]["cat"][0]), 1500),
    "a JPEG's first bytes": lambda: encode(make_set()["train"]["cat"][0], "JPEG")[:200],
    "an emptied AVIF": avif_without_its_colours,
    "an unknown DDS": dds_of_unknown_kind,
}


@pytest.mark.parametrize("kind", UNDECODABLE)
def test_what_does_not_decode(tmp_path, monkeypatch, kind):
    """Every way that an image can be none: a UserError of one line that names it."""
    if "AVIF" in kind and not features.check("avif"):
        pytest.skip("Pillow is built without AVIF")
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path))
    for split in SPLITS:
        (tmp_path / "things" / split / "dog").mkdir(parents=True)
        (tmp_path / "things" / split / "dog" / "3.png").write_bytes(UNDECODABLE[kind]())
    with pytest.raises(UserError) as caught:
        splits("things", {"source": "imagefolder", "image_size": 32}, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    for split, line in zip(("test", "train"), lines):
        where = re.escape(f"{tmp_path}/things: {split}/dog/3.png")
        assert re.fullmatch(f"{where} can't be decoded as an image \\(.+\\); replace it or take it out", line)


@pytest.mark.parametrize("name", ["things", "things.zip"])
def test_one_image_that_does_not_decode(work, name):
    """The last image of all: everything before it was already written, aside."""
    where = work.put(name, members_of(make_set()) | {"test/dog/3.png": UNDECODABLE["half a PNG"]()})
    work.refused(
        "download",
        f"{where}: test/dog/3\\.png can't be decoded as an image \\(.+\\); replace it or take it out",
    )


def test_gray_transparent_and_palette_images_become_rgb(work):
    """Gray isn't repeated, a palette not looked up, transparency not laid on grey; pixel for pixel."""
    rng = np.random.default_rng(5)
    gray, alpha, index = (rng.integers(0, 256, (32, 32), dtype=np.uint8) for _ in range(3))
    rgb = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    paletted = Image.frombytes("P", (32, 32), index.tobytes())
    paletted.putpalette(palette.tobytes())
    gray_rgb = gray[..., None].repeat(3, 2)

    def laid(colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        share = opacity[..., None] / 255
        return np.round(colours * share + 128 * (1 - share)).astype(np.uint8)

    bits = np.where(gray[..., None] > 127, 255, 0).astype(np.uint8).repeat(3, 2)
    files = {
        "gray": (encode(gray), gray_rgb),
        "gray_alpha": (
            encode(Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])),
            laid(gray_rgb, alpha),
        ),
        "one_bit": (encode(Image.fromarray(bits[..., 0]).convert("1", dither=Image.Dither.NONE)), bits),
        "palette": (encode(paletted), palette[index]),
        "palette_alpha": (
            encode(paletted, transparency=7),
            laid(palette[index], np.where(index == 7, 0, 255)),
        ),
        "rgba": (encode(np.dstack([rgb, alpha])), laid(rgb, alpha)),
    }
    data = {split: {name: image[None] for name, (_, image) in files.items()} for split in SPLITS}
    work.put(
        "things",
        {f"{split}/{name}/0.png": content for split in SPLITS for name, (content, _) in files.items()},
    )
    work.params(things={"source": "imagefolder", "image_size": 32, "sha256": fingerprints(data)})
    result = work.run("download")
    assert (result.returncode, result.stderr) == (0, "")
    images = np.load(work.folder / "data/raw/things/test/images.npy")
    assert images.shape == (len(files), 32, 32, 3)
    for found, (name, (_, expected)) in zip(images, sorted(files.items())):
        assert np.array_equal(found, expected), name


def test_sixteen_bit_gray_keeps_its_high_byte(tmp_path, monkeypatch):
    """A 16-bit image turns white, as Pillow's own conversion makes it."""
    shades = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path))
    for split in SPLITS:
        (tmp_path / "things" / split / "cat").mkdir(parents=True)
        (tmp_path / "things" / split / "cat" / "0.png").write_bytes(encode(shades))
    image = splits("things", {"source": "imagefolder", "image_size": 32}, tmp_path / "out")["train"].images[0]
    assert np.array_equal(image, (shades >> 8).astype(np.uint8)[..., None].repeat(3, 2))


def test_cifar_mirror_of_another_size(work):
    """Images of CIFAR are never scaled: 28x28 ones are not CIFAR."""
    work.params(cifar10={"source": "cifar10", "sha256": UNKNOWN})
    where = work.put("cifar10", members_of(make_set(28)))
    fault = "can't be decoded as an image \\(it has 28x28 pixels, not 32x32\\); replace it or take it out"
    each = [f"{split}/{name}/{i}" for split in ("test", "train") for name in CLASSES for i in range(4)]
    work.refused("download", *(f"{where}: {name}\\.png {fault}" for name in each), key="cifar10")
