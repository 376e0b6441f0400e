"""What decides a training's bytes beside code, parameters and inputs."""

import platform

import pytest
import torch

from trainings import CPU
from vitscale.runtime import identity
from vitscale.runtime.device import Compute

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
        listings.append(identity.processor(tmp_path / "cpuinfo"))
    assert (listings[0] == listings[1]) == same


@pytest.mark.parametrize(
    "name",
    [
        "ATEN_CPU_CAPABILITY",
        "DNNL_MAX_CPU_ISA",
        "DNNL_DEFAULT_FPMATH_MODE",
        "ONEDNN_MAX_CPU_ISA",
        "ONEDNN_DEFAULT_FPMATH_MODE",
        "MKL_CBWR",
        "MKL_ENABLE_INSTRUCTIONS",
        "OPENBLAS_CORETYPE",
    ],
)
def test_identity_has_what_chooses_kernels(name, monkeypatch):
    """A checkpoint made with other kernels, or on another processor, is taken for one's own."""
    monkeypatch.delenv(name, raising=False)
    before = CPU.identity()
    monkeypatch.setenv(name, "AVX2")
    assert CPU.identity() != before
    monkeypatch.setattr(identity, "processor", lambda: ("another",))
    assert "another" in CPU.identity()


def test_a_processor_without_linux(tmp_path):
    """Where /proc/cpuinfo is absent a training ends in a traceback, or all processors are one."""
    assert any(identity.processor(tmp_path / "none"))


@pytest.mark.parametrize("native", [False, True])
def test_identity_of_a_cpu(native, monkeypatch):
    """A CPU's trainings have other names than those of before, so that none goes on from its checkpoint."""
    monkeypatch.setattr(identity, "processor", lambda: ("kind", "flags"))
    monkeypatch.setattr(identity, "has_native_bfloat16", lambda: native)
    kind, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    for precision in ("auto", "float32", "bfloat16", "float16"):
        found = Compute(CPU.device, precision).identity()
        assert found == (torch.__version__, "cpu", kind, "kind", "flags", native, threads)


def test_identity_of_a_gpu(monkeypatch):
    """A training on a GPU goes on from a state that another GPU, or another dtype, came to."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    gpu = torch.device("cuda:0")
    half = (torch.__version__, "cuda", "Tesla T4", "torch.float16")
    assert Compute(gpu, "auto").identity() == Compute(gpu, "float16").identity() == half
    assert Compute(gpu, "float32").identity() == (*half[:3], "torch.float32")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert Compute(gpu, "auto").identity() == (*half, "NVIDIA_TF32_OVERRIDE=1")


def test_identity_of_an_apple(monkeypatch):
    """A training on Apple's GPU goes on from one on the processor beside it, or one with other threads isn't found."""
    monkeypatch.setattr(identity, "processor", lambda: ("arm", platform.machine()))
    found = identity.identity(torch.device("mps"), torch.float32)
    assert found[:2] == (torch.__version__, "mps") and found[-1] == "torch.float32"
