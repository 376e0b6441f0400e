"""Odd image files, each beside an image that shows the same, and files of formats that aren't taken."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIDE = 32
GREY = (128, 128, 128)
RNG = np.random.default_rng(11)
COLOURS = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
SHADES = RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
HOLES = np.where(RNG.integers(0, 2, (SIDE, SIDE)), 255, 0).astype(np.uint8)  # seen through, or not at all
VEIL = RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def save(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def shown(content: bytes) -> np.ndarray:
    """Return what a lossy file shows, by Pillow's plain way to RGB."""
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def on_grey(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return colours (h, w, 3) laid on the background, by hand."""
    part = alpha[..., None] / 255
    return np.round(colours * part + np.array(GREY) * (1 - part)).astype(np.uint8)


def gray(shades: np.ndarray) -> np.ndarray:
    return shades[..., None].repeat(3, 2)


def png(depth: int, kind: int, rows: np.ndarray, **chunks: bytes) -> bytes:
    """Return a PNG written by hand: bits a channel, colour type, bytes (h, n) of the rows, further chunks."""

    def chunk(name: str, content: bytes) -> bytes:
        body = name.encode() + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", SIDE, SIDE, depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    more = b"".join(chunk(name, content) for name, content in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + chunk("IHDR", head) + more + chunk("IDAT", data) + chunk("IEND", b"")


def paletted() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Return a palette image, its palette (256, 3) and its indices."""
    image = Image.frombytes("P", (SIDE, SIDE), SHADES.tobytes())
    palette = np.random.default_rng(12).integers(0, 256, (256, 3), dtype=np.uint8)
    image.putpalette(palette.tobytes())
    return image, palette, SHADES


def frames(count: int = 3) -> list[Image.Image]:
    return [Image.fromarray(np.full((SIDE, SIDE, 3), 60 * i + 40, np.uint8)) for i in range(count)]


def turned(kind: str, orientation: int) -> tuple[bytes, np.ndarray]:
    """Return a file that says how it is to be turned, and what is then seen."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(COLOURS)
    options = {"lossless": True} if kind == "WEBP" else {}
    content = save(image, kind, exif=exif, **options)
    plain = Image.fromarray(shown(save(image, kind, **options)))
    return content, np.array(plain.transpose(TURNS[orientation]))


def twins() -> dict[str, tuple[bytes, np.ndarray]]:
    """Return files of 32x32 pixels, each with what it shows, uint8 (32, 32, 3)."""
    image, palette, index = paletted()
    rgba, la = np.dstack([COLOURS, HOLES]), Image.fromarray(np.dstack([SHADES, HOLES]), "LA")
    cmyk = Image.fromarray(COLOURS).convert("CMYK")
    ink = Image.frombytes("CMYK", (SIDE, SIDE), np.dstack([COLOURS, SHADES // 2]).tobytes())
    seen = np.where(index == 7, 0, 255).astype(np.uint8)
    by_index = np.where(np.arange(256) % 3, 255, 0).astype(np.uint8)
    key = tuple(int(each) for each in COLOURS[3, 4])
    keyed = np.where((key == COLOURS).all(2), 0, 255).astype(np.uint8)
    bits = SHADES > 127
    jpeg, film = save(COLOURS, "JPEG"), frames()
    clear = [Image.fromarray(np.dstack([np.asarray(each), HOLES])) for each in film]
    first = np.asarray(film[0])
    deep_colours = np.random.default_rng(13).integers(0, 65536, (SIDE, 3 * SIDE), dtype=np.uint16)
    high = (deep_colours >> 8).astype(np.uint8).reshape(SIDE, SIDE, 3)
    more = {"save_all": True, "append_images": film[1:]}
    found = {
        "plain.png": (save(COLOURS), COLOURS),
        "plain.bmp": (save(COLOURS, "BMP"), COLOURS),
        "plain.ppm": (save(COLOURS, "PPM"), COLOURS),
        "plain.tif": (save(COLOURS, "TIFF"), COLOURS),
        "packed.tiff": (save(COLOURS, "TIFF", compression="tiff_lzw"), COLOURS),
        "lossless.webp": (save(COLOURS, "WEBP", lossless=True), COLOURS),
        "lossy.webp": (save(COLOURS, "WEBP"), shown(save(COLOURS, "WEBP"))),
        "lossy.avif": (save(COLOURS, "AVIF"), shown(save(COLOURS, "AVIF"))),
        "baseline.jpg": (jpeg, shown(jpeg)),
        "progressive.jpeg": (
            save(COLOURS, "JPEG", progressive=True),
            shown(save(COLOURS, "JPEG", progressive=True)),
        ),
        "gray.jpg": (save(SHADES, "JPEG"), shown(save(SHADES, "JPEG"))),
        "gray.pgm": (save(SHADES, "PPM"), gray(SHADES)),
        "bits.png": (save(Image.fromarray(bits)), gray(np.where(bits, 255, 0).astype(np.uint8))),
        "jpeg named.png": (jpeg, shown(jpeg)),
        "png named.JPEG": (save(COLOURS), COLOURS),
        "cmyk.jpg": (save(ink, "JPEG"), shown(save(ink, "JPEG"))),
        "cmyk.tif": (save(cmyk, "TIFF"), np.array(cmyk.convert("RGB"))),
        "ink.tif": (save(ink, "TIFF"), np.array(ink.convert("RGB"))),
        "deep gray.png": (save(DEEP), gray((DEEP >> 8).astype(np.uint8))),
        "deep gray.tif": (save(DEEP, "TIFF"), gray((DEEP >> 8).astype(np.uint8))),
        "deep gray.pgm": (
            b"P5\n32 32\n65535\n" + DEEP.astype(">u2").tobytes(),
            gray((DEEP >> 8).astype(np.uint8)),
        ),
        "deep colours.png": (png(16, 2, deep_colours.astype(">u2")), high),
        "palette.png": (save(image), palette[index]),
        "palette.bmp": (save(image, "BMP"), palette[index]),
        "palette, one index clear.png": (save(image, transparency=7), on_grey(palette[index], seen)),
        "palette, many clear.png": (
            save(image, transparency=by_index.tobytes()),
            on_grey(palette[index], by_index[index]),
        ),
        "palette, one index clear.gif": (
            save(image, "GIF", transparency=7, optimize=False),
            on_grey(palette[index], seen),
        ),
        "alpha.png": (save(rgba), on_grey(COLOURS, HOLES)),
        "alpha.webp": (save(rgba, "WEBP", lossless=True, exact=True), on_grey(COLOURS, HOLES)),
        "alpha.tif": (save(rgba, "TIFF"), on_grey(COLOURS, HOLES)),
        "gray, alpha.png": (save(la), on_grey(gray(SHADES), HOLES)),
        "a clear colour.png": (
            png(8, 2, COLOURS.reshape(SIDE, -1), tRNS=struct.pack(">HHH", *key)),
            on_grey(COLOURS, keyed),
        ),
        "a clear shade.png": (
            png(8, 0, SHADES, tRNS=struct.pack(">H", 7)),
            on_grey(gray(SHADES), np.where(SHADES == 7, 0, 255).astype(np.uint8)),
        ),
        "film.gif": (save(film[0], "GIF", duration=40, loop=0, **more), first),
        "film.webp": (save(film[0], "WEBP", lossless=True, **more), first),
        "film.png": (save(film[0], "PNG", **more), first),
        "pages.tif": (save(film[0], "TIFF", **more), first),
        "pair.mpo": (
            save(film[0], "MPO", **more),
            shown(save(film[0], "JPEG")),
        ),
        "clear film.gif": (
            save(clear[0], "GIF", save_all=True, append_images=clear[1:], disposal=2),
            on_grey(first, HOLES),
        ),
    }
    kinds = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif"))
    return found | {
        f"turned {turn}.{ending}": turned(kind, turn) for kind, ending in kinds for turn in sorted(TURNS)
    }


def not_taken() -> dict[str, bytes]:
    """Return files of formats that Pillow reads, or that other programs do, and that no data set takes."""
    image = Image.fromarray(COLOURS)
    kinds = ("EPS", "DDS", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "PDF", "ICNS", "QOI", "BLP")
    found = {}
    for kind in kinds:
        found[kind] = save(image.convert("P") if kind == "BLP" else image, kind)
    found["XBM"] = save(image.convert("1"), "XBM")
    found["SPIDER"] = save(image.convert("F"), "SPIDER")
    planes = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, SIDE, SIDE, 8, 3) + bytes(12) + b"\0\0"
    found["PSD"] = planes + COLOURS.transpose(2, 0, 1).tobytes()
    found["SVG"] = b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"/>\n'
    found["float"] = save(Image.fromarray(np.ones((SIDE, SIDE), np.float32)), "TIFF")
    found["32 bits"] = save(Image.fromarray(np.ones((SIDE, SIDE), np.int32)), "TIFF")
    found["text"], found["nothing"] = b"these are not the pixels you are looking for\n", b""
    found["half a PNG"], found["a JPEG's head"] = save(COLOURS)[:1500], save(COLOURS, "JPEG")[:200]
    return found
