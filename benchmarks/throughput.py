"""Images per second of our training loop, of the usual ways and of the bare matrix products, on this machine.

    python -m benchmarks.throughput [--json] [--repeats 5] [--steps 4]

The usual way: torchvision.transforms.v2 on PIL images by the same policy, a DataLoader with 2 persistent
workers, its best of three batch sizes, scaled_dot_product_attention, in float32 and in bfloat16. For a ViT
without a stem there is a second one: Hugging Face's Trainer on a ViTForImageClassification of the same size
(with a class token, which it always has), the same images and as many workers; on CUDA it takes every GPU
that it sees, so show it one. Both ways have AdamW where ours has Muon. Ours: the recipes and policies of
params.yaml's rows, at the full image size. The ways take turns, one short run each, and the medians over the
turns are compared.

The floor is what a step's matrix products and convolutions would take at the rate of one large product in the
precision that ours has: three forward passes' worth (one forward, two backward). What a step takes above it
is everything else.
"""

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from vitscale.base.endings import begin, in_words

if __name__ == "__main__":
    begin()

import numpy as np
import torch

from benchmarks.ways import CLASSES, HuggingFace, Ours, Setting, Usual, synchronise
from vitscale.base.config import read_yaml
from vitscale.base.entries import Row
from vitscale.data.arrays import Split
from vitscale.data.augment import Policy
from vitscale.models.store import ModelConfig, count_macs
from vitscale.models.vit import VitConfig
from vitscale.results.configurations import model_names
from vitscale.runtime.device import Compute, setup
from vitscale.training.optimizers import Recipe

ROOT = Path(__file__).resolve().parents[1]
IMAGES, BATCH_SIZES = 2048, (64, 128, 256)


def peak_gib(device: torch.device) -> float:
    """Return this process's peak memory: on the device where it is a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def matrix_rate(compute: Compute, n: int | None = None) -> float:
    """Return this device's rate of matrix products in FLOP/s: the best of ten times five of n x n."""
    device = compute.device
    n = n or (8192 if device.type == "cuda" else 2048)
    one = torch.ones(1, 1, device=device)
    with compute.autocast():
        dtype = (one @ one).dtype
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    seconds = []
    for _ in range(11):
        synchronise(device)
        begin = time.perf_counter()
        for _ in range(5):
            a @ b
        synchronise(device)
        seconds.append((time.perf_counter() - begin) / 5)
    return 2 * n**3 / min(seconds[1:])


def setting_of(model: str) -> Setting:
    """Return a model with the recipe and policy of its first full fine-tuning row in params.yaml."""
    params = read_yaml(ROOT / "params.yaml")
    starts = {name: entry["model"] for name, entry in params["pretrain"].items()} | {
        f"{model}-scratch": model
    }
    rows = [Row(**entry) for entry in params["rows"].values()]
    row = next(row for row in rows if starts.get(row.start) == model and not row.is_probe)
    classes = [str(i) for i in range(CLASSES)]
    config = replace(
        ModelConfig.untrained(params["models"][model]), classes=classes, mean=[0.5] * 3, std=[0.25] * 3
    )
    recipe, policy = Recipe(**params["recipes"][row.recipe]), Policy(**params["augment"][row.augment])
    return Setting(config, recipe, policy, setup(params["precision"]))


def measure_peak(model: str) -> dict:
    """Measure our loop alone, so that its peak memory is nobody else's."""
    setting = setting_of(model)
    Ours(setting, random_split(setting.config)).measure(4)
    return {"peak_gib": peak_gib(setting.compute.device)}


def random_split(config: ModelConfig) -> Split:
    """Return random images of a model's size, with labels."""
    rng = np.random.default_rng(0)
    size = config.architecture.image_size
    images = rng.integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    return Split(images, rng.integers(0, CLASSES, IMAGES), [str(i) for i in range(CLASSES)])


def benchmark(model: str, repeats: int, steps: int) -> dict:
    """Return each way's images per second, the floor's, and how many times as fast ours is."""
    setting = setting_of(model)
    split = random_split(setting.config)
    ways = {"ours": Ours(setting, split)}
    architecture = setting.config.architecture
    in_transformers = isinstance(architecture, VitConfig) and not architecture.stem_channels
    kinds = {"usual": Usual} | ({"Trainer": HuggingFace} if in_transformers else {})
    for name, kind in kinds.items():
        for precision in ("float32", "bfloat16"):
            there = replace(setting, compute=replace(setting.compute, precision=precision))
            tried = {size: kind(there, split, size) for size in BATCH_SIZES}
            speed = {size: way.measure(2)[0] for size, way in tried.items()}
            best = max(speed, key=speed.get)
            ways[f"{name} {precision}, batch {best}"] = tried.pop(best)
            del tried
            gc.collect()  # so that the others' workers end
    ways["ours"].measure(2)
    results = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            results[name].append(way.measure(max(2, round(steps * 128 / way.batch_size))))
    medians = {
        name: {
            "images_per_second": statistics.median(speed for speed, _ in runs),
            "input_share": None if runs[0][1] is None else statistics.median(share for _, share in runs),
        }
        for name, runs in results.items()
    }
    ours = medians["ours"]["images_per_second"]
    return {
        "ways": medians,
        "floor_images_per_second": matrix_rate(setting.compute) / (3 * 2 * count_macs(setting.config)),
        "ratio": {name: ours / way["images_per_second"] for name, way in medians.items() if name != "ours"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--repeats", type=int, default=5, help="turns; the medians over them are printed (default: 5)"
    )
    parser.add_argument("--steps", type=int, default=4, help="steps of 128 images a turn (default: 4)")
    parser.add_argument("--peak", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(json.dumps(measure_peak(args.peak)))
        return
    names = list(dict.fromkeys(model_names(read_yaml(ROOT / "params.yaml")["models"]).values()))
    # First, while this process is small: on Linux a process starts with the peak of its parent.
    peaks = {
        model: json.loads(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.throughput", "--peak", model],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for model in names
    }
    result = {model: peaks[model] | benchmark(model, args.repeats, args.steps) for model in names}
    if args.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    for model, figures in result.items():
        floor = figures["floor_images_per_second"]
        print(f"{model}: our peak memory {figures['peak_gib']:.2f} GiB")
        print(f"  {'floor of matrix products':28} {floor:8.0f} images/s")
        for name, way in figures["ways"].items():
            ratio, speed, share = figures["ratio"].get(name), way["images_per_second"], way["input_share"]
            print(
                f"  {name:28} {speed:8.0f} images/s"
                + (f", input {share:6.1%} of a step" if share is not None else "")
                + (
                    f", ours is {ratio:.2f} times as fast"
                    if ratio
                    else f", a step takes {floor / speed:.2f} times its floor"
                )
            )


if __name__ == "__main__":
    with in_words():
        main()
