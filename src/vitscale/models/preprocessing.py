"""What a model wants of its input: resizing and standardising, for training, scoring and files alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


def resize(images: Tensor, size: int, interpolation: str) -> Tensor:
    """Return images (b, c, h, w) as (b, c, size, size), by "bilinear" or "bicubic", with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    return nn.functional.interpolate(images, (size, size), mode=interpolation, antialias=True)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """A model's image side in pixels, how others are resized to it, and the channels' statistics in 0..1."""

    image_size: int
    interpolation: str
    mean: list[float]
    std: list[float]

    def to_input(self, images: Tensor, size: int | None = None) -> Tensor:
        """Return images (b, h, w, 3) in 0..255 as (b, 3, s, s), standardised.

        S is `size`, by default the model's own.

        Features (b, d), a frozen backbone's answers, stay as they are.
        """
        if images.ndim == 2:
            return images
        statistics = 255 * torch.tensor([self.mean, self.std])
        # The host doesn't wait for CUDA; of mps see trivial_augment.to_device.
        mean, std = statistics.to(images.device, non_blocking=images.device.type == "cuda")
        return resize(
            ((images - mean) / std).permute(0, 3, 1, 2), size or self.image_size, self.interpolation
        )

    def fitted(self, images: Tensor) -> Tensor:
        """Return uint8 images (b, h, w, 3) at the model's size, as whole numbers.

        As an image library resizes a file.

        Training, where rounding would cost time and change nothing that counts, resizes without it.
        """
        size = self.image_size
        if images.ndim == 2 or images.shape[1:3] == (size, size):
            return images.float()
        channels_first = images.permute(0, 3, 1, 2)
        exact = channels_first if images.device.type == "cpu" else channels_first.float()
        resized = resize(exact, size, self.interpolation)
        return resized.float().round().clamp(0, 255).permute(0, 2, 3, 1)

    def stacked(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return uint8 images (h, w, 3), each of its own size, `fitted` and in one batch (b, s, s, 3)."""
        return torch.cat([self.fitted(torch.from_numpy(image)[None]) for image in images])
