"""`vitscale inspect-weights`: against a stand-in of the hub, a mirror, and torchvision's names."""

import json
import os
import re
import shutil
import struct
import subprocess

import pytest
import torch
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher, ViTConfig, ViTModel

from hub import COMMIT, Hub, serving, use
from published import DEIT_PROCESSOR, LABELS, VIT, VIT_PROCESSOR, change_json, publish, publish_timm
from tiny import ROOT, hub_entry, tiny
from vitscale.base.config import parse_yaml
from vitscale.base.digests import digest
from vitscale.base.files import write_json
from vitscale.commands.main import main
from vitscale.models.checkpoints import shapes

WIDE = VIT | {"hidden_size": 128}  # so that the file is larger than what is asked for to read its header
NAME = "google/vit-in21k"


BAD = (
    "some/gated",
    "some/empty",
    "some/sharded",
    "some/swin",
    "some/lies",
    "some/broad",
    "some/many",
    "some/large",
)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """A good repository, and one for each way in which another is bad."""
    folder = tmp_path_factory.mktemp("repositories")
    publish(folder, NAME, ViTModel(ViTConfig(**WIDE)), VIT_PROCESSOR)
    publish(folder, BAD[0], ViTModel(ViTConfig(**VIT)), VIT_PROCESSOR)
    for name in BAD[1:]:
        shutil.copytree(folder / BAD[0], folder / name)
    (folder / "some/empty/config.json").unlink()
    (folder / "some/sharded/model.safetensors").rename(folder / "some/sharded/model-1-of-2.safetensors")
    change_json(folder / "some/swin/config.json", model_type="swin")
    (folder / "some/lies/model.safetensors").write_bytes(struct.pack("<Q", 10**12))
    header = json.dumps(
        {"classifier.weight": {"dtype": "F32", "shape": [10**30, 16], "data_offsets": [0, 4]}}
    )
    (folder / "some/broad/model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    path = folder / "some/many/model.safetensors"
    state = {
        name: {"dtype": "F32", "shape": [*each.shape], "data_offsets": [0, 4]}
        for name, each in shapes(path).items()
    }
    for name, shape in (("weight", [10**12, 16]), ("bias", [10**12])):
        state[f"classifier.{name}"] = state["layernorm.bias"] | {"shape": shape}
    path.write_bytes(struct.pack("<Q", len(json.dumps(state))) + json.dumps(state).encode())
    (folder / "some/large/config.json").write_bytes(b" " * (2**24 + 1))
    return folder


@pytest.fixture
def hub(repositories, tmp_path):
    shutil.copytree(repositories, tmp_path / "repositories")
    with serving(Hub(tmp_path / "repositories")) as hub:
        hub.cards[NAME] = {"license": "apache-2.0", "datasets": ["imagenet-21k"]}
        hub.gated.add("some/gated")
        yield hub


def inspected(tmp_path, name, url="http://127.0.0.1:9", **environment) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key != "VITSCALE_MIRROR"}
    home = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        ["python", "-m", "vitscale", "inspect-weights", name],
        env=kept | home | environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )


def entry_in(result) -> tuple[str, dict]:
    """Return the name and the content of the entry that was printed."""
    assert result.returncode == 0, result.stderr
    [(name, entry)] = parse_yaml(f"weights:\n{result.stdout}".encode(), "stdout")["weights"].items()
    return name, entry


def test_of_the_hub_no_weights_are_fetched(hub, tmp_path):
    """The weights are downloaded for their names and shapes alone, or the entry isn't what the hub has."""
    result = inspected(tmp_path, NAME, hub.url)
    assert entry_in(result) == (
        "vit-in21k",
        {
            "source": "huggingface",
            "name": NAME,
            "revision": COMMIT,
            "hub_sha256": None,
            "sha256": None,
            "data": "imagenet-21k",
            "license": "apache-2.0",
        },
    )
    assert "fits: ViT, 0.2M parameters, 32 px, no head" in result.stdout
    size = (hub.folder / NAME / "model.safetensors").stat().st_size
    assert 0 < hub.bytes_of("model.safetensors") <= 100_001 < size


def test_a_pasted_entry_works_at_once(hub, tmp_path):
    """The entry has to be mended before the stage runs, or the stage finds another model than was told."""
    name, entry = entry_in(inspected(tmp_path, f"{NAME}@{COMMIT}", hub.url))
    folder, size = (
        tiny(tmp_path / "repo", weights={name: entry}),
        (hub.folder / NAME / "config.json").stat().st_size,
    )
    kept = {key: value for key, value in os.environ.items() if key != "VITSCALE_MIRROR"}
    result = subprocess.run(
        ["python", "stages/weights.py", name],
        cwd=folder,
        env=kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    start = json.loads((folder / f"models/start/{name}/config.json").read_text())
    assert (start["dim"], start["classes"]) == (128, [])
    assert (hub.bytes_of("pytorch_model.bin"), hub.bytes_of("config.json")) == (
        0,
        size,
    )  # once, then from the cache
    found = json.loads((folder / f"models/start/{name}/origin.json").read_text())
    assert found == {"sha256": digest(hub.folder / NAME)}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("someone/nothing", "the hub has no such repository"),
        (f"{NAME}@v2", "it has no revision v2"),
        (
            "some/gated",
            "it is gated: accept its terms on https://huggingface.co/some/gated, then `hf auth login`",
        ),
        ("some/empty", "has no config.json"),
        ("some/sharded", "has neither model.safetensors nor pytorch_model.bin"),
        ("some/swin", "has model_type swin"),
        ("some/lies", "can't be looked at .*header is too big"),
        ("some/broad", "has classifier.weight of a shape|doesn't|other tensors"),
        ("some/many", "has a head of 1000000000000 classes"),
        ("some/large", "has a config.json of 16777217 bytes"),
        ("vit", "is the name of neither"),
        ("ViT_B_16_Weights.DEFAULT", "none of torchvision's weights that our models can express: ResNet18_W"),
    ],
)
def test_what_doesnt_fit_or_cant_be_had_is_one_line(hub, tmp_path, monkeypatch, capsys, name, words):
    """A name that leads to no model of ours ends in a traceback, or the line doesn't say why."""
    use(monkeypatch, hub, tmp_path / "cache")
    with pytest.raises(SystemExit) as ended:
        main(["inspect-weights", name])
    lines = str(ended.value.code).splitlines()
    assert len(lines) == 1 and not capsys.readouterr().out
    assert re.search(f"^error: {re.escape(name.split('@')[0])} .*({words})", lines[0]), lines[0]
    assert hub.bytes_of("config.json") < 2**24


def test_without_network(tmp_path):
    """Without network it ends in a traceback."""
    result = inspected(tmp_path, NAME, HF_HUB_OFFLINE="1")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert re.search(
        f"^error: {NAME} can't be looked at .*VITSCALE_MIRROR to a folder that has {NAME}/", result.stderr
    )


def test_a_pickle_is_judged_by_its_config(hub, tmp_path):
    """A pickle is fetched for its shapes, or what isn't known of it is told as if it were."""
    folder = hub.folder / NAME
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    result = inspected(tmp_path, NAME, hub.url)
    assert entry_in(result)[1]["revision"] == COMMIT and "by its config alone" in result.stdout
    assert "may fit: ViT, 0.2M parameters, 32 px, no head" in result.stdout
    assert hub.bytes_of("pytorch_model.bin") == 0


def test_kinds_and_cards(hub, tmp_path):
    """A distilled DeiT or timm's model is told as another, or a missing card goes unsaid."""
    teacher = DeiTForImageClassificationWithTeacher(DeiTConfig(**VIT, **LABELS))
    publish(hub.folder, "facebook/deit", teacher, DEIT_PROCESSOR)
    publish_timm(hub.folder, "timm/resnet18.a1_in1k", "resnet18.a1_in1k", num_classes=1200)
    result = inspected(tmp_path, "facebook/deit", hub.url)
    assert (
        entry_in(result)[1]["data"] == "unknown"
        and "doesn't say data and license: fill them in" in result.stdout
    )
    assert "fits: distilled ViT, 0.0M parameters, 32 px, 3 classes" in result.stdout
    result = inspected(tmp_path, "timm/resnet18.a1_in1k", hub.url)
    assert entry_in(result)[0] == "resnet18-a1_in1k"
    assert "fits: ResNet-18, 11.8M parameters, 224 px, 1,200 classes" in result.stdout


def test_a_mirrors_copy(tmp_path):
    """A mirror isn't looked in, or its copy's digest isn't the one that the stage wants."""
    wanted = hub_entry(tmp_path / "mirror")
    mirror = {"VITSCALE_MIRROR": str(tmp_path / "mirror")}
    result = inspected(tmp_path, wanted["name"], **mirror)
    name, entry = entry_in(result)
    assert entry["sha256"] == wanted["sha256"] and entry["revision"] == "0" * 40
    assert "nor the revision" in result.stdout
    folder = tiny(tmp_path / "repo", weights={name: entry})
    stage = ["python", "stages/weights.py", name]
    assert subprocess.run(stage, cwd=folder, env=os.environ | mirror).returncode == 0
    result = inspected(tmp_path, f"{wanted['name']}@{COMMIT}", **mirror)
    assert entry_in(result)[1]["revision"] == COMMIT and "nor the revision" not in result.stdout
    torch.save({"a": torch.ones(2)}, tmp_path / "mirror/someone/tiny-vit/model.safetensors")
    assert "whose header has" in inspected(tmp_path, wanted["name"], **mirror).stderr


@pytest.mark.parametrize(
    ("name", "key", "sha256", "size"),
    [
        ("ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1", "vit_h_14-imagenet1k_swag_e2e_v1", "80465313", "518 px"),
        ("ResNet18_Weights.IMAGENET1K_V1", "resnet18-imagenet1k_v1", "f37072fd", "224 px"),
    ],
)
def test_torchvisions_names(tmp_path, name, key, sha256, size):
    """The digits of torchvision's file are others, or become a number in YAML."""
    result = inspected(tmp_path, name)
    found, entry = entry_in(result)
    assert (found, entry["sha256"], entry["name"]) == (key, sha256, name) and size in result.stdout
    params = parse_yaml((tiny(tmp_path / "repo") / "params.yaml").read_bytes(), "params.yaml")
    write_json(tmp_path / "checked/params.yaml", params | {"weights": {found: entry}})
    check = ["python", "-m", "vitscale", "check", str(tmp_path / "checked")]
    done = subprocess.run(
        check, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
