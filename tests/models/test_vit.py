"""The ViT against Hugging Face's with the same weights, its positions and its regularisation."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import resize as resize_by_torchvision
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from made import build, count_macs
from networks import VIT, images, randomised
from tiny import ROOT
from vitscale.base.config import read_yaml
from vitscale.models.store import ModelConfig, count_parameters
from vitscale.models.vit import Block, sincos_positions


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
