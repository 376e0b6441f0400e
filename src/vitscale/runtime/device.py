"""Which device computes, with how many threads; environment variables name both."""

import fcntl
import os
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import torch

from vitscale.base.cpus import threads
from vitscale.base.errors import UserError
from vitscale.base.processes import LOCAL_RANK, PROCESSES
from vitscale.runtime import distributed
from vitscale.runtime.identity import identity
from vitscale.runtime.precision import chosen

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS, read when CUDA starts

HELD: list[IO] = []  # open lock files, which the system lets go of when the process ends, however it ends


@dataclass(frozen=True)
class Compute:
    """A device, and params.yaml's `precision`: "float32", "bfloat16", "float16" or "auto"."""

    device: torch.device
    precision: str = "float32"

    @property
    def dtype(self) -> torch.dtype:
        """In what a forward pass multiplies matrices; weights and gradients are float32 always."""
        return chosen(self.precision, self.device)

    def autocast(self) -> AbstractContextManager:
        """Return the context for a forward pass."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def identity(self) -> tuple:
        """Return what, beside code, parameters and inputs, decides a training's bytes."""
        return identity(self.device, self.dtype)


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
