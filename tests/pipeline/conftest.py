"""The wide pipeline, run once, and what its tests change."""

import pickle
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from ruamel.yaml import YAML

from tiny import checkout, run
from wide import committed, wide_params


@pytest.fixture
def commands(forked):
    """The stages that run in this test."""
    forked.new()
    return forked


@pytest.fixture(autouse=True)
def checkpoints(tmp_path, monkeypatch):
    """A folder of each test's own for states, since a finished training's checkpoint serves every workspace."""
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return tmp_path / "checkpoints/vitscale-states"


@pytest.fixture(scope="session")
def wide_mirror(hub_mirror, tmp_path_factory):
    """The hub's ViT, under two names, and 60 pictures in two classes."""
    folder = tmp_path_factory.mktemp("mirrors") / "mirror"
    for name in ("someone", "other"):
        shutil.copytree(hub_mirror[0] / "someone", folder / name)
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)):
        path = (
            folder / "photos" / ("train" if i < 48 else "test") / ("dawn" if i % 2 else "dusk") / f"{i}.png"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels // 2 + i % 2 * 99).save(path)
    return folder


@pytest.fixture(scope="session")
def wide(forks, wide_mirror, hub_mirror, tmp_path_factory):
    """The wide pipeline, run and committed; tests copy it."""
    with pytest.MonkeyPatch.context() as patch:
        forks.put_first(patch)
        patch.setenv("VITSCALE_MIRROR", str(wide_mirror))
        patch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path_factory.mktemp("checkpoints")))
        folder = checkout(tmp_path_factory.mktemp("wide") / "repo")
        params = wide_params(wide_mirror, hub_mirror[1], tmp_path_factory.mktemp("scratch"))
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        run("dvc", "repro", "-q", cwd=folder)
        return committed(folder)


@pytest.fixture
def repo(wide, wide_mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("VITSCALE_MIRROR", str(wide_mirror))
    return shutil.copytree(wide, tmp_path / "repo", symlinks=True)


@pytest.fixture
def copy(done, tmp_path):
    shutil.copytree(done, tmp_path / "repo", symlinks=True)
    return tmp_path / "repo"


@pytest.fixture
def parsed_once(monkeypatch):
    """The same text is parsed once: DVC parses params.yaml anew for every stage, which took three quarters of the time."""
    load, known = YAML.load, {}

    def remembering(self, text):
        key = (str(self.typ), text)
        if key not in known:
            known[key] = pickle.dumps(load(self, text))
        return pickle.loads(known[key])

    monkeypatch.setattr(YAML, "load", remembering)
