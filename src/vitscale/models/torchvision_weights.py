"""torchvision's own weights of ResNet-18 and the ViTs, as config and tensors of ours."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitscale.models.hub_config import vit_content
from vitscale.models.hub_names import TORCHVISION_VIT, resnet_state, vit_state
from vitscale.models.vit import VitConfig


def weights_of(name: str) -> Any:
    """Return torchvision's entry of such a name: its `url` and `meta`."""
    from torchvision.models import get_weight

    return get_weight(name)


def config_of(name: str) -> tuple[dict[str, Any], Any]:
    """Return our config.json for weights of torchvision, and torchvision's model on the meta device.

    No weights are needed for it.
    """
    from torchvision.models import get_model

    weights = weights_of(name)
    transform = weights.transforms()
    side = transform.crop_size[0]
    config: dict[str, Any] = {
        "image_size": side,
        "classes": weights.meta["categories"],
        "interpolation": transform.interpolation.value,
        "mean": transform.mean,
        "std": transform.std,
    }
    architecture = name.split("_Weights")[0]
    if architecture == "ResNet18":
        with torch.device("meta"):
            return config | {"architecture": "resnet18", "stem": "imagenet"}, get_model(architecture)
    with torch.device("meta"):
        model = get_model(architecture, image_size=side)
    layers = model.encoder.layers
    config |= vit_content() | {
        "patch_size": model.patch_size,
        "dim": model.hidden_dim,
        "depth": len(layers),
        "heads": layers[0].num_heads,
        "mlp_dim": model.mlp_dim,
    }
    if model.encoder.ln.eps != VitConfig.layer_norm_eps:
        config["layer_norm_eps"] = model.encoder.ln.eps
    return config, model


def read(path: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return our config.json and our tensors for torchvision's file.

    Raises ValueError where it holds another model.
    """
    config, model = config_of(name)
    try:  # `weights_only`: a pickle that could run code is refused
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state, assign=True)  # torchvision knows its older names
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error
    return config, our_state(config, dict(model.state_dict()))


def our_state(config: dict[str, Any], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of torchvision's model as ours; on the meta device they stay there."""
    if config["architecture"] == "resnet18":
        return resnet_state(theirs, "torchvision")
    return vit_state(theirs, TORCHVISION_VIT, "torchvision")
