"""Which of a machine's GPUs a process takes: one that no other one has claimed, an idle one first."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock

from vitscale.base.files import lock

IDLE = 1024  # MiB in use where nobody computes: the driver's, a desktop's
CLAIMS: list[FileLock] = []  # the system lets go of them when the process ends, however it ends


@dataclass(frozen=True)
class Gpu:
    """A GPU by torch's number, which CUDA_VISIBLE_DEVICES decides, with its memory in MiB.

    `used` is what all users' processes have. Both are None where the driver doesn't say: of a part of a GPU
    (MIG), or where the processor has the same memory.
    """

    index: int
    uuid: str
    used: int | None = None
    free: int | None = None


def by_idleness(gpus: Iterable[Gpu]) -> list[Gpu]:
    """Return GPUs in the order to ask for them: idle ones by number, busy ones by how much memory is free."""

    def key(gpu: Gpu) -> tuple:
        busy = (gpu.used or 0) > IDLE
        return busy, -(gpu.free or 0) if busy else 0, gpu.index

    return sorted(gpus, key=key)


def memory_in(listing: str) -> dict[str, tuple[int, int]]:
    """Return the MiB used and free, by a GPU's uuid, of nvidia-smi's lines `uuid, used, free`."""
    found = {}
    for line in listing.splitlines():
        uuid, *sizes = (each.strip() for each in line.split(","))
        if len(sizes) == 2 and all(size.isdecimal() for size in sizes):  # else "[N/A]" and the like
            found[uuid.removeprefix("GPU-")] = int(sizes[0]), int(sizes[1])
    return found


def listed() -> str:
    """Return what nvidia-smi says of the GPUs' memory, nothing where it is absent or fails.

    torch would say it too, but take some of each GPU's memory for that.
    """
    query = ["nvidia-smi", "--query-gpu=uuid,memory.used,memory.free", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return ""


@cache
def claim(index: int | None = None) -> int:
    """Return the number of the GPU to compute on, claimed against this user's other processes until the end.

    That is `index` where it is given. Where it or all are claimed, one is shared, which a line says.
    """
    uuids = [str(torch.cuda.get_device_properties(each).uuid) for each in range(torch.cuda.device_count())]
    memory = memory_in(listed()) if index is None and len(uuids) > 1 else {}
    gpus = by_idleness(Gpu(each, uuid, *memory.get(uuid, ())) for each, uuid in enumerate(uuids))
    wanted = [gpu.index for gpu in gpus] if index is None else [index]
    for each in wanted:
        if _claimed(uuids[each]):
            return each
    print(
        f"cuda:{wanted[0]} is in use by another training of yours; both get slower",
        file=sys.stderr,
        flush=True,
    )
    return wanted[0]


def _claimed(uuid: str) -> bool:
    folder = Path(tempfile.gettempdir()) / f"vitscale-{os.getuid()}"
    held = lock(folder / f"cuda-{uuid}.lock", "set TMPDIR to a folder on another one")
    CLAIMS.extend([held] if held else [])
    return held is not None


def runs(capability: tuple[int, int], code: list[str]) -> bool:
    """Tell whether a GPU of that compute capability runs a torch that has such code, as "sm_80".

    "sm_80" is for a GPU of its generation and its number or a later one (8.6, not 9.0), "compute_80" can be
    translated for any later one. Where the code is named otherwise (AMD's), or not at all, the answer is yes.
    """
    named = [found.groups() for each in code if (found := re.match(r"(sm|compute)_(\d+)(\d)", each))]
    return not named or any(
        (int(major), int(minor)) <= capability and (kind == "compute" or int(major) == capability[0])
        for kind, major, minor in named
    )
