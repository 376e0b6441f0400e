"""In what precision a forward pass computes, by what the device multiplies itself."""

import pytest
import torch
from torch import nn

from trainings import CPU
from vitscale.runtime import precision
from vitscale.runtime.device import Compute


@pytest.mark.parametrize(
    ("name", "native", "wanted"),
    [
        ("float32", True, torch.float32),
        ("float32", False, torch.float32),
        ("bfloat16", True, torch.bfloat16),
        ("bfloat16", False, torch.bfloat16),
        ("float16", True, torch.float16),
        ("float16", False, torch.float16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_precision_on_a_cpu(name, native, wanted, monkeypatch):
    """A forward pass runs in another precision than params.yaml's, or than the hardware's where it leaves the choice."""
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda: native)
    compute = Compute(CPU.device, name)
    assert compute.dtype == wanted
    with compute.autocast():
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
    assert precision.has_native_bfloat16() is wanted


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        ("AVX2", False),
        ("avx2", False),
        ("AVX512_CORE", False),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_AMX", True),
        ("ALL", True),
        ("", True),
    ],
)
def test_onednn_may_be_held_to_less(name, limit, wanted, monkeypatch):
    """`auto` takes bfloat16 where a variable forbids oneDNN its instructions: 25 times the time of float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setenv(name, limit)
    assert precision.has_native_bfloat16() is wanted


def test_onednns_name_goes_before_its_old_one(monkeypatch):
    """Of two limits the one that oneDNN doesn't read decides."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")
    assert precision.has_native_bfloat16()


GPUS = {
    "GTX 1080": ((6, 1), torch.float32),
    "V100": ((7, 0), torch.float16),
    "T4": ((7, 5), torch.float16),
    "A100": ((8, 0), torch.bfloat16),
    "RTX 4090": ((8, 9), torch.bfloat16),
    "H100": ((9, 0), torch.bfloat16),
    "RTX 5090": ((12, 0), torch.bfloat16),
}


@pytest.mark.parametrize("gpu", GPUS)
def test_precision_on_a_gpu(gpu, monkeypatch):
    """`auto` takes what the GPU emulates, or float32 where it multiplies something faster."""
    capability, wanted = GPUS[gpu]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert Compute(torch.device("cuda:0"), "auto").dtype == wanted
    assert Compute(torch.device("cuda:0"), "float32").dtype == torch.float32
    assert Compute(torch.device("cuda:0"), "bfloat16").dtype == torch.bfloat16


def test_precision_elsewhere():
    """Apple's GPU, whose bfloat16 differs between chips and systems, gets something else than float32 unasked."""
    assert Compute(torch.device("mps"), "auto").dtype == torch.float32
    assert Compute(torch.device("mps"), "float16").dtype == torch.float16
