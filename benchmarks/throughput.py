"""Images per second of our training loop, of the usual ways and of the bare matrix products, on this machine.

    python -m benchmarks.throughput [--json] [--repeats 5] [--steps 4]

The usual way: torchvision.transforms.v2 on PIL images by the same policy, a DataLoader with 2 persistent workers, its
best of three batch sizes, scaled_dot_product_attention, in float32 and in bfloat16. For a ViT there is a second one:
Hugging Face's Trainer on a ViTForImageClassification of the same size (with a class token, which it always has), the same
images and as many workers; on CUDA it takes every GPU that it sees, so show it one. Both ways have AdamW where ours has Muon.
Ours: the recipes and policies of params.yaml's rows, at the full image size. The ways take turns, one short run each, and the
medians over the turns are compared.

The floor is what a step's matrix products and convolutions would take at the rate of one large product in the precision that
ours has: three forward passes' worth (one forward, two backward). What a step takes above it is everything else.
"""

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from vitscale import compute, models
from vitscale.arrays import Split
from vitscale.files import read_yaml
from vitscale.train import Training, make_optimizers

ROOT = Path(__file__).resolve().parents[1]
IMAGES, CLASSES, BATCH_SIZES = 2048, 10, (64, 128, 256)


class SdpaAttention(nn.Module):
    """Our attention's twin on scaled_dot_product_attention."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, tokens):
        batch, n, dim = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, n, dim))


class PilImages(torch.utils.data.Dataset):
    """What ImageFolder gives: a PIL image an item, transformed in the worker."""

    def __init__(self, split: Split, transform):
        self.images, self.labels = [Image.fromarray(image) for image in split.images], split.labels
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


def usual_transform(policy: dict, config: dict):
    steps = []
    if policy["crop_padding"]:
        steps.append(v2.RandomCrop(config["image_size"], padding=policy["crop_padding"]))
    if policy["flip"]:
        steps.append(v2.RandomHorizontalFlip())
    if policy["trivial_augment"]:
        steps.append(v2.TrivialAugmentWide())
    steps += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(config["mean"], config["std"])]
    if policy["erasing"]:
        steps.append(v2.RandomErasing(policy["erasing"]))
    return v2.Compose(steps)


def usual_mix(policy: dict):
    mixes = [v2.MixUp(alpha=policy["mixup"], num_classes=CLASSES)] if policy["mixup"] else []
    mixes += [v2.CutMix(alpha=policy["cutmix"], num_classes=CLASSES)] if policy["cutmix"] else []
    return v2.RandomChoice(mixes) if mixes else lambda images, labels: (images, labels)


class Ours:
    """Our loop as the stages run it; `measure` returns images per second and the share of time spent on input."""

    def __init__(self, config: dict, split: Split, recipe: dict, policy: dict, precision: str, device: torch.device):
        self.training = Training(models.build(config), config, split, np.arange(len(split)), recipe=recipe, policy=policy,
                                 epochs=1000, lr=1e-4, sizes=[config["image_size"]], seed=0, precision=precision, device=device)
        self.batch_size, self.done = self.training.batch_size, 0

    def measure(self, steps: int) -> tuple[float, float]:
        training, device = self.training, self.training.device
        training.train_mode()
        order, on_input = training.epoch_order(0), 0.0
        synchronise(device)
        begin = time.perf_counter()
        for i in range(steps):
            at = i % training.steps_per_epoch * training.batch_size
            before = time.perf_counter()
            batch = training.batch(order[at:at + training.batch_size], self.done)
            on_input += time.perf_counter() - before
            training.step(*batch, self.done)
            self.done += 1
        synchronise(device)
        seconds = time.perf_counter() - begin
        return steps * self.batch_size / seconds, on_input / seconds


class Usual:
    """The usual way, at one batch size."""

    def __init__(self, config: dict, split: Split, recipe: dict, policy: dict, precision: str, device: torch.device, batch_size: int):
        self.model = models.build(config).to(device)
        for block in getattr(self.model.backbone, "blocks", []):
            block.attention = SdpaAttention(config["dim"], config["heads"]).to(device)
            block.mlp = nn.Sequential(nn.Linear(config["dim"], config["mlp_dim"]), nn.GELU(),
                                      nn.Linear(config["mlp_dim"], config["dim"])).to(device)
        if recipe["optimizer"] == "muon":
            recipe = recipe | {"optimizer": "adamw"}
        self.optimizers, self.precision, self.device = make_optimizers(self.model, recipe), precision, device
        self.loss, self.mix, self.clip = nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"]), usual_mix(policy), recipe["clip_norm"]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-4
        self.loader = torch.utils.data.DataLoader(PilImages(split, usual_transform(policy, config)), batch_size, shuffle=True,
                                                  num_workers=2, persistent_workers=True, drop_last=True)
        self.batch_size, self.batches = batch_size, self.endless()
        self.measure(1)  # starts the workers

    def endless(self):
        while True:
            yield from self.loader

    def measure(self, steps: int) -> tuple[float, float]:
        self.model.train()
        count, on_input = 0, 0.0
        synchronise(self.device)
        begin = time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            images, labels = self.mix(*next(self.batches))
            images, labels = images.to(self.device), labels.to(self.device)
            on_input += time.perf_counter() - before
            with compute.autocast(self.precision, self.device):
                loss = self.loss(self.model(images).float(), labels)
            self.model.zero_grad(set_to_none=True)
            loss.backward()
            if self.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            for optimizer in self.optimizers:
                optimizer.step()
            count += len(images)
        synchronise(self.device)
        seconds = time.perf_counter() - begin
        return count / seconds, on_input / seconds


class HuggingFace:
    """Hugging Face's Trainer as its examples use it, at one batch size."""

    def __init__(self, config: dict, split: Split, recipe: dict, policy: dict, precision: str, device: torch.device, batch_size: int):
        from transformers import TrainingArguments, ViTConfig

        self.shape = ViTConfig(hidden_size=config["dim"], num_hidden_layers=config["depth"], num_attention_heads=config["heads"],
                               intermediate_size=config["mlp_dim"], image_size=config["image_size"],
                               patch_size=config["patch_size"], num_labels=CLASSES)
        self.images = PilImages(split, usual_transform(policy, config))
        self.device, self.batch_size, self.folder = device, batch_size, tempfile.TemporaryDirectory()
        self.arguments = lambda steps: TrainingArguments(
            self.folder.name, per_device_train_batch_size=batch_size, max_steps=steps, bf16=precision == "bfloat16",
            use_cpu=device.type == "cpu", dataloader_num_workers=2, dataloader_persistent_workers=True,
            dataloader_drop_last=True, save_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no",
            label_smoothing_factor=recipe["label_smoothing"], max_grad_norm=recipe["clip_norm"], weight_decay=recipe["weight_decay"])

    def measure(self, steps: int) -> tuple[float, None]:
        """Return images per second; the share of input can't be seen from outside the Trainer."""
        from transformers import PrinterCallback, Trainer, TrainerCallback, ViTForImageClassification

        ends, device = [], self.device

        class Clock(TrainerCallback):
            def on_step_end(self, arguments, state, control, **_):
                if state.global_step in (2, steps + 2):  # the first two start the workers
                    synchronise(device)
                    ends.append(time.perf_counter())

        self.model = ViTForImageClassification(self.shape)
        trainer = Trainer(self.model, self.arguments(steps + 2), train_dataset=self.images, callbacks=[Clock()],
                          data_collator=lambda items: {"pixel_values": torch.stack([image for image, _ in items]),
                                                       "labels": torch.tensor([int(label) for _, label in items])})
        trainer.remove_callback(PrinterCallback)  # its lines would stand among our figures
        trainer.train()
        return steps * self.batch_size / (ends[1] - ends[0]), None


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(device: torch.device) -> float:
    """Return this process's peak memory: on the device where it is a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def matrix_rate(device: torch.device, precision: str, n: int | None = None) -> float:
    """Return this device's rate of matrix products in FLOP/s: the best of ten times five of n x n."""
    n = n or (8192 if device.type == "cuda" else 2048)
    one = torch.ones(1, 1, device=device)
    with compute.autocast(precision, device):
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


def settings(model: str) -> tuple[dict, dict, dict, str]:
    """Return config, recipe, policy and precision of a model's first full fine-tuning row in params.yaml."""
    params = read_yaml(ROOT / "params.yaml")
    starts = {name: entry["model"] for name, entry in params["pretrain"].items()} | {f"{model}-scratch": model}
    row = next(entry for entry in params["rows"].values() if starts.get(entry["start"]) == model and entry["protocol"] == "full")
    config = models.untrained(params["models"][model]) | {"classes": [str(i) for i in range(CLASSES)], "mean": [0.5] * 3,
                                                          "std": [0.25] * 3}
    return config, params["recipes"][row["recipe"]], params["augment"][row["augment"]], params["precision"]


def measure_peak(model: str) -> dict:
    """Measure our loop alone, so that its peak memory is nobody else's."""
    config, recipe, policy, precision = settings(model)
    device = compute.setup()
    ours = Ours(config, random_split(config), recipe, policy, precision, device)
    ours.measure(4)
    return {"peak_gib": peak_gib(device)}


def random_split(config: dict) -> Split:
    rng = np.random.default_rng(0)
    size = config["image_size"]
    images = rng.integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    return Split(images, rng.integers(0, CLASSES, IMAGES), [str(i) for i in range(CLASSES)])


def benchmark(model: str, repeats: int, steps: int) -> dict:
    config, recipe, policy, precision = settings(model)
    device, split = compute.setup(), random_split(config)
    ways = {"ours": Ours(config, split, recipe, policy, precision, device)}
    kinds = {"usual": Usual} | ({"Trainer": HuggingFace} if config["architecture"] == "vit" else {})
    for name, kind in kinds.items():
        for precision_there in ("float32", "bfloat16"):
            tried = {size: kind(config, split, recipe, policy, precision_there, device, size) for size in BATCH_SIZES}
            speed = {size: way.measure(2)[0] for size, way in tried.items()}
            best = max(speed, key=speed.get)
            ways[f"{name} {precision_there}, batch {best}"] = tried.pop(best)
            del tried
            gc.collect()  # so that the others' workers end
    ways["ours"].measure(2)
    results = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            results[name].append(way.measure(max(2, round(steps * 128 / way.batch_size))))
    medians = {name: {"images_per_second": statistics.median(speed for speed, _ in runs),
                      "input_share": None if runs[0][1] is None else statistics.median(share for _, share in runs)}
               for name, runs in results.items()}
    ours = medians["ours"]["images_per_second"]
    return {"ways": medians,
            "floor_images_per_second": matrix_rate(device, precision) / (3 * 2 * models.count_macs(config)),
            "ratio": {name: ours / way["images_per_second"] for name, way in medians.items() if name != "ours"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=5, help="turns; the medians over them are printed (default: 5)")
    parser.add_argument("--steps", type=int, default=4, help="steps of 128 images a turn (default: 4)")
    parser.add_argument("--peak", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(json.dumps(measure_peak(args.peak)))
        return
    names = list(read_yaml(ROOT / "params.yaml")["models"])
    # First, while this process is small: on Linux a process starts out with the peak of the one that it comes from.
    peaks = {model: json.loads(subprocess.run([sys.executable, "-m", "benchmarks.throughput", "--peak", model], cwd=ROOT,
                                              check=True, capture_output=True, text=True).stdout) for model in names}
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
            print(f"  {name:28} {speed:8.0f} images/s"
                  + (f", input {share:6.1%} of a step" if share is not None else "")
                  + (f", ours is {ratio:.2f} times as fast" if ratio else f", a step takes {floor / speed:.2f} times its floor"))


if __name__ == "__main__":
    main()
