"""Models as files, and models as they are built."""

import json
from pathlib import Path

import pytest
import torch

from made import build, save_model
from networks import RESNET, VIT, images, randomised
from vitscale.base.errors import UserError
from vitscale.models.store import load_model


def test_a_new_head_is_zero_and_no_classes_means_no_head():
    """A new head answers before it was trained, or a backbone without head has one."""
    for config in (VIT, RESNET):
        model = build(config)
        assert not model.head.weight.any() and not model.head.bias.any()
        bare = build(config | {"classes": []})
        assert not [name for name in bare.state_dict() if name.startswith("head")]
        assert bare.eval()(images(2)).shape == (2, 48 if config is VIT else 512)


def test_build_depends_on_the_global_seed_alone():
    """The same seed gives other initial weights, or another seed gives the same ones."""
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(torch.cat([value.flatten() for value in build(VIT).state_dict().values()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    "config",
    [VIT, VIT | {"positions": "sincos", "pool": "mean"}, RESNET, RESNET | {"classes": []}],
    ids=["vit", "vit sincos mean", "resnet18", "resnet18 without head"],
)
@torch.no_grad()
def test_save_and_load(config, tmp_path):
    """A stored model comes back changed, or the same weights give other bytes."""
    model = randomised(config)
    for name in ("first", "second"):
        save_model(tmp_path / name, config, model.state_dict())
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    loaded = load_model(tmp_path / "first")
    assert list(loaded.config.to_json().items()) == list(config.items())
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(
        torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before
    )
    assert torch.equal(loaded.eval()(images()), model.eval()(images()))


@pytest.mark.parametrize(
    "config", [VIT, VIT | {"classes": []}, RESNET], ids=["vit", "vit without head", "resnet18"]
)
def test_load_with_a_new_head(config, tmp_path):
    """A start's old head leaks into the fine-tuning, or its backbone doesn't arrive."""
    model = randomised(config)
    save_model(tmp_path, config, model.state_dict())
    for classes in (list("xyz"), config["classes"]):
        loaded = load_model(tmp_path, classes)
        assert loaded.config.to_json() == config | {"classes": classes}
        for name, value in loaded.state_dict().items():
            if name.startswith("head."):
                assert len(value) == len(classes) and not value.any()
            else:
                assert torch.equal(value, model.state_dict()[name])


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change(**values):
    """Return a function that puts values into a folder's config.json; None takes the key out."""

    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(
            json.dumps({name: value for name, value in config.items() if value is not None})
        )

    return apply


DAMAGES = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights cut short": cut,
    "empty weights": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "weights of noise": lambda folder: (folder / "model.safetensors").write_bytes(bytes(range(256)) * 9),
    "weights that are text": lambda folder: (folder / "model.safetensors").write_text("not found"),
    "config cut short": lambda folder: (folder / "config.json").write_text('{"architecture": "vit", '),
    "config that isn't text": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
    "config that is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "config that is empty": lambda folder: (folder / "config.json").write_text("{}"),
    "other width": change(dim=64),
    "other depth": change(depth=2),
    "deeper": change(depth=4),
    "other pooling": change(pool="mean"),
    "other positions": change(positions="sincos"),
    "other image size": change(image_size=16),
    "other patch size": change(patch_size=4),
    "another architecture": change(architecture="resnet18"),
    "an architecture that isn't there": change(architecture="vgg"),
    "a key too many": change(colour="blue"),
    "a key too few": change(heads=None),
    "no architecture": change(architecture=None),
}


@pytest.mark.parametrize("classes", [None, ["x", "y", "z"]])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_named(damage, classes, tmp_path):
    """A damaged model is loaded all the same, or ends in a traceback instead of one line that names the folder."""
    folder = tmp_path / "some-model"
    save_model(folder, VIT, randomised(VIT).state_dict())
    damage(folder)
    with pytest.raises(UserError, match="some-model") as caught:
        load_model(folder, classes)
    assert len(str(caught.value).splitlines()) == 1


def test_other_classes_than_the_weights_have(tmp_path):
    """A config with another number of classes than the stored head goes unnoticed when the head is wanted."""
    save_model(tmp_path, VIT, build(VIT).state_dict())
    change(classes=list("abcdefgh"))(tmp_path)
    with pytest.raises(UserError, match=str(tmp_path)):
        load_model(tmp_path)
    assert load_model(tmp_path, ["a", "b"]).config.classes == ["a", "b"]
