"""Marks that skip where what they need is absent, and the tiny pipeline that most proofs run on."""

import os
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported, which reads it then
    os.environ["OMP_NUM_THREADS"] = str(
        max(1, os.cpu_count() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    )

from tiny import PARAMS, hub_entry, run, undisturbed

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(config, items):
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


@pytest.fixture(scope="session")
def hub_mirror(tmp_path_factory):
    """A mirror with a random ViT of 48 px, as the hub serves one, and its entry of `weights`."""
    folder = tmp_path_factory.mktemp("mirror")
    return folder, hub_entry(folder, image_size=48)


@pytest.fixture(scope="session")
def from_the_hub(tmp_path_factory, hub_mirror):
    """The tiny pipeline with a start from the hub, fine-tuned and probed on its features, and a probe on untrained ones."""
    off = {
        "crop_padding": 0,
        "flip": False,
        "trivial_augment": False,
        "erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
    }
    row = PARAMS["rows"]["vit-digits"] | {"lr_scale": 3.0, "epochs": 3}
    probe = row | {"protocol": "linear_probe", "augment": "none", "sizes": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITSCALE_MIRROR", str(hub_mirror[0]))
        return undisturbed(
            tmp_path_factory,
            precision="float32",
            augment=PARAMS["augment"] | {"none": off},
            weights={"hub": hub_mirror[1]},
            features={"hub": {}, "vit-scratch": {}},
            rows={
                "vit-digits": PARAMS["rows"]["vit-digits"],
                "hub": row | {"start": "hub", "sizes": [32, 48]},
                "hub-probe": probe | {"start": "hub", "inputs": "features/hub"},
                "scratch-probe": probe | {"start": "vit-scratch", "inputs": "features/vit-scratch"},
            },
        )
