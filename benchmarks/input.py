"""Milliseconds that each process spends on its part of a batch, by policy and number of processes.

    python -m benchmarks.input [--repeats 3]

Processes are acted, one after the other, by this one: its CPU time on one thread, the mean over all of them
and over the steps of the best repeat. 128 images of 32 px and 64 of 224 px, in memory, by the policies of
params.yaml.
"""

import argparse
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

from vitscale.base.config import read_yaml
from vitscale.data.arrays import Split
from vitscale.data.augment import Policy
from vitscale.models.store import ModelConfig
from vitscale.runtime import distributed
from vitscale.training.batches import Batches, Plan
from vitscale.training.optimizers import Recipe

PARAMS = read_yaml(Path(__file__).resolve().parents[1] / "params.yaml")
PROCESSES, SIZES = (1, 2, 4, 8), {32: 128, 224: 64}


def milliseconds(
    policy: Policy, size: int, batch_size: int, processes: int, repeats: int, steps: int
) -> float:
    """Return a process's CPU time for a step's input."""
    images = np.random.default_rng(0).integers(0, 256, (2 * batch_size, size, size, 3), dtype=np.uint8)
    split = Split(images, np.arange(2 * batch_size) % 10, [str(i) for i in range(10)])
    config = replace(
        ModelConfig.untrained(PARAMS["models"]["vit"]), classes=split.classes, mean=[0.5] * 3, std=[0.25] * 3
    )
    recipe = replace(Recipe(**PARAMS["recipes"]["vit"]), batch_size=batch_size)
    plan = Plan(recipe=recipe, policy=policy, fraction=1.0, sizes=[size], epochs=1000, lr=1e-3, seed=0)
    was, spent = (distributed.PROCESSES, distributed.RANK), []
    try:
        distributed.PROCESSES = processes
        for _ in range(repeats):
            seconds = 0.0
            for distributed.RANK in range(processes):
                batches = Batches(split, plan, config, torch.device("cpu"))
                batches.batch(np.arange(batch_size), 0)  # the first one warms up
                begin = time.process_time()
                for step in range(steps):
                    batches.batch(np.arange(batch_size), step)
                seconds += time.process_time() - begin
            spent.append(seconds / steps / processes)
    finally:
        distributed.PROCESSES, distributed.RANK = was
    return 1000 * min(spent)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="the best counts (default: 3)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'policy':8} {'side':>4} {'batch':>5}" + "".join(f"{count:>9}" for count in PROCESSES))
    for size, batch_size in SIZES.items():
        for name, values in PARAMS["augment"].items():
            row = [
                milliseconds(Policy(**values), size, batch_size, count, args.repeats, 512 // size)
                for count in PROCESSES
            ]
            print(f"{name:8} {size:4} {batch_size:5}" + "".join(f"{value:9.2f}" for value in row), flush=True)


if __name__ == "__main__":
    with in_words():
        main()
