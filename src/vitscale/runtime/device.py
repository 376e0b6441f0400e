"""How to compute, not what: the device, its threads, its precision.

Environment variables that name the device and the threads, and the precision they allow.
"""

import fcntl
import os
import platform
import re
import shutil
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS, read when CUDA starts

import torch

from vitscale.base.cpus import threads
from vitscale.base.errors import UserError
from vitscale.base.processes import LOCAL_RANK, PROCESSES
from vitscale.runtime import distributed

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
HELD: list[IO] = []  # open lock files, which the system lets go of when the process ends, however it ends


@dataclass(frozen=True)
class Compute:
    """A device, and its precision: "float32", "bfloat16" or "auto" (bfloat16 where it is native)."""

    device: torch.device
    precision: str = "float32"

    def autocast(self) -> AbstractContextManager:
        """Return the context for a forward pass."""
        if self.precision == "bfloat16" or (self.precision == "auto" and has_native_bfloat16(self.device)):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def identity(self) -> tuple:
        """Return what, beside code, parameters and inputs, decides a training's bytes.

        That is torch's version, the device, and a CPU's kind and thread count. How many processes share a
        training is left out, so that two can end what one began, with the same thread count on a CPU. It
        decides the last digits, and with dropout what is dropped.
        """
        device = self.device
        if device.type == "cuda":
            return (
                torch.__version__,
                device.type,
                torch.cuda.get_device_name(device),
                has_native_bfloat16(device),
            )
        kind = torch.backends.cpu.get_cpu_capability(), *processor()
        return torch.__version__, device.type, *kind, has_native_bfloat16(device), torch.get_num_threads()


def processor(listing: Path = Path("/proc/cpuinfo")) -> tuple:
    """Return what chooses a CPU's kernels, and so how it rounds.

    Its vendor, family, model and vector instructions, and the environment variables that forbid some.
    Where Linux's listing is absent, what the system calls the processor.
    """
    try:
        first = listing.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        first = ""
    fields = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())
    }
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


@cache
def claim_cuda() -> str:
    """Return the first CUDA device that no other process has claimed, or the first of all, to be shared."""
    folder = Path(tempfile.gettempdir()) / f"vitscale-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for index in range(torch.cuda.device_count()):
        file = open(folder / f"cuda-{torch.cuda.get_device_properties(index).uuid}.lock", "w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        HELD.append(file)
        return f"cuda:{index}"
    return "cuda:0"


def setup(precision: str = "float32") -> Compute:
    """Return the device to compute on, with deterministic algorithms and the thread count set.

    `VITSCALE_DEVICE` (default: the first CUDA device that no other process has claimed, where there is CUDA,
    else the CPU) and `VITSCALE_THREADS` (default: torch's). Of several processes that torchrun starts each
    takes a CUDA device of its own. Raises UserError for a device that is not there or a thread count that is
    no positive number.
    """
    torch.use_deterministic_algorithms(True)
    # Filling memory costs a tenth of a step and guards only faulty code.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    if count := threads():
        torch.set_num_threads(count)
    name = os.environ.get("VITSCALE_DEVICE")
    if PROCESSES > 1 and torch.cuda.is_available() and name in (None, "", "cuda"):
        name = f"cuda:{LOCAL_RANK}"
    name = name or (claim_cuda() if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"VITSCALE_DEVICE={name} can't be used ({reason}); leave it unset or give cpu, cuda, cuda:1 …"
        ) from error
    device = torch.device(name)
    distributed.join(device)
    return Compute(device, precision)


def has_native_bfloat16(device: torch.device) -> bool:
    """Tell whether the hardware multiplies bfloat16 matrices itself.

    Emulated, they are slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@cache
def can_compile() -> bool:
    """Tell whether torch.compile finds the C++ compiler that it needs, the one that `CXX` names or g++.

    If not, say so.
    """
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler):
        return True
    print(
        f"{compiler} is not there, so the model isn't compiled; training takes about a tenth longer",
        file=sys.stderr,
        flush=True,
    )
    return False
