"""From pixels to a model's input."""

import pytest
import torch
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.functional import resize as resize_by_torchvision

from vitscale.models.preprocessing import Preprocessing, resize


def test_to_input():
    """Channels are mixed up, values aren't standardised, or images don't come at the size that is asked for."""
    grey = torch.tensor([51.0, 102.0, 255.0]).expand(2, 5, 5, 3)
    for size in (5, 3, 8):
        wanted = Preprocessing(
            image_size=size, interpolation="bilinear", mean=[0.1, 0.4, 0.5], std=[0.5, 0.25, 0.1]
        )
        found = wanted.to_input(grey)
        assert wanted.to_input(grey, 7).shape == (2, 3, 7, 7)
        assert found.shape == (2, 3, size, size)
        assert torch.allclose(
            found, torch.tensor([0.2, 0.0, 5.0]).view(1, 3, 1, 1).expand_as(found), atol=1e-5
        )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 24, 64])
def test_resize_is_torchvisions(size, interpolation):
    """Images are resized otherwise than by torchvision's own antialiased resize."""
    images = torch.rand(2, 3, 32, 32)
    wanted = resize_by_torchvision(images, [size, size], InterpolationMode(interpolation), antialias=True)
    assert torch.allclose(resize(images, size, interpolation), wanted, atol=1e-6)
    assert resize(images, 32, interpolation) is images
