"""A ViT's first weights, its rates of dropout, and what of it is calculated in bfloat16."""

import pytest
import torch
from torch import nn

from made import build
from networks import VIT, images, randomised
from vitscale.models import vit
from vitscale.models.vit import Block


def test_first_weights():
    """A new ViT's positions aren't normal with deviation 0.02, its matrices Xavier's, its token, biases and head zero."""
    torch.manual_seed(0)
    model = build(VIT | {"dim": 96, "patch_size": 4, "mlp_dim": 192})
    positions = model.backbone.positions
    assert abs(positions.mean()) < 0.001 and abs(positions.std() - 0.02) < 0.001
    assert not model.backbone.class_token.any() and not model.head.weight.any()
    layers = [module for module in model.backbone.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 1 + 3 * 4
    for layer in layers:
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5  # Glorot & Bengio 2010, equation 16
        assert not layer.bias.any() and 0.98 * bound < layer.weight.abs().max() <= bound
        assert abs(layer.weight.std() / (bound / 3**0.5) - 1) < 0.05
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 7 and all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)
    assert {norm.eps for norm in norms} == {1e-6}


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_dropout_drops_at_its_rate(rate):
    """Values of a branch, or of the first tokens, are dropped at another rate than params.yaml's, or not made up for."""
    torch.manual_seed(0)
    branch = torch.ones(500, 4, 50)
    result = Block(50, 2, 16, dropout=rate, drop_path=0.0).residual(branch)
    assert abs((result == 0).float().mean() - rate) < 0.01
    assert torch.allclose(result[result != 0], torch.tensor(1 / (1 - rate)))
    backbone = randomised(VIT | {"dropout": rate, "depth": 1}).backbone.train()
    plain = randomised(VIT | {"dropout": 0.0, "depth": 1}).backbone
    seen = {}
    for name, model in (("dropped", backbone), ("whole", plain)):
        model.blocks.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
        model(images(64))
    kept = seen["dropped"] != 0
    assert abs(kept.float().mean() - (1 - rate)) < 0.01
    assert torch.allclose(seen["dropped"][kept], seen["whole"][kept] / (1 - rate), rtol=1e-5)


@pytest.mark.parametrize("branch", ["attention", "mlp"])
@pytest.mark.parametrize(
    "change", [{"dropout": 0.5}, {"drop_path": 0.5}], ids=["dropout", "stochastic depth"]
)
@torch.no_grad()
def test_both_branches_are_regularised(branch, change):
    """Dropout or stochastic depth acts on the attention alone, or on the MLP alone."""
    torch.manual_seed(0)
    block = Block(8, 2, 16, **{"dropout": 0.0, "drop_path": 0.0} | change)
    last = block.mlp[2] if branch == "attention" else block.attention.out  # the other branch adds nothing
    nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    tokens = torch.randn(64, 5, 8)
    added = block(tokens) - tokens
    assert 0.4 < (added.abs() < 1e-6).float().mean() < 0.6
    assert (block.eval()(tokens) - tokens).abs().min() > 1e-6


def test_each_image_has_a_stochastic_depth_of_its_own():
    """A branch is dropped for a whole batch at once."""
    torch.manual_seed(0)
    result = Block(8, 2, 16, dropout=0.0, drop_path=0.5).residual(torch.ones(100, 3, 8))
    assert 30 < (result[:, 0, 0] != 0).sum() < 70


@torch.no_grad()
def test_positions_are_interpolated_in_float32():
    """Under bfloat16 the positions of a smaller image are rounded sums of rounded products, on another processor others."""
    model = randomised(VIT | {"patch_size": 4}).backbone.eval()
    wanted = model.positions_on(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.positions_on(4)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)


@torch.no_grad()
def test_tokens_stay_in_the_type_of_the_products():
    """Under bfloat16 a bias or the positions bring the tokens back to float32, at twice the memory and time."""
    model = randomised(VIT).backbone.eval()
    seen = set()
    for module in (*model.blocks, *[m for m in model.modules() if isinstance(m, vit.Linear)]):
        module.register_forward_hook(lambda _, inputs, result: seen.add(result.dtype))
    model.blocks.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(images())
    assert seen == {torch.bfloat16}
