"""Mixup and CutMix: a target is made of the shares that the pixels show."""

import pytest
import torch
from torch import Tensor

from pictures import boxes_of, mix
from vitscale.data import augment as module
from vitscale.data.augment import generator_for


def told_apart(batch: int, size: int = 8) -> tuple[Tensor, Tensor]:
    """Return images whose mean over the pixels is their own target: image i is one in channel i alone."""
    return torch.eye(batch)[:, None, None].repeat(1, size, size, 1), torch.eye(batch)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.3), (0.2, 1.0)])
def test_mixed_targets_are_the_shares_really_kept(mixup, cutmix):
    """A target names another share, or another partner, than the pixels show."""
    images, targets = told_apart(200)
    mixed, mixed_targets = mix(images, targets, mixup, cutmix, generator_for(1, 2))
    assert torch.allclose(mixed.mean((1, 2)), mixed_targets, atol=1e-5)
    assert torch.allclose(mixed_targets.sum(1), torch.ones(200), atol=1e-6) and (mixed_targets >= 0).all()
    changed = (mixed_targets.diagonal() < 1 - 1e-6).float().mean()
    assert changed > 0.5
    for part in told_apart(200):  # and the arguments are as they were
        assert torch.equal(part, images if part.ndim == 4 else targets)


def kinds(mixed: Tensor) -> tuple[Tensor, Tensor]:
    """Return which images are uniform blends (mixup), and which show two unblended images (CutMix)."""
    pure = ((mixed == 0) | (mixed == 1)).flatten(1).all(1)
    uniform = (mixed == mixed[:, :1, :1]).flatten(1).all(1)
    return uniform & ~pure, pure & ~uniform


def test_mixup_blends_whole_images():
    """Mixup pastes instead of blending."""
    blended, pasted = kinds(mix(*told_apart(100), 1.0, 0.0, generator_for(3))[0])
    assert blended.sum() > 90 and not pasted.any()


def test_cutmix_pastes_one_rectangle():
    """CutMix blends instead of pasting, or pastes something else than one rectangle."""
    images, targets = told_apart(100, size=32)
    mixed, _ = mix(images, targets, 0.0, 1.0, generator_for(3))
    blended, pasted = kinds(mixed)
    assert pasted.sum() > 80 and not blended.any()
    foreign = (mixed != images).any(-1)[pasted]
    assert len(set(boxes_of(foreign))) > 50


def test_both_mixes_give_each_image_either():
    """With both on, all images of a batch get the same kind of mix, or some get both."""
    mixed, _ = mix(*told_apart(200), 1.0, 1.0, generator_for(3))
    blended, pasted = kinds(mixed)
    untouched = (mixed == told_apart(200)[0]).flatten(1).all(1)
    assert blended.sum() > 60 and pasted.sum() > 60
    others = ~(blended | pasted | untouched)  # CutMix of the whole image
    assert (mixed[others].flatten(1).sum(1) == 64).all() and others.sum() < 20


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_beta_draws(alpha):
    """Mixing shares don't follow Beta(alpha, alpha): mean 1/2, variance 1 / (4 (2 alpha + 1))."""
    draws = module._beta(alpha, 20_000, generator_for(9))
    assert draws.isfinite().all() and draws.min() >= 0 and draws.max() <= 1
    assert abs(draws.mean() - 0.5) < 0.02 and abs(draws.var() * 4 * (2 * alpha + 1) - 1) < 0.05
