"""The hybrid: a ViT whose patches are the positions that convolutions leave."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from made import build, save_model
from networks import VIT, images, randomised
from vitscale.base.errors import UserError
from vitscale.base.limits import vit_fault
from vitscale.models.looks import Looks
from vitscale.models.store import load_model
from vitscale.models.vit import convolutional_stem

HYBRID = VIT | {"patch_size": 4, "pool": "mean", "positions": "sincos", "stem_channels": [8, 16, 24]}


@torch.no_grad()
def test_a_stem_equals_its_formula():
    """Catches a stem that halves otherwise, leaves out a norm or a shortcut, or has them in another order."""
    stem = randomised(HYBRID).eval().backbone.stem
    functional = nn.functional

    def norm(inputs, layer):
        values = layer.running_mean, layer.running_var, layer.weight, layer.bias
        return functional.batch_norm(inputs, *values, eps=1e-5)

    wanted = images()
    for i in (0, 2, 4):
        down, block = stem[i], stem[i + 1]
        halved = functional.conv2d(wanted, down[0].weight, stride=1 if i == 0 else 2, padding=1)
        wanted = norm(halved, down[1]).relu()
        inner = norm(functional.conv2d(wanted, block.conv1.weight, padding=1), block.bn1).relu()
        wanted = (wanted + norm(functional.conv2d(inner, block.conv2.weight, padding=1), block.bn2)).relu()
    assert wanted.shape == (4, 24, 8, 8)
    assert torch.allclose(stem(images()), wanted, rtol=0, atol=1e-4 * float(wanted.std()))


@torch.no_grad()
def test_what_a_stem_leaves_are_the_patches():
    """Catches positions of the stem's map that reach the blocks in another order than their places'."""
    hybrid = randomised(HYBRID).eval()
    same = build(HYBRID | {"stem_channels": []} | {"image_size": 8, "patch_size": 1}).eval()
    backbone = same.backbone
    backbone.patch_embedding = hybrid.backbone.patch_embedding
    backbone.blocks, backbone.norm, same.head = hybrid.backbone.blocks, hybrid.backbone.norm, hybrid.head
    seen = hybrid.backbone.stem(images())
    tokens = backbone.patch_embedding(seen.flatten(2).transpose(1, 2)) + backbone.positions
    wanted = same.head(backbone.norm(backbone.blocks(tokens)).mean(1))
    assert torch.allclose(hybrid(images()), wanted, atol=1e-5)
    assert hybrid(images(size=16)).shape == (4, 7)


@torch.no_grad()
def test_a_new_block_of_the_stem_changes_nothing():
    """Catches a stem whose residual blocks start as noise, not as the identity (Goyal et al. 2017)."""
    stem = convolutional_stem([8, 8]).train()
    stem = stem[2:]
    halved = stem[0](torch.randn(4, 8, 32, 32))
    assert torch.equal(stem[1](halved), halved)


def test_a_vit_without_a_stem_draws_the_same_weights():
    """Catches a stem's code that takes random numbers, or a place in the state, where there is no stem."""
    plain = {name: value for name, value in HYBRID.items() if name != "stem_channels"}
    states = []
    for config in (plain, plain | {"stem_channels": []}):
        torch.manual_seed(3)
        states.append(build(config).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_hybrid_is_stored_and_loaded(tmp_path):
    """Catches a stem that config.json or its tensors don't bring back."""
    hybrid = randomised(HYBRID).eval()
    save_model(tmp_path, HYBRID, hybrid.state_dict())
    loaded = load_model(tmp_path).eval()
    assert torch.equal(loaded(images()), hybrid(images()))
    assert list(asdict(loaded.config.architecture)["stem_channels"]) == [8, 16, 24]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ([], "stem_channels is \\[\\], its weights have \\[8, 16, 24\\]"),
        ([8, 16, 32], "stem_channels is \\[8, 16, 32\\], its weights have \\[8, 16, 24\\]"),
        ([16], "1 stem_channels make patches of 1, not 4"),
        ([8, 16, 24, 24], "4 stem_channels make patches of 8, not 4"),
        (
            [8, 16, 0],
            "stem_channels is \\[8, 16, 0\\], not a list of at most 13 whole numbers from 1 to 16384",
        ),
        ([8, True, 24], "not a list of at most 13 whole numbers"),
        ("16", "not a list of at most 13 whole numbers"),
        ([16384] * 14, "not a list of at most 13 whole numbers"),
    ],
    ids=["none", "other", "short", "long", "zero", "bool", "text", "many"],
)
def test_a_config_that_its_weights_belie_is_refused(tmp_path, stored, said):
    """Catches a config.json whose stem isn't the weights' and that is believed, or ends in a traceback."""
    save_model(tmp_path, HYBRID, randomised(HYBRID).state_dict())
    content = json.loads((tmp_path / "config.json").read_text()) | {"stem_channels": stored}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        load_model(tmp_path)


def test_a_stem_counts_among_the_parameters():
    """Catches a stem so large that it takes all memory, which the limit on parameters passed over."""
    kept = {"image_size": 32, "patch_size": 4, "dim": 64, "depth": 1, "mlp_dim": 64}
    assert not vit_fault(**kept, stem_channels=[32, 64, 64])
    assert "with stem_channels [16384, 16384, 16384]," in vit_fault(
        **kept, stem_channels=[16384, 16384, 16384]
    )


def test_looks_of_a_hybrid():
    """Catches a map of where a hybrid looks that isn't of its patches."""
    logits, looks = Looks(randomised(HYBRID).eval())(images())
    assert logits.shape == (4, 7) and looks.shape == (4, 1, 8, 8)
