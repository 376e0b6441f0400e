"""A model's answers for many images: the only forward pass that isn't a training step."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitscale.base.progress import progress
from vitscale.models.store import Classifier
from vitscale.runtime.device import Compute


@torch.no_grad()
def predict(
    model: Classifier,
    images: np.ndarray | Sequence[np.ndarray],
    compute: Compute,
    batch_size: int | None = None,
) -> Tensor:
    """Return a model's logits (n, classes), float32 on the CPU, in evaluation mode, at its own image size.

    `images` are a split's, uint8 (n, h, w, 3), or its features (n, d), or a list of uint8 images (h, w, 3) of
    any sizes.
    """
    model.to(compute.device).eval()
    preprocessing, logits = model.config.preprocessing, []
    batch_size = batch_size or compute.scoring_batch(preprocessing.image_size)
    starts = range(0, len(images), batch_size)
    for start in progress(starts, len(starts), "scoring"):
        part = images[start : start + batch_size]
        if isinstance(part, np.ndarray):
            fitted = preprocessing.fitted(torch.from_numpy(part.copy()).to(compute.device))
        else:
            fitted = preprocessing.stacked(part).to(compute.device)
        with compute.autocast():
            logits.append(model(preprocessing.to_input(fitted)).float().cpu())
    return torch.cat(logits)
