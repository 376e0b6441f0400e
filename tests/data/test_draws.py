"""How often and how far augmentation changes an image: the distributions of what it draws."""

import math

import pytest
import torch

from pictures import augment, boxes_of, erase, mix, pictures
from splits import OFF
from vitscale.data.augment import generator_for

MEAN = [0.5, 0.4, 0.3]
SEEDS = [
    0,
    7070836379803831727,
    974884141494467354,
    5845003665526839228,
]  # splitmix64 of whole numbers: the same everywhere


def test_a_key_gives_the_stream_that_it_gave():
    """A training's key leads to another stream than when the committed figures were made: they can't be had again."""
    seeds = [generator_for(*key).initial_seed() for key in ((), (0,), (0, 2, 5), (7, 1, 3))]
    assert seeds == SEEDS


def test_erased_boxes_are_as_often_high_as_wide():
    """The aspect ratio isn't uniform in its logarithm from 0.3 to 3.3, which has its middle at 1."""
    images = torch.full((6000, 64, 64, 1), 200.0)
    mask = (erase(images, 1.0, torch.zeros(1), generator_for(2)) == 0).all(-1)
    logarithms = [math.log(height / width) for _, _, height, width in boxes_of(mask)]
    assert abs(sum(logarithms) / 6000 - (math.log(0.3) + math.log(3.3)) / 2) < 0.03


def test_the_policy_says_how_often_to_erase():
    """Images are erased as often as some other policy says."""
    images = torch.full((2000, 8, 8, 3), 200, dtype=torch.uint8)
    for probability in (0.1, 0.7):
        policy = OFF | {"erasing": probability}
        result, _ = augment(images, torch.zeros(2000).long(), 2, policy, MEAN, generator_for(4))
        assert abs((result != 200).flatten(1).any(1).float().mean() - probability) < 0.04


def test_erasing_comes_after_the_operations():
    """An erased box is turned, inverted or brightened by TrivialAugment, so that it isn't the mean colour."""
    images = pictures(12)
    policy = OFF | {"trivial_augment": True, "erasing": 1.0}
    result, _ = augment(images, torch.zeros(len(images)).long(), 2, policy, MEAN, generator_for(1))
    mean = 255 * torch.tensor(MEAN)
    assert ((result - mean).abs() < 1e-3).all(-1).flatten(1).any(1).all()


def shares(mixup: float, cutmix: float, count: int = 40_000) -> torch.Tensor:
    """Return how much of each image is its own after a mix, by its target, for images that are another's partner."""
    images, targets = torch.zeros(count, 16, 16, 1), torch.zeros(count, 2)
    targets[: count // 2, 0] = targets[count // 2 :, 1] = 1
    _, mixed = mix(images, targets, mixup, cutmix, generator_for(6))
    own = (mixed * targets).sum(1)
    return own[own < 1]  # half of the partners are of the other half; the rest look unmixed


def test_cutmix_cuts_out_a_uniform_area():
    """With alpha 1 the area of the box isn't uniform from 0 to 1 (Yun et al. 2019): its side, say, or cut down to pixels."""
    kept = shares(0.0, 1.0)
    assert abs(kept.mean() - 0.5) < 0.008 and abs(kept.var() - 1 / 12) < 0.004


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_each_mix_has_its_own_alpha(kind):
    """Mixup draws by CutMix's alpha, CutMix by mixup's, or either by 1."""
    for alpha in (0.3, 4.0):
        kept = shares(alpha, 0.0) if kind == "mixup" else shares(0.0, alpha)
        assert kept.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_the_policys_alphas_reach_the_mix():
    """A policy's mixup is CutMix, or one of the two alone is left out."""
    images = 255 * torch.eye(64)[:, :3].to(torch.uint8)[:, None, None].repeat(1, 8, 8, 1)
    images[3:] = torch.arange(61).to(torch.uint8)[:, None, None, None]
    for name in ("mixup", "cutmix"):
        policy = OFF | {name: 1.0}
        result, targets = augment(images, torch.arange(64), 64, policy, MEAN, generator_for(2))
        uniform = (result == result[:, :1, :1]).flatten(1).all(1)
        assert uniform.all() == (name == "mixup")
        assert (targets.diagonal() < 1).sum() > 40


def test_half_of_the_images_get_either_mix():
    """With both on CutMix comes more often than mixup, or the other way round."""
    images = torch.rand(4000, 32, 32, 1, generator=generator_for(0))
    mixed, _ = mix(images, torch.eye(2)[torch.arange(4000) % 2], 1.0, 1.0, generator_for(5))
    blended = (mixed != images).flatten(1).all(1)  # and where a box is the whole image
    assert 0.46 < blended.float().mean() < 0.56


def test_partners_are_drawn_anew():
    """An image is mixed with the same other one in each batch."""
    partners = set()
    for step in range(30):
        _, targets = mix(torch.zeros(16, 2, 2, 1), torch.eye(16), 1.0, 0.0, generator_for(step))
        partners |= set(targets[0].nonzero().flatten().tolist())
    assert len(partners) > 10
