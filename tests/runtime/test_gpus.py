"""Which of a machine's GPUs a process takes."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from vitscale.runtime import gpus
from vitscale.runtime.gpus import Gpu, by_idleness, memory_in

CLAIM = r"""
import sys, tempfile, types
import torch
from vitscale.runtime import gpus
tempfile.tempdir, gpus.listed = sys.argv[1], lambda: "GPU-gpu-0, 4, 16000\nGPU-gpu-1, 4, 16000"
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_properties = lambda index: types.SimpleNamespace(uuid=f"gpu-{index}")
print(gpus.claim(), gpus.claim(), flush=True)
sys.stdin.read()  # stays, however long the others take to start
"""


def test_each_process_claims_a_gpu_of_its_own(tmp_path):
    """Two workers train on one GPU while another idles, or a killed worker's GPU stays claimed."""
    processes = []

    def claim() -> str:
        """Return what a new process, which stays, is given when it asks and when it asks again."""
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", CLAIM, str(tmp_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(Path(gpus.__file__).parents[2])},
            )
        )
        return processes[-1].stdout.readline().strip()

    try:
        assert [claim() for _ in range(3)] == [
            "0 0",
            "1 1",
            "0 0",
        ]  # the third shares
        processes[1].kill()
        processes[1].wait()
        assert claim() == "1 1"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("memory", "wanted"),
    [
        ([None, None, None], [0, 1, 2]),
        ([(3, 80_000), (3, 80_000), (3, 80_000)], [0, 1, 2]),
        ([(40_000, 40_000), (3, 80_000), (500, 79_500)], [1, 2, 0]),
        ([(70_000, 10_000), (40_000, 40_000), (60_000, 20_000)], [1, 2, 0]),
        ([(40_000, 40_000), None, (3, 80_000)], [1, 2, 0]),
        ([(14_000, 1_000), (20_000, 60_000), (3, 15_000)], [2, 1, 0]),
    ],
    ids=["unknown", "idle", "one busy", "all busy", "one unknown", "unlike"],
)
def test_idle_gpus_come_first(memory, wanted):
    """A training starts on a GPU that somebody else's is on, while another one idles or has more room."""
    found = [Gpu(index, f"{index}", *(each or ())) for index, each in enumerate(memory)]
    assert [gpu.index for gpu in by_idleness(found)] == wanted
    assert [gpu.index for gpu in by_idleness(reversed(found))] == wanted


LISTING = """GPU-5d6e-1, 5, 15095
GPU-5d6e-2, [N/A], [N/A]
GPU-5d6e-3, [Insufficient Permissions], 40000
No devices were found
, ,
GPU-5d6e-4, 12, 34, 56
GPU-5d6e-5, 14000, 1100
"""


def test_what_nvidia_smi_says():
    """An answer that nvidia-smi gives on other hardware, or an error of its, ends in a traceback."""
    assert memory_in(LISTING) == {"5d6e-1": (5, 15095), "5d6e-5": (14000, 1100)}
    assert memory_in("") == {}


SMI = {
    "silent": ("exit 0", ""),
    "fails": ("echo 'GPU-0, 1, 2'; exit 9", ""),
    "no text": (r"printf '\377\376'", ""),
    "answers": ("echo GPU-0, 1, 2", "GPU-0, 1, 2\n"),
}


@pytest.mark.parametrize("case", SMI)
def test_nvidia_smi(case, tmp_path, monkeypatch):
    """A nvidia-smi that is broken ends in a traceback, or its last words are taken for an answer."""
    script, wanted = SMI[case]
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus.listed() == wanted


def test_no_nvidia_smi(tmp_path, monkeypatch):
    """Without nvidia-smi a training ends in a traceback."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.listed() == ""
    (tmp_path / "nvidia-smi").write_text("no program")
    assert gpus.listed() == ""


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """Two GPUs whose numbers in torch aren't those of nvidia-smi, of which the first is busy."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    properties = [types.SimpleNamespace(uuid=uuid) for uuid in ("bb", "aa")]
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    monkeypatch.setattr(gpus, "listed", lambda: "GPU-aa, 3, 16000\nGPU-bb, 9000, 7000\nGPU-cc, 3, 16000\n")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(gpus, "CLAIMS", [])
    gpus.claim.cache_clear()
    yield
    gpus.claim.cache_clear()


def test_gpus_are_told_by_uuid(two_gpus):
    """nvidia-smi numbers GPUs otherwise than CUDA_VISIBLE_DEVICES: the busy one is taken for the idle one."""
    assert gpus.claim() == 1


def test_a_gpu_that_is_named(two_gpus):
    """A GPU that the user or torchrun names isn't taken, or isn't held, since it is busy or another process has it."""
    assert gpus.claim(0) == 0 and [Path(held.lock_file).name for held in gpus.CLAIMS] == ["cuda-bb.lock"]
    gpus.claim.cache_clear()
    assert gpus.claim(0) == 0 and len(gpus.CLAIMS) == 1
