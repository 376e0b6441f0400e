"""The device, its threads and its precision."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trainings import CPU
from vitscale.base.errors import UserError
from vitscale.runtime import device
from vitscale.runtime.device import Compute


@pytest.fixture
def settings_kept():
    """Put torch's global settings back, which device.setup changes."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", "1e1", " ", "²"])
def test_setup_refuses_a_thread_count(threads, monkeypatch, settings_kept):
    """A thread count that is no positive number is passed over, or ends in a traceback."""
    monkeypatch.setenv("VITSCALE_THREADS", threads)
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    with pytest.raises(UserError, match="VITSCALE_THREADS") as caught:
        device.setup()
    assert "1 or more" in str(caught.value)


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "cpu:-3", "1x"])
def test_setup_refuses_a_device(name, monkeypatch, settings_kept):
    """A device that isn't there ends in a traceback, or in a training on another one."""
    monkeypatch.delenv("VITSCALE_THREADS", raising=False)
    monkeypatch.setenv("VITSCALE_DEVICE", name)
    with pytest.raises(UserError, match=f"VITSCALE_DEVICE={name}") as caught:
        device.setup()
    assert "cpu, cuda" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_setup(monkeypatch, settings_kept):
    """The environment's threads and device aren't taken, or non-deterministic algorithms stay allowed."""
    monkeypatch.setenv("VITSCALE_THREADS", "1")
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    assert (
        device.setup() == CPU
        and torch.get_num_threads() == 1
        and torch.are_deterministic_algorithms_enabled()
    )
    monkeypatch.delenv("VITSCALE_THREADS")
    monkeypatch.delenv("VITSCALE_DEVICE")
    assert device.setup().device.type == ("cuda" if torch.cuda.is_available() else "cpu")


CLAIM = """
import sys, tempfile, types
import torch
from vitscale.runtime import device
tempfile.tempdir = sys.argv[1]
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_properties = lambda index: types.SimpleNamespace(uuid=f"gpu-{index}")
print(device.claim_cuda(), device.claim_cuda(), flush=True)
sys.stdin.read()  # stays, however long the others take to start
"""


def test_each_process_claims_a_cuda_device_of_its_own(tmp_path):
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
                env=os.environ | {"PYTHONPATH": str(Path(device.__file__).parents[2])},
            )
        )
        return processes[-1].stdout.readline().strip()

    try:
        assert [claim() for _ in range(3)] == [
            "cuda:0 cuda:0",
            "cuda:1 cuda:1",
            "cuda:0 cuda:0",
        ]  # the third shares
        processes[1].kill()
        processes[1].wait()
        assert claim() == "cuda:1 cuda:1"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("precision", "native", "wanted"),
    [
        ("float32", True, torch.float32),
        ("float32", False, torch.float32),
        ("bfloat16", True, torch.bfloat16),
        ("bfloat16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_precision(precision, native, wanted, monkeypatch):
    """A forward pass runs in another precision than params.yaml's, or than the hardware's where it leaves the choice."""
    monkeypatch.setattr(device, "has_native_bfloat16", lambda device: native)
    with Compute(CPU.device, precision).autocast():
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == wanted
    assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [
        ({}, False),
        ({"avx512": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
    ],
)
def test_native_bfloat16_on_a_cpu(capabilities, wanted, monkeypatch):
    """bfloat16 is chosen where the CPU only emulates it, or isn't where it has it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert device.has_native_bfloat16(CPU.device) is wanted


LISTING = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R)
stepping\t: 7
microcode\t: 0x1
cpu MHz\t\t: 2800.1
flags\t\t: fpu sse2 avx avx2 fma avx512f avx512_vnni aperfmperf
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("GenuineIntel", "AuthenticAMD", False),
        ("family\t: 6", "family\t: 7", False),
        (": 85", ": 143", False),
        (" avx512_vnni", "", False),
        (" avx512_vnni", " avx512_vnni amx_bf16", False),
        ("2800.1", "1200.7", True),
        ("0x1", "0x2", True),
        (" aperfmperf", " aperfmperf vmscape", True),
    ],
)
def test_a_kind_of_processor(old, new, same, tmp_path):
    """A training goes on, on a processor that rounds otherwise, from a checkpoint of another kind; or not on its own kind."""
    listings = []
    for text in (LISTING, LISTING.replace(old, new)):
        (tmp_path / "cpuinfo").write_text(text + "\n" + text.replace("processor\t: 0", "processor\t: 1"))
        listings.append(device.processor(tmp_path / "cpuinfo"))
    assert (listings[0] == listings[1]) == same


@pytest.mark.parametrize("name", device.KERNELS)
def test_identity_has_what_chooses_kernels(name, monkeypatch):
    """A checkpoint made with other kernels, or on another processor, is taken for one's own."""
    monkeypatch.delenv(name, raising=False)
    before = CPU.identity()
    monkeypatch.setenv(name, "AVX2")
    assert CPU.identity() != before
    monkeypatch.setattr(device, "processor", lambda: ("another",))
    assert "another" in CPU.identity()


def test_a_processor_without_linux(tmp_path):
    """Where /proc/cpuinfo is absent a training ends in a traceback, or all processors are one."""
    assert any(device.processor(tmp_path / "none"))
