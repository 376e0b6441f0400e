"""Which device computes, with how many threads; environment variables name both."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch

from vitscale.base.cpus import threads
from vitscale.base.errors import UserError
from vitscale.base.processes import LOCAL_PROCESSES, LOCAL_RANK, PROCESSES
from vitscale.base.progress import say
from vitscale.runtime import distributed, memory
from vitscale.runtime.gpus import claim, runs
from vitscale.runtime.identity import identity, processor_name
from vitscale.runtime.precision import chosen

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS, read when CUDA starts


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

    def holds(self, nbytes: int) -> bool:
        """Tell whether a data set of so many bytes may stay on the device; a CPU reads it from its file."""
        return self.device.type == "cuda" and memory.holds(nbytes, torch.cuda.mem_get_info(self.device)[0])

    def scoring_batch(self, side: int) -> int:
        """Return how many images of `side` pixels a side to score at a time."""
        cuda = self.device.type == "cuda"
        total = torch.cuda.get_device_properties(self.device).total_memory if cuda else None
        return memory.scoring_batch(side, total)

    def description(self) -> str:
        """Return what computes, in a line for people."""
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if cuda else processor_name()
        dtype, count = str(self.dtype).removeprefix("torch."), torch.get_num_threads()
        return (
            f"computing on {self.device} ({name}), {dtype}, {count} thread{'s' * (count > 1)}, "
            f"{PROCESSES} process{'es' * (PROCESSES > 1)}"
        )


def choice(named: str, gpus: int, processes: int, rank: int) -> str:
    """Return the device of process `rank` of this machine's `processes`; "cuda" is any GPU.

    `named` is what VITSCALE_DEVICE says, and `gpus` how many there are. Raises UserError where processes
    would share a GPU: they would wait for each other for ever.
    """
    if not named:
        named = "cuda" if gpus else "cpu"
    if processes == 1 or named.startswith("cpu"):
        return named
    if named != "cuda":
        raise UserError(
            f"VITSCALE_DEVICE={named} would have {processes} processes share one device; leave it unset, and "
            "say with CUDA_VISIBLE_DEVICES which GPUs they may have"
        )
    if processes > gpus:
        raise UserError(
            f"{processes} processes on a machine need as many GPUs, and CUDA shows {gpus}; give torchrun "
            f"--nproc-per-node {max(gpus, 1)}, or set VITSCALE_DEVICE=cpu"
        )
    return f"cuda:{rank}"


def setup(precision: str = "float32", aloud: bool = False) -> Compute:
    """Return the device to compute on, with deterministic algorithms and the thread count set.

    `VITSCALE_DEVICE` (default: a CUDA device that no other process has claimed, where there is CUDA, else the
    CPU) and `VITSCALE_THREADS` (default: torch's). Of several processes that torchrun starts each takes a
    CUDA device of its own. `aloud` says once what computes. Raises UserError for a device that is not there
    or a thread count that is no positive number.
    """
    compute = Compute(_device(), precision)
    # On Apple's mps max pooling's backward pass would end in an error (ResNet-18 with ImageNet's stem).
    torch.use_deterministic_algorithms(True, warn_only=compute.device.type == "mps")
    # Filling memory costs a tenth of a step and guards only faulty code.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # By default convolutions on CUDA round float32 to TF32's 10 bits; in NVIDIA's containers matrix products
    # do too. torch's newer setting, `fp32_precision`, has reading these end in an error, and inductor does.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if count := threads():
        torch.set_num_threads(count)
    if compute.device.type == "cpu":
        memory.keep_freed()
    distributed.join(compute.device)
    if aloud:
        _say_once(compute.description())
    return compute


def _device() -> torch.device:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name = choice(os.environ.get("VITSCALE_DEVICE", ""), gpus, LOCAL_PROCESSES, LOCAL_RANK)
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("nothing can be trained there")
        if device.type == "cuda" and (device.index or 0) < gpus:
            device = torch.device("cuda", claim(device.index))
            _require_code(device)
        torch.ones(1, device=device).item()  # a kernel runs
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]  # of some devices torch says a whole page
        raise UserError(
            f"VITSCALE_DEVICE={name} can't be used ({reason}); leave it unset or give cpu, cuda, cuda:1 …, "
            "or mps"
        ) from error
    return device


def _require_code(gpu: torch.device) -> None:
    """Raise UserError where torch has no code for a GPU."""
    capability, code = torch.cuda.get_device_capability(gpu), torch.cuda.get_arch_list()
    if not runs(capability, code):
        older = "a torch built for CUDA 12 (see docs/hardware.md)"  # CUDA 13 has left the GPUs before 7.5
        other = older if capability < (7, 5) else "a newer torch"
        raise UserError(
            f"{gpu} is a {torch.cuda.get_device_name(gpu)}, of compute capability {capability[0]}."
            f"{capability[1]}, and torch {torch.__version__} has code for {', '.join(code)} alone; install "
            f"{other}, or set VITSCALE_DEVICE to cpu or another GPU"
        )


_say_once = cache(say)
