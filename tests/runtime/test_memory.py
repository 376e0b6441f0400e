"""How much a device computes at a time."""

import platform
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from trainings import CPU
from vitscale.runtime import memory
from vitscale.runtime.device import Compute

GIB = 1 << 30


@pytest.mark.parametrize(
    ("side", "wanted"), [(8, 500), (32, 500), (64, 146), (224, 11), (384, 4), (518, 2), (1024, 1)]
)
def test_scoring_batch_on_a_cpu(side, wanted):
    """A CPU scores other numbers of images at a time than before, and answers end in other digits."""
    assert CPU.scoring_batch(side) == wanted == memory.scoring_batch(side, None)


GPUS = {  # bytes of memory, images of 32, 64, 224 and 518 pixels
    "T4": (15_655_829_504, [1024, 512, 64, 8]),
    "V100": (16_935_682_048, [1024, 512, 64, 8]),
    "A100-40": (42_297_786_368, [1024, 1024, 128, 32]),
    "H100": (84_929_347_584, [1024, 1024, 256, 64]),
    "2 GiB": (2 * GIB, [512, 128, 8, 1]),
}


@pytest.mark.parametrize("gpu", GPUS)
def test_scoring_batch_on_a_gpu(gpu, monkeypatch):
    """A GPU gets 11 images at 224 px, as a CPU does; more than its memory holds; or as many as are free just now."""
    total, wanted = GPUS[gpu]
    properties = types.SimpleNamespace(total_memory=total)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    compute = Compute(torch.device("cuda:0"))
    assert [compute.scoring_batch(side) for side in (32, 64, 224, 518)] == wanted


def test_like_gpus_score_alike():
    """Two GPUs of a kind, of which one has its memory checked (ECC) or a smaller part reserved, give other digits."""
    assert memory.scoring_batch(224, 15_655_829_504) == memory.scoring_batch(224, 15_843_721_216)
    assert memory.scoring_batch(4096, GIB) == 1


@pytest.mark.parametrize(("free", "wanted"), [(10 * GIB, True), (6 * GIB, False), (6 * GIB + 2, True)])
def test_what_stays_in_memory(free, wanted, monkeypatch):
    """A data set fills the memory that a training takes, or is read anew each time though there is room."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
    assert Compute(torch.device("cuda:0")).holds(3 * GIB) is wanted
    assert not CPU.holds(1) and not Compute(torch.device("mps")).holds(1)


FREED = """
import resource, sys
import torch
from vitscale.runtime import memory
if sys.argv[1] == "kept":
    memory.keep_freed()
for turn in range(10):  # the first ones find their places
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.zeros(12_000_000) for _ in range(3)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept():
    """Each step gets its large tensors' memory from the system anew, page by page."""
    counts = {}
    for way in ("kept", "given back"):
        command = [sys.executable, "-c", FREED, way]
        source = str(Path(memory.__file__).parents[2])
        done = subprocess.run(command, env={"PYTHONPATH": source}, capture_output=True, text=True, check=True)
        counts[way] = int(done.stdout)
    # 144 MB are 35,156 pages of 4 KiB, or 69 huge ones where the system gives such
    assert counts["kept"] < 30 < counts["given back"]
