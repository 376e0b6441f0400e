"""Which process this is, of those that torchrun started for one stage. Read here and nowhere else.

torchrun numbers its processes; a process that was started otherwise is the only one, number 0. Number 0 reads
and writes for all. What processes say to each other is in `runtime.distributed`.
"""

import os
from collections.abc import Mapping


def numbered(environment: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Return how many processes there are and which one this is; then the same among those of this machine.

    torchrun leaves its run's name and an address to meet at beside the numbers. Numbers without those are a
    cluster's or a notebook's, and the process is a single one.
    """
    names = ["WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"]
    given = [environment.get(name, "") for name in names]
    beside = all(environment.get(name) for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))
    if beside and all(each.isdecimal() for each in given):
        processes, rank, local_processes, local_rank = map(int, given)
        if rank < processes and local_rank < local_processes <= processes:
            return processes, rank, local_processes, local_rank
    return 1, 0, 1, 0


PROCESSES, RANK, LOCAL_PROCESSES, LOCAL_RANK = numbered(os.environ)
