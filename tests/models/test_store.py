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
    """Return a function that puts values into a folder's config.json; None takes the key out, NULL empties it."""

    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(
            json.dumps(
                {
                    name: None if value is NULL else value
                    for name, value in config.items()
                    if value is not None
                }
            )
        )

    return apply


NULL = object()  # where `change` is to write null


BELIEVED = [
    ("image_size", 0, "a whole number from 1"),
    ("image_size", 32.0, "a whole number from 1"),
    ("patch_size", 5, "a divisor of the image_size 32"),
    ("patch_size", "8", "a whole number from 1"),
    ("patch_size", True, "a whole number from 1"),
    ("dim", -48, "a whole number from 1"),
    ("depth", 3.5, "a whole number from 1"),
    ("depth", 1000, "its weights have 3"),
    ("depth", 10**6, "a whole number from 1 to 1000"),
    ("dim", 8192, "its weights have 48"),
    ("dim", 10**9, "a whole number from 1 to 16384"),
    ("mlp_dim", 65_536, "its weights have 80"),
    ("mlp_dim", 10**6, "a whole number from 1 to 65536"),
    ("image_size", 1024, "its weights have 32"),
    ("image_size", 8 * 10**5, "a whole number from 1 to 4096"),
    ("heads", 0, "a whole number from 1"),
    ("heads", 5, "a divisor of the dim 48"),
    ("heads", [4], "a whole number from 1"),
    ("mlp_dim", None, "missing"),
    ("pool", "x", "one of class, mean"),
    ("pool", ["class"], "one of class, mean"),
    ("positions", "rope", "one of learned, sincos"),
    ("dropout", 1.0, "a number from 0 to below 1"),
    ("dropout", -0.1, "a number from 0 to below 1"),
    ("dropout", float("nan"), "a number from 0 to below 1"),
    ("stochastic_depth", False, "a number from 0 to below 1"),
    ("layer_norm_eps", 0, "a number between 0 and 1"),
    ("layer_norm_eps", float("inf"), "a number between 0 and 1"),
    ("classes", "abcdefg", "a list of at most 1000000 names"),
    ("classes", [*"abcdef", ""], "a list of at most 1000000 names"),
    ("classes", [*"abcdef", 7], "a list of at most 1000000 names"),
    ("interpolation", "nearest", "one of bilinear, bicubic"),
    ("mean", [float("nan"), 0.4, 0.3], "three numbers from 0 to 1"),
    ("mean", [123.7, 116.3, 103.5], "three numbers from 0 to 1"),
    ("mean", [0.5, 0.4], "three numbers from 0 to 1"),
    ("mean", 0.5, "three numbers from 0 to 1"),
    ("std", [0.2, 0, 0.25], "three numbers above 0"),
    ("std", [0.2, -0.3, 0.25], "three numbers above 0"),
    ("std", [0.2, float("inf"), 0.25], "three numbers above 0"),
    ("std", NULL, "given where mean is"),
    ("architecture", ["vit"], "one of vit, resnet18"),
    ("colour", "blue", "no key of a config.json"),
]


@pytest.mark.parametrize(
    ("name", "value", "words"), BELIEVED, ids=lambda each: "null" if each is NULL else repr(each)[:30]
)
def test_no_value_is_believed(name, value, words, tmp_path, monkeypatch):
    """A value that no model can have, or another than the weights', is taken, or first builds what it asks for."""
    save_model(tmp_path, VIT, randomised(VIT).state_dict())
    monkeypatch.setattr("vitscale.models.store.VisionTransformer", lambda config: pytest.fail("it was built"))
    change(**{name: value})(tmp_path)
    with pytest.raises(UserError) as caught:
        load_model(tmp_path)
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path} holds no usable model ({name} is ") and words in line
    assert line.endswith("`dvc checkout` brings outputs back") and len(line) < 300


def test_sizes_that_are_too_large_together_are_refused(tmp_path):
    """A config.json asks for what params.yaml may not: each size is within its limit, the model isn't."""
    save_model(tmp_path, VIT, randomised(VIT).state_dict())
    change(dim=16_384)(tmp_path)
    with pytest.raises(UserError, match="parameters, more than 2500000000"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("stem", "x", "one of cifar, imagenet"),
        ("stem", "cifar", "the config asks for"),
        ("image_size", -1, "1"),
    ],
)
def test_no_value_of_a_resnet_is_believed(name, value, words, tmp_path):
    """A ResNet-18's config.json is taken as it is."""
    save_model(tmp_path, RESNET, randomised(RESNET).state_dict())
    change(**{name: value, "mean": NULL, "std": NULL})(tmp_path)
    with pytest.raises(UserError, match=words):
        load_model(tmp_path)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet18"])
@pytest.mark.parametrize(
    ("change_of", "words"),
    [
        (lambda tensor: tensor.index_fill(0, torch.tensor([0]), float("nan")), "no finite numbers"),
        (lambda tensor: tensor.index_fill(0, torch.tensor([1]), float("inf")), "no finite numbers"),
        (lambda tensor: tensor.half(), "torch.float16.*asks for"),
        (lambda tensor: tensor[:-1], "asks for"),
        (lambda tensor: tensor[None], "asks for"),
    ],
    ids=["nan", "inf", "half", "shorter", "deeper"],
)
def test_no_weight_is_believed(config, change_of, words, tmp_path):
    """Weights that aren't finite numbers, or are rounded to another type, answer all the same."""
    state = randomised(config).state_dict()
    for name in (
        "head.bias",
        next(name for name in state if name.endswith("norm1.bias" if config is VIT else "bn1.bias")),
    ):
        save_model(tmp_path, config, state | {name: change_of(state[name])})
        with pytest.raises(UserError, match=rf"{tmp_path}.*the tensor {name} .*{words}"):
            load_model(tmp_path, ["x", "y"])


def test_other_epsilon_is_kept_and_ours_is_not_written(tmp_path):
    """The epsilon of others' weights is lost on the way through a folder, or a model of ours gets a key more."""
    other = VIT | {"layer_norm_eps": 0.5}
    save_model(tmp_path / "other", other, randomised(other).state_dict())
    save_model(tmp_path / "ours", VIT, randomised(VIT).state_dict())
    loaded = load_model(tmp_path / "other", ["x"])
    assert loaded.config.to_json() == other | {"classes": ["x"]}
    for other_eps, name in ((0.5, "other"), (1e-6, "ours")):
        norms = [m for m in load_model(tmp_path / name).modules() if isinstance(m, torch.nn.LayerNorm)]
        assert len(norms) == 7 and {norm.eps for norm in norms} == {other_eps}
    assert "layer_norm_eps" not in json.loads((tmp_path / "ours/config.json").read_text())


def test_checking_draws_no_random_number(tmp_path):
    """What a training draws after it has loaded its start depends on the checks of the start."""
    for config in (VIT, RESNET):
        save_model(tmp_path, config, randomised(config).state_dict())
        torch.manual_seed(0)
        build(config)
        wanted = torch.rand(3)
        torch.manual_seed(0)
        load_model(tmp_path)
        assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"mean": [0.5, 0.4, 0.3]}',
        '{"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.0, 0.2]}',
        '{"mean": 1, "std": 1}',
    ],
)
def test_no_statistics_are_believed(content, tmp_path):
    """A model is told to divide by a standard deviation of 0, or damaged statistics end in a traceback."""
    config = VIT | {"mean": None, "std": None}
    save_model(tmp_path, config, randomised(config).state_dict())
    (tmp_path / "statistics.json").write_text(content)
    with pytest.raises(UserError, match="statistics.json (has no usable channel statistics|is damaged)"):
        load_model(tmp_path, ["x"], tmp_path)


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
    """A config with another number of classes than the stored head goes unnoticed, even where the head is left behind."""
    save_model(tmp_path, VIT, build(VIT).state_dict())
    change(classes=list("abcdefgh"))(tmp_path)
    for classes in (None, ["a", "b"]):
        with pytest.raises(UserError, match=rf"{tmp_path}.*head\.\w+ .*\(7,.*\(8,"):
            load_model(tmp_path, classes)
