"""How many cores this process may use."""

import os

from vitscale.base.errors import UserError


def threads() -> int | None:
    """Return what VITSCALE_THREADS says, if anything. Raises UserError for what is no positive number."""
    given = os.environ.get("VITSCALE_THREADS")
    if given and (not given.isdecimal() or int(given) < 1):
        raise UserError(f"VITSCALE_THREADS={given}: give a number of CPU threads, 1 or more")
    return int(given) if given else None


def cores() -> int:
    """Return the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
