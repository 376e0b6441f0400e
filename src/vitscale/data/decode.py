"""One rule for each kind of image file, for data sets and for `predict` alike.

An image is turned as its EXIF orientation says. Of an animation the first frame counts. Transparency is laid
on `BACKGROUND`, on which black and white drawings both show. Of 16 bits a channel the high 8 are kept (of a
colour PPM Pillow rounds them). CMYK
and palettes become RGB as Pillow converts them. Then the centre square is scaled: Hamming's filter where it
shrinks (as sharp as bicubic for half the time), bicubic where it grows. A JPEG of at least twice the size is
decoded at a half, a quarter or an eighth.
"""

import io
import os
import warnings
from contextlib import suppress

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no other decoder is started
BACKGROUND = (128, 128, 128)
MAX_BYTES = 256 << 20  # of a file
BITS_PER_SAMPLE, PHOTOMETRIC, TILE_WIDTH, TILE_LENGTH = 258, 262, 322, 323  # TIFF's tags
MAX_PIXELS = 178_956_970  # twice what Pillow warns of: 683 MiB, as Pillow keeps RGB
# Pixels of a JPEG times its scans, each of which goes over all of them: 2 s. Ten scans are usual. What a
# phone puts behind a photo, a film, has a mark of a scan by chance in each 64 KiB.
MAX_SCANNED = 200 * MAX_PIXELS

# By their names these should be images: those that are taken, and others that would be missed if left out.
ENDINGS = (
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
    ".arw", ".cr2", ".dds", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl",
    ".nef", ".psd", ".raw", ".svg", ".tga",
)  # fmt: skip
# What a file begins with that has none of those names and is an image all the same.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
HEAD = 16  # bytes that tell
SCAN = b"\xff\xda"  # what a JPEG's scan begins with


def is_hidden(part: str) -> bool:
    """Return whether a part of a path is hidden, or a folder in which macOS puts its notes."""
    return part.startswith(".") or part == "__MACOSX"


def has_image_ending(name: str) -> bool:
    """Return whether a file should be an image by its name."""
    return os.path.splitext(name)[1].lower() in ENDINGS


def is_image(name: str, head: bytes) -> bool:
    """Return whether a file is, or should be, an image: by its name, else by its first `HEAD` bytes."""
    if is_hidden(name.rsplit("/", 1)[-1]):
        return False
    boxed = head[8:12] == b"WEBP" if head[:4] == b"RIFF" else head[4:12] in (b"ftypavif", b"ftypavis")
    return has_image_ending(name) or head.startswith(SIGNATURES) or boxed


def _check(image: ImageFile, scans: int) -> None:
    """Refuse what would take much memory or time, and what Pillow would read otherwise than it is meant."""
    pixels = image.width * image.height
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        pixels = max(pixels, int(tags.get(TILE_WIDTH, 0)) * int(tags.get(TILE_LENGTH, 0)))
    if pixels > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height}: {pixels} pixels, more than {MAX_PIXELS}")
    if image.format in ("JPEG", "MPO") and pixels * scans > MAX_SCANNED:
        raise ValueError(f"{pixels} pixels in {scans} scans, more than {MAX_SCANNED} together")
    rawmode = str(image.tile[0][3]) if image.format == "PNG" and "transparency" in image.info else ""
    if rawmode in ("L;2", "L;4", "I;16B", "RGB;16B"):
        raise ValueError(f"a transparent shade of {rawmode.split(';')[1].rstrip('B')} bits")
    if image.format == "TIFF" and image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        if tags.get(BITS_PER_SAMPLE) != (16,) or tags.get(PHOTOMETRIC) != 1:
            raise ValueError("12 bits a channel, or a zero that is white")


def _turn(image: Image.Image) -> None:
    """Turn an image as its EXIF says, where that can be read."""
    with suppress(Exception):  # of notes, parsers raise whatever they like
        ImageOps.exif_transpose(image, in_place=True)


def _as(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in a mode, without another copy of one that has it."""
    return image if image.mode == mode else image.convert(mode)


def _rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image as RGB."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: numbers of unknown range")
    if image.has_transparency_data:
        is_bmp, image = image.format == "BMP", _as(image, "RGBA")
        if is_bmp and image.getchannel("A").getextrema() == (0, 0):  # a channel that nobody filled
            return image.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image).convert("RGB")
    return _as(image, "RGB")


def square(content: bytes, side: int, resize: bool = True) -> np.ndarray:
    """Return an image file's centre square, uint8 (side, side, 3).

    Without `resize` the image must have that size. Raises ValueError for what isn't taken.
    """
    if not content:
        raise ValueError("it is empty")
    if len(content) > MAX_BYTES:
        raise ValueError(f"{len(content)} bytes, more than the {MAX_BYTES} that an image file may have")
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(content), formats=FORMATS) as file,
        ):
            _check(file, content.count(SCAN))
            if resize and file.format in ("JPEG", "MPO"):
                file.draft(None, (2 * side, 2 * side))
            file.load()
            _turn(file)
            image = _rgb(file)
    except Image.UnidentifiedImageError:
        raise ValueError(f"it is none of {', '.join(FORMATS)}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their library raises
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    if image.size == (side, side):
        return np.array(image)
    if not resize:
        raise ValueError(f"it has {image.width}x{image.height} pixels, not {side}x{side}")
    whole = min(image.size)
    left, top = (image.width - whole) // 2, (image.height - whole) // 2
    method = Image.Resampling.HAMMING if whole > side else Image.Resampling.BICUBIC
    return np.array(image.resize((side, side), method, (left, top, left + whole, top + whole)))
