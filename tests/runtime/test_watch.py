"""Processes of one training that hear of each other's end, without a training: two or three scripts and a store."""

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress

import pytest

from tiny import ROOT

pytestmark = pytest.mark.usefixtures("forked")
SCRIPT = """
import os, sys, time
from vitscale.runtime import watch
watch.EVERY, watch.LIMIT, watch.FIRST = 0.2, 2, 20
with watch.watched():
    print(os.getpid(), flush=True)
    {}
print("out", flush=True)
"""
LOST = "error: another process of this stage has ended or can't be reached"
LONG = "time.sleep(60)"


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a process for each piece of code; once all have begun it returns them and their numbers."""
    started, numbers = [], []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def each(*bodies: str) -> tuple[list[subprocess.Popen], list[int]]:
        for rank, body in enumerate(bodies):
            script = tmp_path / f"{rank}.py"
            script.write_text(SCRIPT.format(body))
            given = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": len(bodies),
                "LOCAL_WORLD_SIZE": len(bodies),
            }
            given |= {
                "MASTER_PORT": port,
                "MASTER_ADDR": "127.0.0.1",
                "TORCHELASTIC_RUN_ID": "none",
                "PYTHONPATH": ROOT / "src",
            }
            environment = os.environ | {name: str(value) for name, value in given.items()}
            started.append(
                subprocess.Popen(
                    ["python", str(script)],
                    env=environment,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        numbers.extend(int(process.stdout.readline()) for process in started)
        return started, numbers

    yield each
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    for process in started:
        process.kill()
        process.wait()


def ends(process: subprocess.Popen, within: float = 15) -> tuple[int, str]:
    """Return the exit code and what was said last on standard error."""
    said = process.communicate(timeout=within)[1].splitlines()
    return process.returncode, said[-1] if said else ""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
@pytest.mark.parametrize("which", [0, 2])
def test_all_end_with_one(start, which, how):
    """A process waits on for one that is gone, be it the first, which has the store, or two others of three."""
    processes, numbers = start(LONG, LONG, LONG)
    time.sleep(1)
    os.kill(numbers[which], how)
    for process in [each for each in processes if each is not processes[which]]:
        code, line = ends(process)
        assert code == 1 and line.startswith(LOST)


def test_a_failure_is_heard_of(start):
    """A process that ends with an error of its own, before or after the training, lets the others wait."""
    processes, _ = start(LONG, "sys.exit('error: no inputs here')", "pass")
    assert ends(processes[1]) == (1, "error: no inputs here")
    for process in (processes[0], processes[2]):
        code, line = ends(process)
        assert code == 1 and line.startswith(LOST)


def test_all_are_suspended_and_go_on(start):
    """Slurm suspends a job for longer than the limit, and at its end each process takes the others for lost."""
    processes, numbers = start("time.sleep(8)", "time.sleep(8)")
    for how in (signal.SIGSTOP, signal.SIGCONT):
        time.sleep(1 if how == signal.SIGSTOP else 4)
        for number in numbers:
            os.kill(number, how)
    assert [ends(process, 30) for process in processes] == [(0, "")] * 2


def test_who_has_more_to_do_is_waited_for(start):
    """The first still writes the outputs when the others are through: taken for lost, or without them it takes them so."""
    processes, _ = start("time.sleep(4)", "pass", "time.sleep(1)")
    assert [ends(process, 15) for process in processes] == [(0, "")] * 3


JOINS = """
    import torch
    from torch import distributed
    from vitscale.runtime.distributed import join, mean
    join(torch.device("cpu"))
    mean(torch.ones(3))
    part = watch.part
    watch.part = lambda: print("parted", part() or not distributed.is_initialized(), flush=True)
"""


def test_processes_part(start):
    """NCCL complains at the end of each stage of a process that leaves without a word."""
    processes, _ = start(JOINS, JOINS + "    time.sleep(2)")
    for process in processes:
        out, said = process.communicate(timeout=30)
        assert (process.returncode, out, said) == (0, "parted True\nout\n", "")


def test_a_process_that_dies_while_they_part(start):
    """NCCL, which may wait for all when they part, waits for ever for one that has died by then."""
    hangs = "watch.part = lambda: time.sleep(60)"
    processes, _ = start(hangs, hangs)
    for process in processes:
        code, line = ends(process)
        assert code == 1 and line.startswith(LOST)


@pytest.mark.parametrize(
    "said", ["[/x/gloo/transport/tcp/pair.cc:561] Connection closed by peer", "DistNetworkError"]
)
def test_what_torch_says_of_a_lost_peer_is_one_line(start, said):
    """The reader gets torch's traceback instead."""
    kind = (
        "__import__('torch').distributed.DistNetworkError" if said == "DistNetworkError" else "RuntimeError"
    )
    code, line = ends(start(LONG, f"raise {kind}({said!r})")[0][1])
    assert code == 1 and line.startswith(LOST)


def test_other_errors_keep_their_traceback(start):
    """A fault of the code is taken for a lost process."""
    assert ends(start(LONG, "raise RuntimeError('a size is wrong')")[0][1]) == (
        1,
        "RuntimeError: a size is wrong",
    )


def test_torchrun_starts_all_again(tmp_path):
    """With --max-restarts the new processes look for those that are gone, or hear of an end that is over."""
    body = """
    import torch
    from vitscale.runtime.distributed import join, mean
    join(torch.device("cpu"))
    start = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if start == 0 and watch.RANK:
        os.kill(os.getpid(), 9)
    print("mean", mean(torch.tensor([watch.RANK + 10.0 * start])).item(), flush=True)
"""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(body))
    command = [
        "python",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--max-restarts=1",
        "--nproc-per-node=2",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    said = subprocess.run(
        [*command, str(script)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 0 and said.stdout.count("mean 10.5") == 2, said.stderr
