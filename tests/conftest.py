"""Marks that skip where what they need is absent, and the tiny pipeline that most proofs run on."""

import os
import signal
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported, which reads it then
    os.environ["OMP_NUM_THREADS"] = str(
        max(1, os.cpu_count() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    )

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as a shell's `pytest &` has it: what tests start would never hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before a test imports onnxruntime

import numpy as np

import forked as forking
from tiny import OFF, PARAMS, hub_entry, run, undisturbed
from vitscale.data.arrays import Split, SplitWriter, load_split

# pytest-xdist hands out whole modules in the order of their tests. These take longest and go first: none is left alone at the end.
LONG = [
    "restamp",
    "interrupted",
    "runs_are_kept",
    "pipeline",
    "back_and_forth",
    "graph",
    "report",
    "failed_transfers",
    "sharing",
    "states",
    "added_starts",
    "projects",
    "distributed",
    "export",
    "dvc_yaml",
    "checkpoint",
    "pretrained",
    "taking_away",
]


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: ([f"test_{name}" for name in LONG] + [item.path.stem]).index(item.path.stem))
    mirror = Path(os.environ.get("VITSCALE_MIRROR") or "/nowhere")
    has_mirror = all(
        (mirror / name).is_dir() or (mirror / f"{name}.zip").is_file() for name in ("cifar10", "cifar100")
    )
    for item in items:
        if item.get_closest_marker("mirror") and not has_mirror:
            item.add_marker(pytest.mark.skip(reason="needs cifar10 and cifar100 in VITSCALE_MIRROR"))
        if item.get_closest_marker("cuda"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory):
    """Checkpoints and downloads of the tests' own, no mirror but a test's, and threads that sleep while they wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path_factory.mktemp("checkpoints")))
        patch.setenv("VITSCALE_DOWNLOADS", str(tmp_path_factory.mktemp("downloads")))
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setattr(
            "vitscale.base.endings.begin", lambda goes_on=False: None
        )  # pytest's own output stays pytest's
        for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
            patch.setenv(name, "tests@example.org")
        yield


@pytest.fixture(scope="module", autouse=True)
def undetermined():
    """What a stage's set-up leaves in this process isn't left to the next module: a worker runs them in any order."""
    yield
    if torch := sys.modules.get("torch"):
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """What forks each `python` and `dvc` that finds itself in PATH, once `forked` has put it there."""
    commands, process = forking.start(tmp_path_factory.mktemp("forked"))
    yield commands
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def forked(forks):
    """In this module `python` and `dvc` are forked, in a tenth of the time that a start takes."""
    with pytest.MonkeyPatch.context() as patch:
        forks.put_first(patch)
        yield forks


@pytest.fixture
def started(forked, monkeypatch):
    """In this test they are started all the same: it sends signals to them, or shows that a start does the same."""
    forked.take_out(monkeypatch)


@pytest.fixture(scope="session")
def done(forks, tmp_path_factory):
    """The tiny pipeline, run and committed; tests copy it."""
    folder = undisturbed(tmp_path_factory, forks)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "run", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def hub_mirror(tmp_path_factory):
    """A mirror with a random ViT of 48 px, as the hub serves one, and its entry of `weights`."""
    folder = tmp_path_factory.mktemp("mirror")
    return folder, hub_entry(folder, image_size=48)


@pytest.fixture(scope="session")
def from_the_hub(forks, tmp_path_factory, hub_mirror):
    """The tiny pipeline with a start from the hub, fine-tuned and probed on its features, and a probe on untrained ones."""
    row = PARAMS["rows"]["vit-digits"] | {"lr_scale": 3.0, "epochs": 3}
    probe = row | {"protocol": "linear_probe", "augment": "none", "sizes": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITSCALE_MIRROR", str(hub_mirror[0]))
        return undisturbed(
            tmp_path_factory,
            forks,
            precision="float32",
            augment=PARAMS["augment"] | {"none": OFF},
            weights={"hub": hub_mirror[1]},
            features={"hub": {}, "vit-scratch": {}},
            rows={
                "vit-digits": PARAMS["rows"]["vit-digits"],
                "hub": row | {"start": "hub", "sizes": [32, 48]},
                "hub-probe": probe | {"start": "hub", "inputs": "features/hub"},
                "scratch-probe": probe | {"start": "vit-scratch", "inputs": "features/vit-scratch"},
            },
        )


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    """Return 64 random images of 4 classes, from disk as the stages read them."""
    rng = np.random.default_rng(0)
    writer = SplitWriter(tmp_path_factory.mktemp("split"), 64, 32, list("abcd"))
    writer.add(rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), np.repeat(np.arange(4), 16))
    writer.close()
    return load_split(writer.folder)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"
