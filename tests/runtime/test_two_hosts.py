"""One training on two machines: two network namespaces, each with its own file systems, and torchrun on both."""

import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from hosts import Host, two_hosts
from same import alone, assert_same_training
from tiny import outputs, write_params

pytestmark = pytest.mark.usefixtures("forked", "environment_of_each")
LOST = "error: another process of this stage has ended or can't be reached"
STATIC = "--node-rank={number} --master-addr=a --master-port=29400"
MEETING = "--rdzv-backend=c10d --rdzv-endpoint=a:29400 --rdzv-id=two"


@pytest.fixture
def hosts(exact, tmp_path):
    """Two machines, each with the folder of the pipeline."""
    with ExitStack() as until_the_end:
        try:
            pair = until_the_end.enter_context(two_hosts(tmp_path / "machines"))
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(
                f"needs root on Linux, iproute2 and network namespaces: {getattr(error, 'stderr', error)}"
            )
        for host in pair:
            shutil.copytree(exact, host.own / "repo", symlinks=True)
        yield pair


class Run:
    """The stage on one of the machines, started with torchrun, and what it has said."""

    def __init__(self, host: Host, number: int, meeting: str):
        self.path = host.own / "log"
        command = [*["torchrun", "--nnodes=2", "--nproc-per-node=1"], *meeting.format(number=number).split()]
        self.process = host.start(*command, "stages/finetune.py", "vit-digits", cwd="repo", log=self.path)

    def said(self) -> str:
        return self.path.read_text()

    def wait(self, seconds: float) -> int:
        return self.process.wait(timeout=seconds)


def train(hosts, meeting: str) -> list[Run]:
    return [Run(host, number, meeting) for number, host in enumerate(hosts)]


def when_said(run: Run, what: str) -> None:
    end = time.monotonic() + 120
    while what not in run.said():
        assert run.process.poll() is None and time.monotonic() < end, run.said()
        time.sleep(0.02)


def assert_ended_in_one_line(run: Run, seconds: float) -> None:
    """torchrun has a traceback of its own, without a word of ours; it and torch's warnings aren't held here."""
    assert run.wait(seconds) == 1
    assert run.said().count(LOST) == 1 and 'stages/finetune.py", line' not in run.said(), run.said()


def set_epochs(folder: Path, epochs: int) -> None:
    write_params(folder, rows__vit_digits__start="vit-scratch", rows__vit_digits__epochs=epochs)


def test_two_machines_train_as_one(hosts, copies):
    """Over a network they train another model, both write outputs or checkpoints, or one needs the other's files."""
    one = copies("one")
    set_epochs(one, 3)
    for host in hosts:
        set_epochs(host.own / "repo", 3)
    alone(one, "finetune", "vit-digits")
    before = outputs(hosts[1].own / "repo")
    runs = train(hosts, MEETING)
    assert [run.wait(120) for run in runs] == [0, 0], "".join(run.said() for run in runs)
    assert_same_training(one, hosts[0].own / "repo", "finetune", "models/finetuned", "vit-scratch")
    assert [run.said().count("epoch 3/3") for run in runs] == [1, 0]
    assert "done; the outputs are on the machine of process 0" in runs[1].said()
    assert outputs(hosts[1].own / "repo") == before and not (hosts[1].own / "checkpoints").exists()
    assert not list((hosts[1].own / "repo/.vitscale/partial").iterdir())


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_machine_is_lost_and_the_run_goes_on(hosts, copies, which):
    """The other machine waits for the dead one, or what was trained until then is lost, or goes on otherwise."""
    one = copies("one")
    for folder in (one, *(host.own / "repo" for host in hosts)):
        set_epochs(folder, 40)
    runs = train(hosts, STATIC)
    when_said(runs[0], "epoch 5/40")
    hosts[which].kill()
    assert_ended_in_one_line(runs[1 - which], 60)
    runs = train(hosts, STATIC)
    assert [run.wait(120) for run in runs] == [0, 0], "".join(run.said() for run in runs)
    assert runs[0].said().count("going on after epoch") == 1
    alone(one, "finetune", "vit-digits")
    assert_same_training(one, hosts[0].own / "repo", "finetune", "models/finetuned", "vit-scratch")


@pytest.mark.slow
def test_a_silent_network_is_an_error_within_a_minute(hosts):
    """Where no word comes, not even that a connection has closed, both wait: torch by itself, for a day."""
    for host in hosts:
        set_epochs(host.own / "repo", 2000)
    runs = train(hosts, STATIC)
    when_said(runs[0], "epoch 5/2000")
    hosts[0].unplug()
    end = time.monotonic() + 60
    for run in runs:
        assert_ended_in_one_line(run, end - time.monotonic())


def test_a_machine_with_other_inputs_is_refused(hosts):
    """A machine whose folder is out of date takes part, and the outputs are of neither's inputs."""
    write_params(hosts[1].own / "repo", rows__vit_digits__lr_scale=2.0)
    runs = train(hosts, STATIC)
    assert_ended_in_one_line(runs[0], 120)
    assert runs[1].wait(60) == 1
    assert "error: b has other code, parameters or inputs than the machine of process 0" in runs[1].said()
