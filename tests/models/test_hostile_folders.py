"""Folders of models that others made, given to the stage and to `vitscale inspect-weights`."""

import shutil

import pytest
import yaml

from fuzz_folders import published
from hostile import folders, run, tree
from tiny import PARAMS
from vitscale.base.digests import digest

CASES = 100


@pytest.fixture(scope="module")
def cases():
    return list(folders(published(), CASES).items())


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("number", range(CASES))
def test_a_hostile_folder(done, cases, tmp_path, number):
    """It ends in a traceback, a hang, much memory, or a start that is half there."""
    name, files = cases[number]
    folder, mirror = shutil.copytree(done, tmp_path / "repo", symlinks=True), tmp_path / "mirror"
    (mirror / "a/model").mkdir(parents=True)
    for file, content in files.items():
        (mirror / "a/model" / file).write_bytes(content)
    entry = {"source": "huggingface", "name": "a/model", "revision": "0" * 40, "hub_sha256": None, "sha256": digest(mirror / "a/model"), "data": "x", "license": "x"}  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"weights": {"hub": entry}}))
    places, before = {"VITSCALE_MIRROR": str(mirror), "PYTHONPATH": str(folder / "src")}, tree(folder)
    run("python", "-m", "vitscale", "inspect-weights", "a/model", cwd=folder, **places)
    assert tree(folder) == before, name
    ran = run("python", "stages/weights.py", "hub", cwd=folder, **places)
    assert not ran.returncode or tree(folder) == before, name
    assert (folder / "models/start/hub").exists() == (ran.returncode == 0), name
