"""What, beside code, parameters and inputs, decides a training's bytes: torch, and what computes."""

import os
import platform
import re
from pathlib import Path

import torch

from vitscale.runtime.precision import has_native_bfloat16

# What has ATen, oneDNN, MKL and OpenBLAS take other kernels than the processor's best; those round otherwise.
KERNELS = [
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "DNNL_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_CORETYPE",
]


def identity(device: torch.device, dtype: torch.dtype) -> tuple:
    """Return torch's version and the device: a GPU's name and the dtype, or a CPU's kind and thread count.

    How many processes share a training is left out, so that two can end what one began, with the same thread
    count on a CPU. It decides the last digits, and with dropout what is dropped.
    """
    if device.type == "cuda":
        override = os.environ.get("NVIDIA_TF32_OVERRIDE")  # inside NVIDIA's libraries, over torch's settings
        settings = [f"NVIDIA_TF32_OVERRIDE={override}"] if override else []
        return torch.__version__, device.type, torch.cuda.get_device_name(device), str(dtype), *settings
    kind = torch.backends.cpu.get_cpu_capability(), *processor()
    if device.type != "cpu":  # Apple's GPU is a part of the processor
        return torch.__version__, device.type, *kind, str(dtype)
    return torch.__version__, device.type, *kind, has_native_bfloat16(), torch.get_num_threads()


def processor(listing: Path = Path("/proc/cpuinfo")) -> tuple:
    """Return what chooses a CPU's kernels, and so how it rounds.

    Its vendor, family, model and vector instructions, and the environment variables that forbid some.
    Where Linux's listing is absent, what the system calls the processor.
    """
    fields = listed(listing)
    names = [
        "vendor_id",
        "cpu family",
        "model",
        "CPU implementer",
        "CPU part",
        "CPU variant",
    ]  # x86, then Arm
    kind = [fields[name] for name in names if name in fields] or [platform.processor(), platform.machine()]
    # Not all of them: a newer kernel of the system names more of what the same processor has.
    flags = sorted(
        flag
        for flag in (fields.get("flags") or fields.get("Features") or "").split()
        if re.match("sse|ssse|avx|fma|f16c|amx|asimd|sve|sme[0-9]*$|bf16|i8mm", flag)
    )
    settings = [f"{name}={os.environ[name]}" for name in KERNELS if os.environ.get(name)]
    return (*kind, " ".join(flags), *settings)


def listed(listing: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return what Linux lists of the first processor; nothing where its listing is absent."""
    try:
        first = listing.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def processor_name() -> str:
    """Return what people call the processor, as far as the system knows."""
    return listed().get("model name") or platform.processor() or platform.machine()
