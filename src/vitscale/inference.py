"""A model's answers for a whole split."""

import torch
from torch import Tensor, nn

from vitscale.arrays import Split
from vitscale.compute import autocast
from vitscale.models import to_input
from vitscale.progress import progress


@torch.no_grad()
def predict(model: nn.Module, config: dict, split: Split, precision: str, device: torch.device,
            batch_size: int = 500) -> Tensor:
    """Return the logits (n, classes), float32 on the CPU, of a model in evaluation mode, at its own image size."""
    model.eval()
    logits = []
    starts = range(0, len(split), batch_size)
    for start in progress(starts, len(starts), "scoring"):
        images = torch.from_numpy(split.images[start:start + batch_size].copy()).to(device).float()
        with autocast(precision, device):
            logits.append(model(to_input(images, config, config["image_size"])).float().cpu())
    return torch.cat(logits)
