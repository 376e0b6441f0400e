"""A model's answers for a whole split."""

import torch
from torch import Tensor, nn

from vitscale.arrays import Split
from vitscale.compute import autocast
from vitscale.models import resize, to_input
from vitscale.progress import progress


@torch.no_grad()
def predict(model: nn.Module, config: dict, split: Split, precision: str, device: torch.device,
            batch_size: int | None = None) -> Tensor:
    """Return the logits (n, classes), float32 on the CPU, of a model in evaluation mode, at its own image size."""
    model.eval()
    logits, size = [], config["image_size"]
    batch_size = batch_size or max(1, min(500, 600_000 // size**2))  # few large images at a time: caches are small
    starts = range(0, len(split), batch_size)
    for start in progress(starts, len(starts), "scoring"):
        images = torch.from_numpy(split.images[start:start + batch_size].copy()).to(device)
        with autocast(precision, device):
            logits.append(model(to_input(fitted(images, config), config, size)).float().cpu())
    return torch.cat(logits)


def fitted(images: Tensor, config: dict) -> Tensor:
    """Return uint8 images (b, h, w, 3) at the model's size, as whole numbers: as an image library resizes a file.

    Training, where rounding would cost time and change nothing that counts, resizes without it.
    """
    size = config["image_size"]
    if images.ndim == 2 or images.shape[1:3] == (size, size):
        return images.float()
    channels_first = images.permute(0, 3, 1, 2)
    resized = resize(channels_first if images.device.type == "cpu" else channels_first.float(), size, config["interpolation"])
    return resized.float().round().clamp(0, 255).permute(0, 2, 3, 1)
