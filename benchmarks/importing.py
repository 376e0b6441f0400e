"""Images a second that an image folder's import takes, on this machine: in one process and on all cores.

    python -m benchmarks.importing [--json] [--images 2000] [--repeats 3]

JPEGs of soft blots with grain, in bytes as large as photographs are: 500x375 as ImageNet's, stored at 224 and
64 px, and 64x64 as Tiny-ImageNet's, stored at 64 px. They lie in a temporary folder in ten classes, and are
read once before the clock starts, so that all ways find them in the system's cache. What counts is the whole
import: listing, decoding, sorting, writing. A commit that knows one process only (up to 9046dc0) is measured
in the same way:

    git worktree add ../old 9046dc0 && cp benchmarks/importing.py ../old/benchmarks/
    cd ../old && python -m benchmarks.importing
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from vitscale.base.endings import begin, in_words

if __name__ == "__main__":
    begin()

import numpy as np
from PIL import Image

from vitscale.data import sources

CLASSES = 10
SETTINGS = (((500, 375), 224), ((500, 375), 64), ((64, 64), 64))  # width and height of the files, side stored


def photograph(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Return a JPEG of quality 90: about 84 kB at 500x375, 3 kB at 64x64."""
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    grain = rng.normal(0, 12, (size[1], size[0], 1)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_photographs(where: Path, count: int, size: tuple[int, int]) -> int:
    """Write a data set of that many training images, a tenth as many to test; return how many there are."""
    rng, total = np.random.default_rng(0), 0
    for split, number in (("train", count), ("test", count // 10)):
        for i in range(number):
            path = where / split / f"class{i % CLASSES}" / f"{i:06}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photograph(rng, size))
            total += 1
    return total


def import_all(entry: sources.Download, out: Path, kept: Path) -> None:
    """Import the data set `photographs`, as this checkout does it."""
    if hasattr(sources, "bring"):
        sources.bring("photographs", entry, out, kept)
    else:
        source = sources.open_source("photographs", entry)
        for split in sources.SPLITS:
            sources.write_split(source, split, out / split)


def measure(side: int, threads: int, images: int) -> float:
    """Return images a second of one import."""
    entry = sources.Download(source="imagefolder", image_size=side, sha256={"train": None, "test": None})
    os.environ["VITSCALE_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            import_all(entry, Path(folder) / "out", Path(folder) / "kept")
        return images / (time.perf_counter() - begin)


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def benchmark(count: int, repeats: int) -> list[dict]:
    """Return a line for each setting: images a second in one process and on all cores, medians over turns."""
    lines = []
    for size in dict.fromkeys(size for size, _ in SETTINGS):
        with tempfile.TemporaryDirectory() as mirror:
            where = Path(mirror) / "photographs"
            images = write_photographs(where, count, size)
            kilobytes = sum(path.stat().st_size for path in where.rglob("*.JPEG")) / images / 1000
            for path in where.rglob("*.JPEG"):
                path.read_bytes()
            os.environ["VITSCALE_MIRROR"] = mirror
            for side in (side for other, side in SETTINGS if other == size):
                ways = {"one": 1, "all": cores()} if hasattr(sources, "bring") else {"one": 1}
                speeds: dict[str, list[float]] = {way: [] for way in ways}
                for _ in range(repeats):
                    for way, threads in ways.items():
                        speeds[way].append(measure(side, threads, images))
                medians = {way: statistics.median(each) for way, each in speeds.items()}
                lines.append(
                    {"size": size, "kilobytes": kilobytes, "side": side, "images_per_second": medians}
                )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--images", type=int, default=2000, help="training images of a set (default: 2000)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="turns; the medians over them are printed (default: 3)"
    )
    arguments = parser.parse_args()
    lines = benchmark(arguments.images, arguments.repeats)
    if arguments.json:
        print(json.dumps({"cores": cores(), "imports": lines}, indent=2, allow_nan=False))
        return
    for line in lines:
        speeds = line["images_per_second"]
        one, every = speeds["one"], speeds.get("all")
        print(
            f"{line['size'][0]}x{line['size'][1]} ({line['kilobytes']:.0f} kB) to {line['side']:3} px: "
            f"{one:7.0f} images/s in one process"
            + (f", {every:7.0f} on {cores()} cores, {every / one:.2f} times as fast" if every else "")
        )


if __name__ == "__main__":
    with in_words():
        main()
