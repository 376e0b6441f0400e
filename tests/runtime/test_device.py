"""Which device computes, with how many threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainings import CPU
from vitscale.base.errors import UserError
from vitscale.runtime import device


@pytest.fixture
def settings_kept():
    """Put torch's global settings back, which device.setup changes."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", "1e1", " ", "²"])
def test_setup_refuses_a_thread_count(threads, monkeypatch, settings_kept):
    """A thread count that is no positive number is passed over, or ends in a traceback."""
    monkeypatch.setenv("VITSCALE_THREADS", threads)
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    with pytest.raises(UserError, match="VITSCALE_THREADS") as caught:
        device.setup()
    assert "1 or more" in str(caught.value)


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "cpu:-3", "1x"])
def test_setup_refuses_a_device(name, monkeypatch, settings_kept):
    """A device that isn't there ends in a traceback, or in a training on another one."""
    monkeypatch.delenv("VITSCALE_THREADS", raising=False)
    monkeypatch.setenv("VITSCALE_DEVICE", name)
    with pytest.raises(UserError, match=f"VITSCALE_DEVICE={name}") as caught:
        device.setup()
    assert "cpu, cuda" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_setup(monkeypatch, settings_kept):
    """The environment's threads and device aren't taken, or non-deterministic algorithms stay allowed."""
    monkeypatch.setenv("VITSCALE_THREADS", "1")
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    assert (
        device.setup() == CPU
        and torch.get_num_threads() == 1
        and torch.are_deterministic_algorithms_enabled()
    )
    monkeypatch.delenv("VITSCALE_THREADS")
    monkeypatch.delenv("VITSCALE_DEVICE")
    assert device.setup().device.type == ("cuda" if torch.cuda.is_available() else "cpu")


CLAIM = """
import sys, tempfile, types
import torch
from vitscale.runtime import device
tempfile.tempdir = sys.argv[1]
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_properties = lambda index: types.SimpleNamespace(uuid=f"gpu-{index}")
print(device.claim_cuda(), device.claim_cuda(), flush=True)
sys.stdin.read()  # stays, however long the others take to start
"""


def test_each_process_claims_a_cuda_device_of_its_own(tmp_path):
    """Two workers train on one GPU while another idles, or a killed worker's GPU stays claimed."""
    processes = []

    def claim() -> str:
        """Return what a new process, which stays, is given when it asks and when it asks again."""
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", CLAIM, str(tmp_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(Path(device.__file__).parents[2])},
            )
        )
        return processes[-1].stdout.readline().strip()

    try:
        assert [claim() for _ in range(3)] == [
            "cuda:0 cuda:0",
            "cuda:1 cuda:1",
            "cuda:0 cuda:0",
        ]  # the third shares
        processes[1].kill()
        processes[1].wait()
        assert claim() == "cuda:1 cuda:1"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
