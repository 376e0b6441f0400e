"""What is chosen on machines that aren't here: a table, from the code's own decisions.

`PYTHONPATH=src:tests python -m decisions` prints it as it stands in docs/hardware.md.
"""

import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from pretended import Pretended
from symbolic import a_gpu
from vitscale.base.errors import UserError
from vitscale.runtime import device, gpus, precision
from vitscale.runtime.device import Compute

GIB = 2**30
# What the torch of requirements.txt has code for on CUDA.
CODE = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@dataclass(frozen=True)
class Card:
    """A GPU: its name, compute capability and memory in GiB, of which others use some."""

    name: str
    capability: tuple[int, int]
    memory: int
    used: int = 0

    @property
    def free(self) -> int:
        return self.memory - self.used


P100, V100, T4 = Card("P100", (6, 0), 16), Card("V100", (7, 0), 16), Card("T4", (7, 5), 16)
RTX2080, RTX3090 = Card("RTX 2080", (7, 5), 8), Card("RTX 3090", (8, 6), 24)
A100, H100 = Card("A100", (8, 0), 40), Card("H100", (9, 0), 80)
# A machine's GPUs, and VITSCALE_DEVICE.
MACHINES: dict[str, tuple[list[Card], str]] = {
    "P100, 16 GiB": ([P100], ""),
    "V100, 16 GiB": ([V100], ""),
    "T4, 16 GiB": ([T4], ""),
    "RTX 2080, 8 GiB": ([RTX2080], ""),
    "RTX 3090, 24 GiB": ([RTX3090], ""),
    "A100, 40 GiB": ([A100], ""),
    "H100, 80 GiB": ([H100], ""),
    "two A100": ([A100, A100], ""),
    "two A100, the first busy with 30 GiB": ([Card("A100", (8, 0), 40, used=30), A100], ""),
    "two A100, `VITSCALE_DEVICE=cuda:1`": ([A100, A100], "cuda:1"),
    "A100, `VITSCALE_DEVICE=cpu`": ([A100], "cpu"),
    "no GPU, a CPU with bfloat16": ([], ""),
    "Apple silicon, `VITSCALE_DEVICE=mps`": ([], "mps"),
}
HEADER = "| machine | device | `precision: auto` | a data set stays there up to | scored at a time, 32 px | 224 px | our torch runs there |"


@contextmanager
def machine(cards: list[Card], named: str, code: Sequence[str] = CODE):
    """Let torch and nvidia-smi believe in a machine's GPUs, and torch that it has code for some."""
    with pytest.MonkeyPatch.context() as patch, a_gpu(Pretended()):
        cuda = torch.cuda
        patch.setattr(os, "environ", os.environ | {"VITSCALE_DEVICE": named})
        patch.setattr(cuda, "is_available", lambda: bool(cards))
        patch.setattr(cuda, "get_arch_list", lambda: list(code))
        patch.setattr(cuda, "device_count", lambda: len(cards))
        patch.setattr(cuda, "get_device_name", lambda which: cards[which.index].name)
        patch.setattr(cuda, "get_device_capability", lambda which: cards[which.index].capability)
        patch.setattr(cuda, "get_device_properties", lambda which: _properties(cards, which))
        patch.setattr(
            cuda,
            "mem_get_info",
            lambda which: (cards[which.index].free * GIB, cards[which.index].memory * GIB),
        )
        lines = [f"GPU-{i}, {1024 * card.used + 5}, {1024 * card.free}\n" for i, card in enumerate(cards)]
        patch.setattr(gpus, "listed", lambda: "".join(lines))
        patch.setattr(gpus, "_claimed", lambda uuid: True)
        patch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
        gpus.claim.cache_clear()
        yield
    gpus.claim.cache_clear()


def _properties(cards: list[Card], which: torch.device | int) -> SimpleNamespace:
    index = which if isinstance(which, int) else which.index
    return SimpleNamespace(total_memory=cards[index].memory * GIB, uuid=str(index))


def kept(compute: Compute) -> str:
    """Return up to how many GiB a data set stays on a device."""
    sizes = [size for size in range(1, 100) if compute.holds(size * GIB - 1)]
    return f"{sizes[-1]} GiB" if sizes else "—"


def decided(cards: list[Card], named: str) -> list[str]:
    """Return a row's cells: the device, its precision, and how much at a time; with a torch that runs there."""
    try:
        with machine(cards, named):
            runs = "yes" if device._device().type == "cuda" else "—"
    except UserError:
        runs = "no"
    with machine(cards, named, code=[]):
        compute = Compute(device._device(), "auto")
        kept_there = kept(compute)
        dtype = str(precision.chosen("auto", compute.device)).removeprefix("torch.")
        batches = [str(compute.scoring_batch(side)) for side in (32, 224)]
    return [str(compute.device), dtype, kept_there, *batches, runs]


def table() -> str:
    """Return the table in Markdown."""
    rows = [" | ".join([name, *decided(*of)]) for name, of in MACHINES.items()]
    return "\n".join([HEADER, "|---|---|---|---|---|---|---|", *(f"| {row} |" for row in rows)])


if __name__ == "__main__":
    print(table())
