"""Whether torch.compile can compile here."""

import os
import shutil
import sys
from functools import cache


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
