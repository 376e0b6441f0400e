"""Which files a start was made from: what an entry allows, and what the start notes."""

import json
import runpy
from types import SimpleNamespace

import pytest
import torch

from served import served_by_torchvision
from tiny import ROOT, hub_entry
from vitscale.base.digests import digest
from vitscale.base.entries import Weights
from vitscale.base.errors import UserError
from vitscale.models.pretrained import fetch
from vitscale.models.store import load_model


@pytest.fixture
def hub(mirror, tmp_path, monkeypatch):
    """A hub whose repository has other files than a mirror had; its entry, with the mirror's digest, and its own."""
    entry = hub_entry(tmp_path / "hub")
    folder = tmp_path / "hub" / entry["name"]
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file, **_: str(folder / file))
    return entry | {"sha256": "0" * 64}, digest(folder)


def test_the_hubs_files_are_held_against_their_own_digest(hub):
    """What the hub has at a revision is held against a mirror's digest, or against none, or isn't handed on."""
    entry, found = hub
    for pin in (None, found):
        assert fetch("start", Weights(**entry | {"hub_sha256": pin}))[2] == found
    with pytest.raises(UserError) as caught:
        fetch("start", Weights(**entry | {"hub_sha256": "1" * 64}))
    assert str(caught.value) == (
        f"someone/tiny-vit at {'0' * 40} is not what params.yaml names: weights.start.hub_sha256 is {'1' * 64}, "
        f"found {found}; fetch it again, or mend the key"
    )


def test_a_mirrors_files_are_held_against_the_other_digest(mirror):
    """A mirror's copy is taken for the hub's: another one than the committed figures came from goes unnoticed."""
    entry = hub_entry(mirror)
    found = entry["sha256"]
    assert fetch("start", Weights(**entry | {"hub_sha256": "1" * 64}))[2] == found
    with pytest.raises(UserError, match=r"weights\.start\.sha256 is 1{64}, found " + found):
        fetch("start", Weights(**entry | {"sha256": "1" * 64, "hub_sha256": found}))


def start_of(entry: dict, folder) -> dict:
    """Run the stage's own function; return what it notes."""
    stage = SimpleNamespace(key="start", param={"weights.start": entry}.get, out=lambda path: folder / path)
    runpy.run_path(str(ROOT / "stages/weights.py"))["main"](stage)
    assert load_model(folder / "models/start/start").config.classes
    return json.loads((folder / "models/start/start/origin.json").read_text())


def test_a_start_notes_the_files_it_was_made_from(hub, tmp_path):
    """Nobody can tell which of the two sets of files a start is from, or its note keeps it from being loaded."""
    entry, found = hub
    assert start_of(entry | {"hub_sha256": None}, tmp_path / "out") == {"sha256": found}


def test_a_start_from_torchvision_notes_its_file(mirror, tmp_path):
    """The first digits that pin torchvision's file are all that is noted of it."""
    entry, _ = served_by_torchvision(mirror, "ResNet18_Weights.IMAGENET1K_V1")
    [path] = mirror.glob("resnet18-*.pth")
    assert start_of(entry, tmp_path / "out") == {"sha256": digest(path)}


def test_torchvisions_weights_that_are_no_numbers(mirror):
    """A start is made of weights that aren't finite."""
    entry, model = served_by_torchvision(mirror, "ResNet18_Weights.IMAGENET1K_V1")
    [path] = mirror.glob("resnet18-*.pth")
    state = model.state_dict()
    state["layer2.0.bn1.running_var"][5] = float("nan")
    torch.save(state, path)
    with pytest.raises(UserError, match=r"^weights\.start: ResNet18_.*layer2.0.bn1.running_var.*finite"):
        fetch("start", Weights(**entry | {"sha256": digest(path)}))
