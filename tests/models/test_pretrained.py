"""Starts from elsewhere, in the very files and formats that torchvision and the hub serve."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification, pipeline

from made import CPU
from served import fetch
from tiny import ROOT, hub_entry, tiny
from vitscale.base.digests import digest
from vitscale.base.errors import UserError
from vitscale.commands.export import to_theirs
from vitscale.models.hub_names import TRANSFORMERS_VIT, vit_names
from vitscale.models.store import build
from vitscale.training.inference import predict

pytestmark = pytest.mark.usefixtures("forked")


DEIT_TINY = {
    "source": "huggingface",
    "name": "facebook/deit-tiny-patch16-224",
    "revision": "b3428f18dcc7b543470d07f14b4a4157815d1880",
    "hub_sha256": None,
    "sha256": None,
    "data": "imagenet1k",
    "license": "Apache-2.0",
}


@torch.no_grad()
def test_hub_weights(mirror):
    """Our model doesn't give transformers' logits from the hub's files, or takes its images otherwise."""
    entry = hub_entry(mirror)
    config, state = fetch("start", entry)
    ours = build(config)
    ours.load_state_dict(state)
    theirs = ViTForImageClassification.from_pretrained(mirror / entry["name"]).eval()
    images = torch.randn(3, 3, 32, 32)
    assert torch.allclose(ours.eval()(images), theirs(images).logits, atol=1e-4)
    assert {
        name: config.to_json()[name] for name in ("interpolation", "mean", "std", "classes", "image_size")
    } == {
        "interpolation": "bicubic",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.25],
        "classes": ["class 0", "class 1", "class 2"],
        "image_size": 32,
    }
    assert list(config.to_json())[-4:] == [
        "classes",
        "interpolation",
        "mean",
        "std",
    ]  # else other bytes, and all reruns
    back = to_theirs(state, vit_names(TRANSFORMERS_VIT, 2), 8)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())


def test_a_pickle_of_the_hub_is_taken_too(mirror):
    """A repository that has only pytorch_model.bin, as older ones do, is turned away."""
    entry = hub_entry(mirror)
    folder = mirror / entry["name"]
    wanted = fetch("start", entry)[1]
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = fetch("start", entry | {"sha256": digest(folder)})[1]
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


class Runs:
    """A pickle of it makes a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("source", ["torchvision", "huggingface"])
def test_no_pickle_runs_code(mirror, tmp_path, source):
    """A checkpoint with code in it has it run."""
    evil = {"a": Runs(tmp_path / "it ran")}
    if source == "torchvision":
        entry = {"source": source, "name": "ResNet18_Weights.IMAGENET1K_V1", "data": "x", "license": "MIT"}
        path = mirror / "resnet18-f37072fd.pth"
    else:
        entry = hub_entry(mirror)
        (mirror / entry["name"] / "model.safetensors").unlink()
        path = mirror / entry["name"] / "pytorch_model.bin"
    torch.save(evil, path)
    with pytest.raises(UserError) as caught:
        fetch("start", entry | {"sha256": digest(path if source == "torchvision" else path.parent)})
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "it ran").exists()


def test_no_code_of_a_repository_is_run(mirror, tmp_path):
    """A repository's own model class is loaded, asked for on the terminal or not."""
    entry = hub_entry(mirror)
    folder = mirror / entry["name"]
    change_json(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.Own", "AutoModelForImageClassification": "own.Own"},
    )
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'it ran')!r})\nclass Own: pass\n")
    code = f"from vitscale.base.entries import Weights; from vitscale.models.pretrained import fetch; fetch('start', Weights(**{entry | {'sha256': None}!r}))"
    pin = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "src", input="y\n", capture_output=True, text=True
    ).stderr.split()[-1]
    result = subprocess.run(
        [sys.executable, "-c", code.replace("'sha256': None", f"'sha256': {pin!r}")],
        cwd=ROOT / "src",
        input="y\n",
        capture_output=True,
        text=True,
    )
    assert "UserError: weights.start: someone/tiny-vit has model_type own" in result.stderr, result.stderr
    assert not (tmp_path / "it ran").exists()


def change_state(folder: Path, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def change_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGES = {
    "a tensor too few": lambda folder: change_state(folder, lambda state: state.pop("classifier.bias")),
    "a tensor too many": lambda folder: change_state(folder, lambda state: state.update(extra=torch.ones(2))),
    "a tensor of another shape": lambda folder: change_state(
        folder, lambda state: state.update({"classifier.bias": torch.ones(5)})
    ),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights cut short": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-50]
    ),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "a config that is none": lambda folder: (folder / "config.json").write_text("{"),
    "no preprocessing": lambda folder: (folder / "preprocessor_config.json").unlink(),
    "another order of channels": lambda folder: change_json(folder / "config.json", num_channels=1),
    "an oblong": lambda folder: change_json(folder / "config.json", image_size=[32, 48]),
    "a width that is a word": lambda folder: change_json(folder / "config.json", hidden_size="x"),
    "another file for its weights": lambda folder: change_json(
        folder / "config.json", transformers_weights="other.safetensors"
    ),
    "classes with a gap": lambda folder: change_json(
        folder / "config.json", id2label={"0": "a", "1": "b", "7": "c"}
    ),
    "no standardising": lambda folder: change_json(folder / "preprocessor_config.json", do_normalize=False),
    "another scale": lambda folder: change_json(folder / "preprocessor_config.json", rescale_factor=0.5),
    "a crop": lambda folder: change_json(folder / "preprocessor_config.json", do_center_crop=True),
    "nearest neighbours": lambda folder: change_json(folder / "preprocessor_config.json", resample=0),
    "another activation": lambda folder: (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_weights_are_one_line(mirror, damage):
    """A checkpoint that isn't whole makes a start all the same, or ends in a traceback."""
    entry = hub_entry(mirror)
    folder = mirror / entry["name"]
    damage(folder)
    with pytest.raises(UserError) as caught:
        fetch("start", entry | {"sha256": digest(folder)})
    assert len(str(caught.value).splitlines()) == 1 and "tiny-vit" in str(caught.value)


@pytest.mark.parametrize(("pin", "words"), [("0" * 64, "found"), (None, "paste")])
def test_another_file_than_the_pinned_one(mirror, pin, words):
    """A mirror's file is taken whatever it is, or the line doesn't say what to paste."""
    entry = hub_entry(mirror)
    with pytest.raises(UserError, match=rf"weights\.start\.sha256.*{words}.*{entry['sha256']}"):
        fetch("start", entry | {"sha256": pin})


NO_NETWORK = {
    "HF_HUB_OFFLINE": "1",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "",
    "NO_PROXY": "",
}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"source": "torchvision", "name": "ResNet18_Weights.IMAGENET1K_V1", "sha256": "f37072fd"},
            "download.pytorch.org.*VITSCALE_MIRROR.* has resnet18-f37072fd.pth$",
        ),
        (
            DEIT_TINY | {"name": "someone/not-there", "revision": "0" * 40},
            "someone/not-there.*VITSCALE_MIRROR.* has someone/not-there/ with config.json.*safetensors$",
        ),
    ],
)
def test_without_network_or_mirror_the_line_says_what_to_fetch(tmp_path, entry, words):
    """A stage that can't fetch its weights ends in a traceback, in many lines, or leaves something behind."""
    folder = tiny(tmp_path / "repo", weights={"start": entry | {"data": "imagenet1k", "license": "x"}})
    environment = (
        {name: value for name, value in os.environ.items() if name != "VITSCALE_MIRROR"}
        | NO_NETWORK
        | {"HF_HOME": str(tmp_path / "hub")}
    )
    result = subprocess.run(
        ["python", "stages/weights.py", "start"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    lines = result.stderr.strip().splitlines()  # a download has one for each address too
    assert result.returncode == 1 and all(line.startswith("error: ") for line in lines), result.stderr
    assert re.search(words, " ".join(lines)) and len(lines) <= 3, result.stderr
    assert not (folder / "models").exists()


@pytest.mark.skipif(
    not (ROOT.parent / "shared/models").is_dir(), reason="needs DeiT-tiny in ../shared/models"
)
@torch.no_grad()
def test_deit_tiny(monkeypatch):
    """DeiT-tiny's near copy doesn't load, or our model doesn't give transformers' probabilities."""
    models = ROOT.parent / "shared/models"
    monkeypatch.setenv("VITSCALE_MIRROR", str(models))
    entry = DEIT_TINY | {"sha256": digest(models / DEIT_TINY["name"])}
    config, state = fetch("deit_tiny-imagenet1k", entry)
    ours = build(config)
    ours.load_state_dict(state)
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (h // 8, w // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        for h, w in ((224, 224), (480, 320), (64, 96))
    ]
    classify = pipeline("image-classification", model=str(models / entry["name"]), device="cpu")
    answers = classify([Image.fromarray(picture) for picture in pictures], top_k=1000)
    theirs = [{each["label"]: each["score"] for each in answer} for answer in answers]
    found, classes = predict(ours, pictures, CPU).softmax(1), config.classes
    unique = [i for i, name in enumerate(classes) if classes.count(name) == 1]
    wanted = torch.tensor([[each[classes[i]] for i in unique] for each in theirs])
    assert (found[:, unique] - wanted).abs().max() < 1e-4
