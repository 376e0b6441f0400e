"""Marks that skip where what they need is absent, and the tiny pipeline that most proofs run on."""

import os
import sys
from pathlib import Path

import pytest
from tiny import run, undisturbed

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(config, items):
    mirror = Path(os.environ.get("VITSCALE_MIRROR") or "/nowhere")
    has_mirror = all((mirror / name).is_dir() or (mirror / f"{name}.zip").is_file() for name in ("cifar10", "cifar100"))
    for item in items:
        if item.get_closest_marker("mirror") and not has_mirror:
            item.add_marker(pytest.mark.skip(reason="needs cifar10 and cifar100 in VITSCALE_MIRROR"))
        if item.get_closest_marker("cuda"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory):
    """Checkpoints of the tests' own, no mirror but a test's, and threads that sleep while they wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path_factory.mktemp("checkpoints")))
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
            patch.setenv(name, "tests@example.org")
        yield


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """The tiny pipeline, run and committed; tests copy it."""
    folder = undisturbed(tmp_path_factory)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "run", cwd=folder)
    return folder
