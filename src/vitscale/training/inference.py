"""A model's answers for many images: the only forward pass that isn't a training step."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitscale.base.progress import progress
from vitscale.models.store import Classifier
from vitscale.runtime import distributed
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
    any sizes. Of several processes that torchrun started each scores a share of them, and all return all.
    """
    model.to(compute.device).eval()
    preprocessing, logits = model.config.preprocessing, torch.empty(0)
    batch_size = batch_size or compute.scoring_batch(preprocessing.image_size)
    share = distributed.share_of(len(images))
    starts = share[::batch_size]
    for start in progress(starts, len(starts), "scoring"):
        part = images[start : min(start + batch_size, share.stop)]
        if isinstance(part, np.ndarray):
            fitted = preprocessing.fitted(torch.from_numpy(part.copy()).to(compute.device))
        else:
            fitted = preprocessing.stacked(part).to(compute.device)
        with compute.autocast():
            found = model(preprocessing.to_input(fitted)).float().cpu()
        if start == share.start:
            # One tensor for all: small ones kept between a pass's large ones split the heap, and it grows.
            logits = torch.empty(len(share), found.shape[1])
        logits[start - share.start :][: len(found)] = found
    return distributed.joined(logits, len(images), compute.device)
