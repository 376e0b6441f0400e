"""Whether torch.compile can compile here."""

import os
import secrets
import sys
from functools import cache

import torch

from vitscale.base.errors import device_memory

if not os.environ.get("CXX"):  # torch takes an empty one for a compiler's name
    os.environ.pop("CXX", None)


@cache
def can_compile(device: torch.device) -> bool:
    """Tell whether torch.compile works on a device; if not, say so, and why.

    It takes a C++ compiler (the one that `CXX` names, else g++) with Python's and OpenMP's headers, and on
    CUDA Triton and a C compiler. Whether all is in order shows when a function is compiled. Beside a model's
    own compiling, which needs the same beginnings, that is a second's work. A lack of memory is raised.
    """
    # A number that no function had before: what was compiled once comes from torch's cache on disk.
    new = 1 + secrets.randbits(32) / 2**32

    def function(x: torch.Tensor) -> torch.Tensor:
        return x.sin() * new

    try:
        torch.compile(function, dynamic=False, fullgraph=True)(torch.ones(4, device=device))
    except Exception as error:  # torch has no common class for what compilers and loaders may raise
        if isinstance(error, MemoryError) or device_memory(error):
            raise
        takes = "a C++ compiler, which CXX may name, with headers. Training takes about a tenth longer"
        if device.type == "cuda":
            takes = "Triton and a C compiler, which CC may name. Training takes longer"
        print(
            f"the model isn't compiled, since torch.compile fails here ({_reason(error)}); it takes {takes}",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True


def _reason(error: Exception) -> str:
    """Return the line of a message that says what failed: a compiler's first error, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "error: " in line), lines[0])
