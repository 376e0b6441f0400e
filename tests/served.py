"""Weights and images as torchvision, the hub and a mirror serve them."""

from pathlib import Path

import torch
from torchvision.models import get_model, get_weight

from vitscale.base.digests import digest
from vitscale.base.entries import Weights
from vitscale.models.pretrained import fetch as fetch_entry
from vitscale.models.store import ModelConfig


def fetch(key: str, entry: dict) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Return config and state of a start, without the digest of its files."""
    return fetch_entry(key, Weights(**entry))[:2]


def served_by_torchvision(mirror: Path, name: str) -> tuple[dict, torch.nn.Module]:
    """Save a random model under the name and in the format of torchvision's own file; return its entry and the model."""
    torch.manual_seed(0)
    size = {"image_size": get_weight(name).meta["min_size"][0]} if name.startswith("ViT") else {}
    model = get_model(name.split("_Weights")[0], **size)
    with torch.no_grad():
        for key, value in model.state_dict().items():  # none hides behind a 0 or a 1
            if value.is_floating_point():
                value.copy_(
                    1 + torch.rand_like(value) if "running_var" in key else 0.05 * torch.randn_like(value)
                )
    state = dict(model.state_dict())
    if name.startswith("ViT"):  # torchvision's file is older than its code, which renames these as it loads
        for key in [key for key in state if ".mlp." in key]:
            state[key.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2")] = state.pop(key)
    path = mirror / get_weight(name).url.rsplit("/", 1)[-1]
    torch.save(state, path)
    return {
        "source": "torchvision",
        "name": name,
        "sha256": digest(path)[:8],
        "data": "imagenet1k",
        "license": "BSD-3-Clause",
    }, model.eval()
