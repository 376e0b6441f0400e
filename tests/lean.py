"""What requirements-predict.txt brings, and what it doesn't."""

import importlib.metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tiny import ROOT


def pins(name: str) -> dict[str, list[str]]:
    """Return a lock's lines by the package's name; one may have several, each with a marker."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if not line.startswith(("#", "-e")):
            found.setdefault(canonicalize_name(Requirement(line).name), []).append(line)
    return found


LEAN = pins("requirements-predict.txt")
# Modules of installed packages that only requirements.txt has.
BLOCKED = {
    name
    for name, owners in importlib.metadata.packages_distributions().items()
    if not {canonicalize_name(owner) for owner in owners} & {*LEAN, "vitscale"}
}
