"""Which files of a repository are fetched, from a stand-in of the hub, and what is said where one can't be had."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification

from hub import COMMIT, Hub, serving, use
from published import LABELS, VIT, VIT_PROCESSOR, publish, publish_timm
from vitscale.base.digests import digest
from vitscale.base.entries import Weights
from vitscale.base.errors import UserError
from vitscale.models.pretrained import fetch

NAME = "google/vit"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving(Hub(tmp_path / "hub")) as hub:
        entry = publish(
            hub.folder, NAME, ViTForImageClassification(ViTConfig(**VIT, **LABELS)), VIT_PROCESSOR
        )
        hub.entry = entry | {"revision": COMMIT, "sha256": None}
        use(monkeypatch, hub, tmp_path / "cache")
        yield hub


def fetched(hub, **changes):
    return fetch("start", Weights(**hub.entry | changes))


def test_one_file_of_weights_is_fetched_and_kept(hub):
    """Both kinds of weights are downloaded, or other files, or a second start downloads them again."""
    folder = hub.folder / NAME
    wanted = digest(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "modeling_own.py").write_text("raise SystemExit\n")
    assert fetched(hub)[2] == wanted
    files = {path.rsplit("/", 1)[-1] for path, _ in hub.sent if "/resolve/" in path}
    assert files == {"config.json", "preprocessor_config.json", "model.safetensors"}
    hub.folder = hub.folder / "gone"
    assert fetched(hub)[2] == wanted


def test_a_pickle_where_there_is_nothing_else(hub):
    """A repository of before safetensors is turned away."""
    folder = hub.folder / NAME
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert fetched(hub)[0].classes == ["crane", "gull", "crane"]


def test_timm_has_one_small_file(hub):
    """A repository of timm's is asked for a file that it never has."""
    publish_timm(hub.folder, "timm/resnet18", "resnet18", num_classes=3)
    assert fetched(hub, name="timm/resnet18")[0].classes == ["0", "1", "2"]
    assert not hub.bytes_of("preprocessor_config.json")


@pytest.mark.parametrize(
    ("changes", "gone", "words"),
    [
        ({"name": "google/nothing"}, None, "the hub has no such repository, or a private one"),
        ({"revision": "0" * 40}, None, f"it has no revision {'0' * 40}"),
        (
            {"name": "google/gated"},
            None,
            "it is gated: accept its terms on https://huggingface.co/google/gated, then",
        ),
        ({}, "config.json", "it has no config.json"),
        ({}, "preprocessor_config.json", "it has no preprocessor_config.json"),
        ({}, "model.safetensors", "it has no model.safetensors"),
    ],
)
def test_what_cant_be_had_is_one_line(hub, changes, gone, words):
    """A name, a revision or a file that isn't there ends in a traceback, or the line doesn't say which."""
    shutil.copytree(hub.folder / NAME, hub.folder / "google/gated")
    hub.gated.add("google/gated")
    if gone:
        (hub.folder / NAME / gone).unlink()
    with pytest.raises(UserError) as caught:
        fetched(hub, **changes)
    name = changes.get("name", NAME)
    assert str(caught.value).startswith(f"weights.start: {name} can't be loaded ({words}")
    assert "VITSCALE_MIRROR" in str(caught.value) and len(str(caught.value).splitlines()) == 1
