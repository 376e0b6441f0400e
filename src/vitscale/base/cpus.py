"""How many cores this process may use."""

import os

from vitscale.base.errors import UserError

MOST = 1024  # OpenMP ends the process where the system lets it start no more


def threads() -> int | None:
    """Return what VITSCALE_THREADS says, if anything. Raises UserError for what is no such number."""
    given = os.environ.get("VITSCALE_THREADS")
    if given and not (given.isdecimal() and len(given) < 10 and 1 <= int(given) <= MOST):
        raise UserError(f"VITSCALE_THREADS={given}: give a number of CPU threads, 1 to {MOST}")
    return int(given) if given else None


def cores() -> int:
    """Return the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
