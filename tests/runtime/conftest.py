"""The tiny pipeline for trainings that several processes share."""

import shutil
from pathlib import Path

import pytest

from same import alone
from tiny import write_params


@pytest.fixture
def environment_of_each(tmp_path, monkeypatch):
    """Checkpoints of each test's own, and one thread a process: torchrun's default, which is part of a checkpoint's name."""
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("VITSCALE_THREADS", "1")
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")


@pytest.fixture(scope="module")
def exact(done, forked, tmp_path_factory):
    """The tiny pipeline in float32 and without dropout, which would tell processes apart, up to its untrained weights."""
    folder = shutil.copytree(done, tmp_path_factory.mktemp("exact") / "repo", symlinks=True)
    write_params(folder, precision="float32", models__vit__dropout=0.0)
    alone(folder, "init", "vit")
    return folder


@pytest.fixture
def copies(exact, tmp_path):
    """Return a function that makes a copy of `exact` with some parameters changed."""

    def copy(name: str, **changes) -> Path:
        folder = shutil.copytree(exact, tmp_path / name, symlinks=True)
        write_params(folder, **changes)
        (folder / "timings.csv").unlink(missing_ok=True)
        return folder

    return copy
