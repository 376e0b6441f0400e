"""Which device computes, with how many threads."""

import os
import subprocess
import sys
from functools import partial
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
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", "1e1", " ", "²", "1025", "9" * 5000])
def test_setup_refuses_a_thread_count(threads, monkeypatch, settings_kept):
    """A thread count that is no positive number is passed over, or ends in a traceback."""
    monkeypatch.setenv("VITSCALE_THREADS", threads)
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    with pytest.raises(UserError, match="VITSCALE_THREADS") as caught:
        device.setup()
    assert "1 to 1024" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["nonsense", "cuda:99", "cpu:-3", "1x", "meta", "xla", "vulkan", "mps:7", "cuda,cpu"]
)
def test_setup_refuses_a_device(name, monkeypatch, settings_kept):
    """A device that isn't there ends in a traceback, or in a training on another one."""
    monkeypatch.delenv("VITSCALE_THREADS", raising=False)
    monkeypatch.setenv("VITSCALE_DEVICE", name)
    with pytest.raises(UserError, match=f"VITSCALE_DEVICE={name}") as caught:
        device.setup()
    assert "cpu, cuda, cuda:1 …, or mps" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_setup(monkeypatch, settings_kept):
    """The environment's threads and device aren't taken, or other algorithms than deterministic ones stay allowed."""
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


TF32 = """
import torch
from vitscale.runtime import device
device.setup()
backends = torch.backends
print([each.fp32_precision for each in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)])
print(backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32)
"""


@pytest.mark.parametrize("override", ["0", "1"], ids=["torch's own", "NVIDIA's containers"])
def test_float32_is_float32(override):
    """Convolutions or matrix products round to TF32, or torch ends in an error where it asks for its older flags."""
    given = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": override, "VITSCALE_DEVICE": "cpu"}
    paths = {"PYTHONPATH": str(Path(device.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", TF32], env=os.environ | given | paths, capture_output=True, text=True
    )
    assert done.stdout == "['none', 'none', 'ieee']\nFalse False\n", done.stderr  # "none" isn't "tf32"


def test_mps_may_be_indeterministic(monkeypatch, settings_kept):
    """On Apple's GPU ResNet-18 with ImageNet's stem ends in an error, at its max pooling's backward pass."""
    monkeypatch.delenv("VITSCALE_THREADS", raising=False)
    found = []
    for name in ("mps", "cpu"):
        monkeypatch.setattr(device, "_device", partial(torch.device, name))
        device.setup()
        found.append(torch.is_deterministic_algorithms_warn_only_enabled())
    assert found == [True, False]


@pytest.mark.parametrize(
    ("named", "gpus", "processes", "rank", "wanted"),
    [
        ("", 0, 1, 0, "cpu"),
        ("", 1, 1, 0, "cuda"),
        ("", 2, 1, 0, "cuda"),
        ("cpu", 2, 1, 0, "cpu"),
        ("cuda", 2, 1, 0, "cuda"),
        ("cuda:1", 2, 1, 0, "cuda:1"),
        ("mps", 0, 1, 0, "mps"),
        ("", 0, 2, 1, "cpu"),
        ("cpu", 1, 2, 1, "cpu"),
        ("", 2, 2, 1, "cuda:1"),
        ("cuda", 4, 2, 1, "cuda:1"),
    ],
)
def test_choice(named, gpus, processes, rank, wanted):
    """A process computes elsewhere than VITSCALE_DEVICE says, or two share a GPU while there are enough."""
    assert device.choice(named, gpus, processes, rank) == wanted


@pytest.mark.parametrize(
    ("named", "gpus", "processes", "way_out"),
    [
        ("cuda:1", 2, 2, "leave it unset"),
        ("mps", 0, 2, "leave it unset"),
        ("", 1, 2, "--nproc-per-node 1"),
        ("cuda", 2, 3, "--nproc-per-node 2"),
        ("cuda", 0, 2, "VITSCALE_DEVICE=cpu"),
    ],
)
def test_processes_that_would_share_a_device(named, gpus, processes, way_out):
    """Several processes wait for each other on one GPU, without an end or in a traceback."""
    for rank in range(processes):
        with pytest.raises(UserError) as caught:
            device.choice(named, gpus, processes, rank)
        [said] = str(caught.value).splitlines()
        assert way_out in said and f"{processes} processes" in said


@pytest.mark.parametrize("named", [None, "", "cuda", "cuda:1"])
def test_a_gpu_is_claimed(named, monkeypatch, settings_kept):
    """A GPU that VITSCALE_DEVICE names isn't claimed, so that the next process takes it as well."""
    monkeypatch.delenv("VITSCALE_THREADS", raising=False)
    monkeypatch.delenv("VITSCALE_DEVICE", raising=False)
    if named is not None:
        monkeypatch.setenv("VITSCALE_DEVICE", named)
    made, asked = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80"])
    monkeypatch.setattr(torch, "ones", lambda *_, device: made.append(device) or torch.tensor(1))
    monkeypatch.setattr(device, "claim", lambda index: asked.append(index) or 1)
    assert device.setup().device == torch.device("cuda:1") and made == [torch.device("cuda:1")]
    assert asked == [1 if named == "cuda:1" else None]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "3000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
    ids=["unset", "a count", "a policy"],
)
@pytest.mark.parametrize("command", ["import vitscale.runtime.device", "import vitscale.__main__"])
def test_waiting_threads_do_not_spin(command, given, wanted, tmp_path):
    """Two trainings on the same cores take each other's time, torch has read the setting before it is made, or a user's goes."""
    (tmp_path / "torch.py").write_text(
        "import os; print(os.environ.get('GOMP_SPINCOUNT'), flush=True); os._exit(0)"
    )
    kept = {name: os.environ[name] for name in os.environ if "GOMP" not in name and "OMP_" not in name}
    paths = {"PYTHONPATH": f"{tmp_path}:{Path(device.__file__).parents[2]}"}
    done = subprocess.run(
        [sys.executable, "-c", f"{command}\nimport torch"],
        env=kept | given | paths,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{wanted}\n", done.stderr


def test_what_computes_is_said_once(monkeypatch, settings_kept, capsys):
    """Nothing says which device computes and in what precision, every seed says it again, or commands say it unasked."""
    device._say_once.cache_clear()
    monkeypatch.setattr(device, "processor_name", lambda: "AMD EPYC 9R14")
    monkeypatch.setattr("vitscale.runtime.precision.has_native_bfloat16", lambda: True)
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    monkeypatch.setenv("VITSCALE_THREADS", "1")
    device.setup("auto")
    assert not capsys.readouterr().out
    for _ in range(2):
        device.setup("auto", aloud=True)
    said = "computing on cpu (AMD EPYC 9R14), bfloat16, 1 thread, 1 process\n"
    assert capsys.readouterr().out == said
    monkeypatch.setattr(device, "PROCESSES", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    said = "computing on cuda:1 (Tesla T4), float16, 4 threads, 2 processes"
    assert device.Compute(torch.device("cuda:1"), "auto").description() == said
