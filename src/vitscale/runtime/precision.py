"""In what precision a forward pass computes: params.yaml's, or for "auto" the one the device is made for."""

import os

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What oneDNN may be held to that leaves it without products of bfloat16.
WITHOUT_BFLOAT16 = ["SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"]


def chosen(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a forward pass's matrix products, for a `precision` of params.yaml on a device."""
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        return best_on_cuda(torch.cuda.get_device_capability(device))
    if device.type == "cpu" and has_native_bfloat16():
        return torch.bfloat16
    return torch.float32


def best_on_cuda(capability: tuple[int, int]) -> torch.dtype:
    """Return the fastest dtype that a GPU of this compute capability multiplies itself.

    bfloat16 from 8.0 on (A100, RTX 30xx, H100), float16 from 7.0 on (V100, T4, RTX 20xx), before that none.
    Emulated, bfloat16 is slower than float32.
    """
    if capability >= (8, 0):
        return torch.bfloat16
    return torch.float16 if capability >= (7, 0) else torch.float32


def has_native_bfloat16() -> bool:
    """Tell whether the CPU multiplies bfloat16 matrices itself, and `ONEDNN_MAX_CPU_ISA` lets it.

    Emulated, they are slower than float32.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in WITHOUT_BFLOAT16:
        return False
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
