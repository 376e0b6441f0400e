"""torchvision's weights, in the very files and formats that it serves."""

import typing

import pytest
import torch
from torchvision.models import get_model_weights, get_weight

from served import fetch, served_by_torchvision
from vitscale.models import pretrained, torchvision_weights
from vitscale.models.store import build
from vitscale.pipeline.schema import TorchvisionName


@pytest.mark.parametrize(
    "name",
    [
        "ResNet18_Weights.IMAGENET1K_V1",
        "ViT_B_16_Weights.IMAGENET1K_V1",
        "ViT_B_32_Weights.IMAGENET1K_V1",
        "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",
    ],
)
@torch.no_grad()
def test_torchvision_weights_at_their_real_size(mirror, name):
    """Our model doesn't give torchvision's logits from torchvision's file, or takes its images otherwise."""
    entry, theirs = served_by_torchvision(mirror, name)
    config, state = fetch("start", entry)
    ours = build(config)
    ours.load_state_dict(state)
    side = 384 if "E2E" in name else 224
    image = torch.randint(256, (2, 3, side, side), dtype=torch.uint8)
    wanted = theirs(get_weight(name).transforms(resize_size=side)(image))
    found = ours.eval()(config.preprocessing.to_input(image.permute(0, 2, 3, 1).float()))
    assert torch.allclose(found, wanted, atol=1e-4 * wanted.abs().max().item())
    epsilons = [{each.eps for each in model.modules() if hasattr(each, "eps")} for model in (ours, theirs)]
    assert epsilons[0] == epsilons[1] and "layer_norm_eps" not in config.to_json()
    assert (
        config.architecture.image_size == side
        and config.classes[:2] == ["tench", "goldfish"]
        and config.interpolation == ("bicubic" if "SWAG" in name else "bilinear")
    )


@pytest.mark.parametrize("name", typing.get_args(TorchvisionName))
def test_all_of_torchvisions_weights_fit(name):
    """Weights that params.yaml may name aren't a model of ours, which only a download of gigabytes would show."""
    config, theirs = torchvision_weights.config_of(name)
    ours = torchvision_weights.our_state(config, dict(theirs.state_dict()))
    assert pretrained.checked(config, ours).classes[0] == "tench"
    assert config["image_size"] == get_weight(name).meta["min_size"][0] or "ResNet" in name
    assert sum(each.numel() for each in theirs.parameters()) == get_weight(name).meta["num_params"]


def test_no_weights_of_torchvision_are_forgotten():
    """torchvision has weights of these architectures that params.yaml may not name."""
    names = ("resnet18", "vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
    found = {f"{type(each).__name__}.{each.name}" for name in names for each in get_model_weights(name)}
    assert found == set(typing.get_args(TorchvisionName))
