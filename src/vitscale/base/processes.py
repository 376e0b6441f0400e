"""Which process this is, of those that torchrun started for one stage. Read here and nowhere else.

torchrun numbers its processes; a process that was started otherwise is the only one, number 0. Number 0 reads
and writes for all. What processes say to each other is in `runtime.distributed`.
"""

import os

PROCESSES = int(os.environ.get("WORLD_SIZE", 1))
RANK = int(os.environ["RANK"]) if PROCESSES > 1 else 0
LOCAL_RANK = int(os.environ["LOCAL_RANK"]) if PROCESSES > 1 else 0  # among the processes of this machine
