"""The ViT with torch's fused attention and bias, as on a GPU: the same values and gradients as the CPU's way."""

import pytest
import torch

from networks import VIT, images, randomised
from tiny import PIPELINES, ROOT
from vitscale.base.config import read_yaml
from vitscale.models import vit

PUBLISHED = {"deit_tiny at 224 px": (192, 3, 197), "ViT-B/16 at 224 px": (768, 12, 197)}


def shapes() -> dict[str, tuple[int, int, int]]:
    """Return (dim, heads, tokens) of each ViT of a params.yaml at each size it is trained at, and of published ones."""
    found = dict(PUBLISHED)
    for folder in PIPELINES:
        params = read_yaml(ROOT / folder / "params.yaml")
        sizes = {
            size for kind in ("pretrain", "rows") for each in params[kind].values() for size in each["sizes"]
        }
        for model in params["models"].values():
            if model["architecture"] == "vit":
                for size in sizes | {model["image_size"]}:
                    if size % model["patch_size"] == 0 and size <= model["image_size"]:
                        tokens = (size // model["patch_size"]) ** 2 + (model["pool"] == "class")
                        name = f"dim {model['dim']}, {model['heads']} heads, {tokens} tokens"
                        found[name] = (model["dim"], model["heads"], tokens)
    return found


SHAPES = shapes()


@pytest.fixture
def fused(monkeypatch):
    """Return a function after which a ViT goes the GPU's way, on this CPU."""
    return lambda: monkeypatch.setattr(vit, "has_fused_kernels", lambda tensor: True)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_both_ways_are_the_same_attention(fused, name):
    """On a GPU attention has another scale, mixes heads, or passes on other gradients than on a CPU."""
    dim, heads, tokens = SHAPES[name]
    torch.manual_seed(0)
    block, inputs = vit.Block(dim, heads, 2 * dim, 0.0, 0.0), torch.randn(2, tokens, dim)
    results = []
    for _ in range(2):
        block.zero_grad()
        leaf = inputs.clone().requires_grad_()
        outputs = block(leaf)
        (outputs * torch.linspace(-1, 1, dim)).sum().backward()
        results.append([outputs.detach(), leaf.grad, *(each.grad.clone() for each in block.parameters())])
        fused()
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=2e-5 * float(ours.abs().max()))
        assert ours.any()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_both_ways_are_the_same_model(fused, dtype):
    """A whole ViT answers otherwise the GPU's way, or leaves the type of the products there."""
    model, kinds = randomised(VIT).eval(), set()
    model.backbone.blocks.register_forward_hook(lambda _, inputs, result: kinds.add(result.dtype))
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        ours = model(images()).float()
        fused()
        theirs = model(images()).float()
    tolerance = {None: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.01}[dtype]
    assert torch.allclose(ours, theirs, atol=tolerance * float(ours.abs().max()))
    assert kinds == {dtype or torch.float32} and not torch.equal(ours, theirs)


def test_both_ways_compile_whole(fused):
    """torch.compile can't trace which way is taken, so that a recipe with `compile` ends in an error."""
    model, kinds = randomised(VIT | {"depth": 1}).eval(), []

    def counting(graph, inputs):
        kinds.append({str(node.target) for node in graph.graph.nodes if node.op == "call_function"})
        return graph.forward

    for _ in range(2):
        torch._dynamo.reset()
        torch.compile(model, fullgraph=True, dynamic=False, backend=counting)(images())
        fused()
    has_attention = [any("scaled_dot_product_attention" in each for each in calls) for calls in kinds]
    assert has_attention == [False, True]


def test_devices_choose_their_way():
    """A CPU takes the GPU's way, which rounds otherwise than all committed trainings, or a GPU the CPU's."""
    cpu = torch.empty(1)
    assert not vit.has_fused_kernels(cpu) and vit.has_fused_kernels(torch.empty(1, device="meta"))
