"""Where a model looks, against the definitions computed another way."""

import pytest
import torch

from networks import RESNET, VIT, images, randomised
from vitscale.models.looks import Looks

SEEN = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}
VITS = {
    "class": VIT,
    "mean": VIT | {"pool": "mean", "positions": "sincos"},
    "distilled": VIT | {"distilled": True},
}
RESNETS = {stem: RESNET | SEEN | {"stem": stem, "image_size": 64} for stem in ("imagenet", "cifar")}


def attention_by_hand(block, tokens: torch.Tensor) -> torch.Tensor:
    """Return a block's attention (heads, n, n) for one image's tokens (n, dim), head by head."""
    dim, heads = tokens.shape[1], block.attention.heads
    weight, bias, tokens = block.attention.qkv.weight, block.attention.qkv.bias, block.norm1(tokens)
    size, found = dim // heads, []
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        q, k = (tokens @ weight[i * dim :][rows].T + bias[i * dim :][rows] for i in (0, 1))
        found.append(torch.softmax(q @ k.T / size**0.5, dim=1))
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize("kind", VITS)
def test_rollout_is_that_of_the_paper(kind):
    """Catches blocks multiplied in the wrong order, a forgotten residual, heads mixed up, or another token's row."""
    model = randomised(VITS[kind]).eval()
    logits, looks = Looks(model)(images())
    assert torch.equal(logits, model(images())) and looks.shape == (4, 1, 4, 4)
    given = []
    hooks = [
        block.register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))
        for block in model.backbone.blocks
    ]
    model(images())
    for hook in hooks:
        hook.remove()
    for i in range(4):
        flow = torch.eye(given[0].shape[1])
        for block, tokens in zip(model.backbone.blocks, given):
            mixed = attention_by_hand(block, tokens[i]).mean(0) + torch.eye(len(flow))
            flow = mixed / mixed.sum(1, keepdim=True) @ flow
        wanted = {"class": flow[0, 1:], "mean": flow.mean(0), "distilled": flow[0, 2:]}[kind]
        assert torch.allclose(looks[i].flatten(), wanted, atol=1e-6)
        assert wanted.std() > 1e-3  # patches are told apart


@pytest.mark.parametrize("stem", RESNETS)
def test_grad_cam_is_that_of_the_paper(stem):
    """Catches maps of another class, before the wrong layer, or on another scale than the gradients'."""
    model = randomised(RESNETS[stem]).eval()
    logits, looks = Looks(model)(images(size=64))
    assert torch.equal(logits, model(images(size=64)))
    kept = []
    model.backbone.layer4.register_forward_hook(lambda _, __, features: kept.append(features))
    again = model(images(size=64))
    for number in (0, 3, 9):
        [gradients] = torch.autograd.grad(again[:, number].sum(), kept[0], retain_graph=True)
        wanted = (kept[0] * gradients.mean((2, 3), keepdim=True)).sum(1).relu()
        assert torch.allclose(looks[:, number], wanted, rtol=1e-4, atol=1e-5)
    assert looks.shape == (4, 10, *kept[0].shape[2:]) and looks.min() == 0 < looks.max()


def test_nothing_of_it_stays_with_the_model():
    """Catches hooks that outlive a call: each would make all later ones slower, and keep what they saw."""
    model = randomised(VIT).eval()
    Looks(model)(images())
    assert not any(module._forward_hooks for module in model.modules())
