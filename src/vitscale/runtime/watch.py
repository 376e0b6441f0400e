"""Of several processes at one stage each hears whether the others live, and ends soon when one doesn't.

torch by itself waits for a machine that was lost for as long as a collective may take. That is a day here
(`distributed.join`), since the first process may rightly be kept by a lock, and any by its disk or compiler.
So signs of life go another way: through the store where torchrun lets its processes meet.
"""

import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch import distributed

from vitscale.base.processes import LOCAL_RANK, PROCESSES, RANK
from vitscale.runtime.distributed import meeting_place, part

EVERY, LIMIT = 2, 30  # seconds between two signs of life, and without one
FIRST = 300  # seconds until the first: machines don't import torch equally fast
LOST = (
    "error: another process of this stage has ended or can't be reached (if it could say why, it did so "
    "where it ran); start it again on all machines: a training goes on after its last whole epoch"
)


class _Signs:
    """Signs of life in a store: the first process hears all others, and these hear the first."""

    def __init__(self, store: distributed.Store):
        self.store, self.end, self.over = store, "", threading.Event()
        # Seconds for which this process was running: not those for which Slurm, say, suspended all of them.
        self.clock, self.deadline = 0.0, float(FIRST)
        self.talking = threading.Thread(target=self._talk, daemon=True)
        self.talking.start()
        # A second thread, since a request to the store waits without end where the network is silent.
        threading.Thread(target=self._listen, daemon=True).start()

    def leave(self, end: str) -> None:
        """Say that this process has "failed", or that it is "through" and wait until all are."""
        self.end = end
        self.over.set()
        self.talking.join(EVERY if end == "failed" else None)

    def _talk(self) -> None:
        counts: dict[int, int] = {}
        deadlines = dict.fromkeys([0] if RANK else range(1, PROCESSES), self.deadline)
        try:
            while True:
                if self.over.wait(EVERY):
                    self.store.add(self.end, 1)
                    break
                self._exchange(counts, deadlines)
            # The first has outputs to write when the others are through; should it fail, they fail too.
            while self.end == "through" and self.store.add("through", 0) < PROCESSES:
                self._exchange(counts, deadlines)
                time.sleep(0.2)
            self.deadline = math.inf
        except RuntimeError:  # the store is gone, and its machine
            self.deadline = 0

    def _exchange(self, counts: dict[int, int], deadlines: dict[int, float]) -> None:
        self.store.add(f"{RANK}", 1)
        for process in deadlines:
            count = self.store.add(f"{process}", 0)
            if count != counts.get(process, 0):
                counts[process], deadlines[process] = count, self.clock + LIMIT
        self.deadline = 0 if self.store.add("failed", 0) else min(deadlines.values())

    def _listen(self) -> None:
        before = time.monotonic()
        while self.clock < self.deadline or self.end == "failed":
            time.sleep(0.5)
            now = time.monotonic()
            self.clock, before = self.clock + min(now - before, 1), now
        print(LOST, file=sys.stderr, flush=True)
        os._exit(1)


@contextmanager
def watched() -> Iterator[None]:
    """Run a stage that several processes share; where there is one process, just run it.

    End this process, with a line and exit code 1, where another one has failed, was killed, or hasn't been
    heard of for `LIMIT` seconds.
    """
    if PROCESSES == 1:
        yield
        return
    try:
        place = meeting_place(timedelta(seconds=FIRST))
        signs = _Signs(distributed.PrefixStore("signs of life", place))
        try:
            yield
        except BaseException:
            signs.leave("failed")
            raise
        signs.leave("through")
        signs.deadline = min(signs.deadline, signs.clock + LIMIT)  # NCCL may wait for one that dies now
        part()
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo/transport" in str(error):
            sys.exit(LOST)
        raise
    if RANK and not LOCAL_RANK:
        print("done; the outputs are on the machine of process 0", flush=True)
