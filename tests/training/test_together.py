"""Two processes at one float16 training in parts: they skip the same steps, and tell each other gradients once a step."""

import json
import os
import sys
from pathlib import Path

import pytest

from tiny import ROOT, run

WORKER = """
import hashlib, json, os, sys
from pathlib import Path

import numpy as np
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from trainings import MUON, OFF, training_of
from vitscale.base.processes import RANK
from vitscale.data.arrays import load_split
from vitscale.runtime.device import setup

reductions = []

def counting(state, bucket):
    reductions.append(bucket.index())
    return allreduce_hook(state, bucket)

compute = setup("float16")
recipe = MUON | {"accumulate": 4, "ema_decay": 0.9, "warmup_epochs": 0}
training = training_of(load_split(Path(sys.argv[1])), recipe=recipe, compute=compute, policy=OFF)
training.forward.register_comm_hook(None, counting)
scale, states, calls = training.scaler.scale, [], []

def overflowing(loss):
    calls.append(loss)  # in the second process's third part of the second step alone
    return scale(loss) * (torch.inf if RANK and len(calls) == 7 else 1)

training.scaler.scale = overflowing
for step in range(3):
    training.step(*training.batches.batch(np.arange(16), step), step)
    content = b"".join(value.numpy().tobytes() for value in training.model.state_dict().values())
    states.append(hashlib.md5(content).hexdigest())
found = {"skipped": training.skipped, "scale": training.scaler.get_scale(), "states": states}
Path(f"{sys.argv[2]}/{RANK}").write_text(json.dumps(found | {"reductions": len(reductions)}))
"""


@pytest.fixture
def answers(split, tmp_path, monkeypatch):
    """What two processes found."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]))
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    monkeypatch.setenv("VITSCALE_THREADS", "1")
    folder = Path(split.images.filename).parent
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    run(sys.executable, *command, str(folder), str(tmp_path), cwd=tmp_path, timeout=300)
    return [json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1)]


def test_two_processes_skip_the_same_steps(answers):
    """A process whose own gradients are finite takes a step that the other skips, and their weights part for good."""
    first, second = answers
    assert first == second and first["skipped"] == 1 and first["scale"] == 2**15
    assert first["states"][0] == first["states"][1] != first["states"][2]
    assert first["reductions"] == 3  # of one bucket each, not one for each part
