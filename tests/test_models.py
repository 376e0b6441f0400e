"""The models against Hugging Face's ViT and torchvision's ResNet-18 with the same weights, and their files."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18 as torchvision_resnet18
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.functional import resize as resize_by_torchvision
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from made import build, count_macs, save_model
from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.models.preprocessing import Preprocessing, resize
from vitscale.models.store import Classifier, ModelConfig, count_parameters, load_model
from vitscale.models.vit import Block, sincos_positions

ROOT = Path(__file__).parents[1]
VIT = {
    "architecture": "vit",
    "image_size": 32,
    "patch_size": 8,
    "dim": 48,
    "depth": 3,
    "heads": 4,
    "mlp_dim": 80,
    "pool": "class",
    "positions": "learned",
    "dropout": 0.1,
    "stochastic_depth": 0.2,
    "classes": list("abcdefg"),
    "interpolation": "bilinear",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.25],
}
RESNET = {
    "architecture": "resnet18",
    "image_size": 32,
    "stem": "imagenet",
    "classes": list("0123456789"),
    "interpolation": "bilinear",
    "mean": None,
    "std": None,
}


def randomised(config: dict, seed: int = 0) -> Classifier:
    """Return the model with every parameter and buffer random, so that none hides behind a 0 or a 1."""
    model = build(config)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=draws)
                value.copy_(
                    1 + noise.abs()
                    if name.endswith("running_var")
                    else noise / value[0].numel() ** 0.5
                    if value.ndim > 1
                    else 0.5 + 0.3 * noise
                )
    return model


def images(count: int = 4, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(9))


def hugging_face_config(config: dict) -> ViTConfig:
    return ViTConfig(
        hidden_size=config["dim"],
        num_hidden_layers=config["depth"],
        num_attention_heads=config["heads"],
        intermediate_size=config["mlp_dim"],
        hidden_act="gelu",
        hidden_dropout_prob=config["dropout"],
        layer_norm_eps=1e-6,
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        qkv_bias=True,
        num_labels=len(config["classes"]),
        attn_implementation="eager",
    )


def hugging_face_state(config: dict, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our backbone's weights under the names, and in the shapes, of transformers' ViTModel."""
    p = config["patch_size"]
    theirs = {
        "embeddings.position_embeddings": state["backbone.positions"],
        "embeddings.patch_embeddings.projection.weight": state["backbone.patch_embedding.weight"]
        .view(-1, p, p, 3)
        .permute(0, 3, 1, 2),
        "embeddings.patch_embeddings.projection.bias": state["backbone.patch_embedding.bias"],
        "layernorm.weight": state["backbone.norm.weight"],
        "layernorm.bias": state["backbone.norm.bias"],
    }
    if "backbone.class_token" in state:
        theirs["embeddings.cls_token"] = state["backbone.class_token"]
    for i in range(config["depth"]):
        ours, layer = f"backbone.blocks.{i}", f"layers.{i}"
        for kind in ("weight", "bias"):
            q, k, v = state[f"{ours}.attention.qkv.{kind}"].chunk(3)
            theirs |= {
                f"{layer}.attention.q_proj.{kind}": q,
                f"{layer}.attention.k_proj.{kind}": k,
                f"{layer}.attention.v_proj.{kind}": v,
                f"{layer}.attention.o_proj.{kind}": state[f"{ours}.attention.out.{kind}"],
                f"{layer}.layernorm_before.{kind}": state[f"{ours}.norm1.{kind}"],
                f"{layer}.layernorm_after.{kind}": state[f"{ours}.norm2.{kind}"],
                f"{layer}.mlp.fc1.{kind}": state[f"{ours}.mlp.0.{kind}"],
                f"{layer}.mlp.fc2.{kind}": state[f"{ours}.mlp.2.{kind}"],
            }
    return theirs


@pytest.mark.parametrize(("patch_size", "heads", "dim"), [(8, 4, 48), (4, 1, 32), (16, 3, 48)])
@torch.no_grad()
def test_vit_equals_hugging_faces(patch_size, heads, dim):
    """Our ViT with a class token computes something else than the published architecture."""
    config = VIT | {"patch_size": patch_size, "heads": heads, "dim": dim}
    model = randomised(config).eval()
    state = model.state_dict()
    theirs = ViTForImageClassification(hugging_face_config(config)).eval()
    theirs.load_state_dict(
        {f"vit.{name}": value for name, value in hugging_face_state(config, state).items()}
        | {f"classifier.{kind}": state[f"head.{kind}"] for kind in ("weight", "bias")}
    )
    wanted = theirs(images()).logits
    assert wanted.std() > 0.1
    assert torch.allclose(model(images()), wanted, rtol=0, atol=1e-5)
    assert count_parameters(model) == count_parameters(theirs)


@torch.no_grad()
def test_mean_pooling_equals_hugging_faces_encoder():
    """With pool "mean" the features aren't the mean of the encoder's normed tokens, without a class token."""
    config = VIT | {"pool": "mean"}
    model = randomised(config).eval()
    state = model.state_dict()
    theirs = ViTModel(hugging_face_config(config), add_pooling_layer=False).eval()
    weights = hugging_face_state(config, state)
    token = torch.zeros(
        1, 1, config["dim"]
    )  # transformers always has a class token: cut it off before the encoder
    theirs.load_state_dict(
        weights
        | {
            "embeddings.cls_token": token,
            "embeddings.position_embeddings": torch.cat(
                [token, weights["embeddings.position_embeddings"]], 1
            ),
        }
    )
    embed = theirs.embeddings.forward
    theirs.embeddings.forward = lambda *args, **kwargs: embed(*args, **kwargs)[:, 1:]
    hidden = theirs(images()).last_hidden_state
    assert hidden.shape == (4, 16, 48)
    assert torch.allclose(model.backbone(images()), hidden.mean(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("classes", [10, 100])
def test_vit_of_params_yaml_is_small(classes):
    """The study's ViT has outgrown the 1.25M parameters that the project speaks of."""
    config = ModelConfig.untrained(read_yaml(ROOT / "params.yaml")["models"]["vit"]).to_json()
    assert 1e5 < count_parameters(build(config | {"classes": ["a class"] * classes})) <= 1.25e6


@pytest.mark.parametrize(("grid", "dim"), [(2, 8), (8, 128)])
def test_sincos_positions(grid, dim):
    """Two patches share a position, or a position isn't made of the sines and cosines of its column and its row."""
    positions = sincos_positions(grid, dim)
    assert positions.shape == (grid**2, dim) and positions.dtype == torch.float32
    assert torch.cdist(positions, positions).fill_diagonal_(9).min() > 0.1
    quarter = dim // 4
    for row in range(grid):
        for column in range(grid):
            found = positions[row * grid + column].double()
            for i in range(quarter):
                frequency = 10_000 ** (-i / quarter)
                angles = torch.tensor([column * frequency, row * frequency], dtype=torch.double)
                wanted = torch.stack([angles[0].sin(), angles[0].cos(), angles[1].sin(), angles[1].cos()])
                assert torch.allclose(found[i::quarter], wanted, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_sincos_positions_in_the_model(pool):
    """Fixed positions are trained, stored, or misplaced by the class token."""
    model = build(VIT | {"positions": "sincos", "pool": pool})
    backbone = model.backbone
    assert "backbone.positions" not in model.state_dict() and "positions" not in dict(
        backbone.named_parameters()
    )
    assert backbone.positions.shape == (1, 16 + (pool == "class"), 48)
    assert torch.equal(backbone.positions[0, -16:], sincos_positions(4, 48))
    if pool == "class":
        assert not backbone.positions[0, 0].any()
    learned = build(VIT | {"pool": pool})
    assert count_parameters(learned) - count_parameters(model) == backbone.positions.numel()


@pytest.mark.parametrize(
    "change",
    [{"dropout": 0.5, "stochastic_depth": 0.0}, {"dropout": 0.0, "stochastic_depth": 0.5}],
    ids=["dropout", "stochastic depth"],
)
@torch.no_grad()
def test_regularisation_acts_in_training_only(change):
    """Dropout or stochastic depth does nothing in training, or makes scores random."""
    model = randomised(VIT | change)
    plain = build(VIT | {"dropout": 0.0, "stochastic_depth": 0.0})
    plain.load_state_dict(model.state_dict())
    x = images()
    assert torch.equal(model.eval()(x), model(x)) and torch.equal(model(x), plain.eval()(x))
    model.train()
    torch.manual_seed(0)
    first = model(x)
    second = model(x)
    torch.manual_seed(0)
    assert not torch.allclose(first, second) and torch.equal(model(x), first)
    plain.train()
    assert torch.equal(plain(x), plain(x))


def test_stochastic_depth_drops_whole_branches_at_its_rate():
    """A branch is dropped for part of an image, at another rate, or its expectation isn't kept."""
    block = Block(8, 2, 16, dropout=0.0, drop_path=0.25)
    branch = torch.ones(20_000, 3, 8)
    torch.manual_seed(0)
    result = block.residual(branch)
    kept = result[:, 0, 0] != 0
    assert torch.allclose(result[kept], torch.tensor(1 / 0.75)) and not result[~kept].any()
    assert abs(kept.float().mean() - 0.75) < 0.02
    assert torch.equal(block.eval().residual(branch), branch)


def test_stochastic_depth_grows_linearly():
    """Blocks don't get the rates 0 to stochastic_depth in equal steps."""
    rates = [block.drop_path for block in build(VIT | {"depth": 5, "stochastic_depth": 0.4}).backbone.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert build(VIT | {"depth": 1}).backbone.blocks[0].drop_path == 0.0


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_imagenet_resnet_equals_torchvisions(training):
    """With the stem "imagenet" our ResNet-18 isn't torchvision's."""
    model = randomised(RESNET).train(training)
    theirs = torchvision_resnet18(num_classes=10).train(training)
    names = {name: name.replace("backbone.", "").replace("head.", "fc.") for name in model.state_dict()}
    theirs.load_state_dict({names[name]: value for name, value in model.state_dict().items()})
    x = images(size=64)
    found, wanted = model(x), theirs(x)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))
    assert count_parameters(model) == count_parameters(theirs)


@torch.no_grad()
def test_cifar_stem():
    """The stem for 32 px shrinks the images, or the network hasn't the usual 11.17M parameters."""
    model = build(RESNET | {"stem": "cifar"}).eval()
    conv = model.backbone.conv1
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (1, 1), None)
    shapes = []
    model.backbone.layer1.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape)))
    assert model(images()).shape == (4, 10) and shapes == [(4, 64, 32, 32)]
    assert count_parameters(model) == 11_173_962
    usual = (2 / (64 * 9)) ** 0.5  # He et al. 2015, fan out
    assert abs(conv.weight.std() / usual - 1) < 0.1


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
    "shape", [{}, {"patch_size": 4, "dim": 32, "heads": 2, "depth": 1, "mlp_dim": 64, "pool": "mean"}]
)
def test_macs_of_the_vit(shape):
    """The printed cost isn't the number of multiply-accumulates that the matrix products of a ViT take."""
    config = VIT | shape
    patches = (config["image_size"] // config["patch_size"]) ** 2
    n, d, m = patches + (config["pool"] == "class"), config["dim"], config["mlp_dim"]
    embedding = patches * 3 * config["patch_size"] ** 2 * d
    block = n * d * 3 * d + 2 * n * n * d + n * d * d + 2 * n * d * m
    assert count_macs(config) == embedding + config["depth"] * block + d * len(config["classes"])


def test_macs_of_resnet18():
    """ResNet-18 doesn't come out at the 1.81G multiply-accumulates that it is known for, at 224 px."""
    assert count_macs(RESNET | {"image_size": 224, "classes": ["a class"] * 1000}) == pytest.approx(
        1.814e9, rel=0.001
    )
    assert count_macs(RESNET | {"stem": "cifar"}) == pytest.approx(0.556e9, rel=0.005)


def test_to_input():
    """Channels are mixed up, values aren't standardised, or images don't come at the size that is asked for."""
    grey = torch.tensor([51.0, 102.0, 255.0]).expand(2, 5, 5, 3)
    for size in (5, 3, 8):
        wanted = Preprocessing(
            image_size=size, interpolation="bilinear", mean=[0.1, 0.4, 0.5], std=[0.5, 0.25, 0.1]
        )
        found = wanted.to_input(grey)
        assert wanted.to_input(grey, 7).shape == (2, 3, 7, 7)
        assert found.shape == (2, 3, size, size)
        assert torch.allclose(
            found, torch.tensor([0.2, 0.0, 5.0]).view(1, 3, 1, 1).expand_as(found), atol=1e-5
        )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 24, 64])
def test_resize_is_torchvisions(size, interpolation):
    """Images are resized otherwise than by torchvision's own antialiased resize."""
    images = torch.rand(2, 3, 32, 32)
    wanted = resize_by_torchvision(images, [size, size], InterpolationMode(interpolation), antialias=True)
    assert torch.allclose(resize(images, size, interpolation), wanted, atol=1e-6)
    assert resize(images, 32, interpolation) is images


@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
@torch.no_grad()
def test_positions_of_a_smaller_image(pool, positions):
    """A smaller image's positions aren't those of the full size, resized as pictures are, the class token's own left alone."""
    model = build(VIT | {"patch_size": 4, "pool": pool, "positions": positions}).backbone.eval()
    full, found = model.positions, model.positions_on(4)
    class_token, patches = (full[:, :1], full[:, 1:]) if pool == "class" else (full[:, :0], full)
    picture = patches.view(1, 8, 8, -1).permute(0, 3, 1, 2)
    wanted = resize_by_torchvision(picture, [4, 4], antialias=True).flatten(2).transpose(1, 2)
    assert torch.allclose(found, torch.cat([class_token, wanted], 1), atol=1e-6)
    assert model.positions_on(8) is full
    assert model(torch.rand(2, 3, 16, 16)).shape == model(torch.rand(2, 3, 48, 48)).shape == (2, VIT["dim"])


def test_small_images_train_the_positions():
    """The interpolated positions don't pass a gradient on, so that training on small images leaves them alone."""
    model = build(VIT | {"pool": "mean"}).backbone.eval()  # dropout would keep some gradients out
    model(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert (model.positions.grad != 0).all()


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
    assert load_model(tmp_path, ["a", "b"])[1]["classes"] == ["a", "b"]
