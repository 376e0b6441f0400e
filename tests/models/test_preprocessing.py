"""From pixels to a model's input."""

import numpy as np
import pytest
import torch
from PIL import Image
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


def wanting(size: int, interpolation: str) -> Preprocessing:
    return Preprocessing(
        image_size=size, interpolation=interpolation, mean=[0.1, 0.4, 0.5], std=[0.5, 0.25, 0.1]
    )


def edges(size: int = 32) -> torch.Tensor:
    """Return images of noise and of sharp edges, black on white, past which a bicubic curve swings."""
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    noise[2:] = 255 * (noise[2:, ::8, ::8] > 127).repeat(8, 1).repeat(8, 2)
    return torch.from_numpy(noise)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 24, 48])
def test_images_are_fitted_as_pillow_resizes_files(size, interpolation):
    """Scored images are resized by another filter than the model's, or otherwise than an image library resizes files."""
    found = wanting(size, interpolation).fitted(edges())
    assert found.dtype == torch.float32 and found.shape == (4, size, size, 3)
    assert torch.equal(found, found.round()) and found.min() >= 0 and found.max() <= 255
    way = Image.Resampling[interpolation.upper()]
    for image, ours in zip(edges(), found):
        theirs = np.asarray(Image.fromarray(image.numpy()).resize((size, size), way)).astype(int)
        assert np.abs(ours.numpy() - theirs).max() <= 1 and (ours.numpy() != theirs).mean() < 0.01


def test_images_of_the_models_size_and_features_are_left_alone():
    """An image that fits, or a feature, is changed on its way into the model."""
    assert torch.equal(wanting(32, "bicubic").fitted(edges()), edges().float())
    features = torch.randn(3, 7)
    assert torch.equal(wanting(32, "bicubic").fitted(features), features)
    assert wanting(32, "bicubic").to_input(features) is features


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_training_images_are_resized_by_the_models_filter(interpolation):
    """A training at another size resizes by another filter than the model's."""
    found = wanting(32, interpolation).to_input(edges().float(), 16)
    way = InterpolationMode(interpolation)
    standardised = (edges() / 255 - torch.tensor([0.1, 0.4, 0.5])) / torch.tensor([0.5, 0.25, 0.1])
    wanted = resize_by_torchvision(standardised.permute(0, 3, 1, 2), [16, 16], way, antialias=True)
    assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_gpu_fits_images_as_a_cpu(interpolation):
    """On a GPU, where images are resized as numbers with a fraction, that isn't rounded, or a value leaves 0..255."""
    fitted = wanting(48, interpolation).fitted
    there = fitted(edges().cuda()).cpu()
    assert torch.equal(there, there.round()) and there.min() >= 0 and there.max() <= 255
    assert (there - fitted(edges())).abs().max() <= 1
