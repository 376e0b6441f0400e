"""Crops, flips and erasing, and that a batch depends on its seed and step alone."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from pictures import MEAN, POLICIES, STRONG, augment, boxes_of, erase, pictures
from tiny import OFF
from vitscale.data.augment import crop, generator_for


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_equals_torchvision(padding):
    """A window is off by a pixel, rows and columns are swapped, or the padding isn't zero."""
    window = 2 * padding + 1
    top, left = (
        offsets.flatten()
        for offsets in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    )
    images = torch.randint(256, (window**2, 32, 32, 3), dtype=torch.uint8, generator=generator_for(0))
    for image, y, x, ours in zip(images, top.tolist(), left.tolist(), crop(images, top, left, padding)):
        padded = F.pad(image.permute(2, 0, 1), [padding] * 4, fill=0)
        assert torch.equal(ours.permute(2, 0, 1), F.crop(padded, y, x, 32, 32))


def test_augment_crops_and_flips_as_torchvision_would():
    """The drawn offsets and flips aren't applied to the images that they were drawn for."""
    images = torch.randint(256, (300, 32, 32, 3), dtype=torch.uint8, generator=generator_for(0))
    result, _ = augment(
        images, torch.zeros(300).long(), 2, OFF | {"crop_padding": 4, "flip": True}, MEAN, generator_for(7, 8)
    )
    same = generator_for(7, 8)
    top, left = torch.randint(9, (2, 300), generator=same).tolist()
    flipped = torch.randint(2, (300,), generator=same, dtype=torch.bool).tolist()
    for image, y, x, flip, ours in zip(images, top, left, flipped, result):
        theirs = F.crop(F.pad(image.permute(2, 0, 1), [4] * 4), y, x, 32, 32)
        theirs = F.horizontal_flip(theirs) if flip else theirs
        assert torch.equal(ours, theirs.permute(1, 2, 0).float())
    assert (
        set(top) == set(left) == set(range(9)) and len(set(zip(top, left))) > 50
    )  # each image its own window
    assert 100 < sum(flipped) < 200


def test_erase_boxes():
    """Erased boxes leave the paper's limits (2 to 33% of the area, aspect 0.3 to 3.3) or don't use all of them."""
    fill = torch.tensor([10.0, 20.0, 30.0])
    images = torch.full((2000, 32, 32, 3), 200.0)
    result = erase(images, 1.0, fill, generator_for(2))
    mask = (result == fill).all(-1)
    assert torch.equal(result[~mask], images[~mask])  # a pixel is either filled in all channels or untouched
    boxes = boxes_of(mask)
    for _, _, height, width in boxes:  # sides are rounded to whole pixels
        assert (height + 0.5) * (width + 0.5) >= 0.02 * 1024 and (height - 0.5) * (width - 0.5) <= 0.33 * 1024
        assert (height + 0.5) / max(width - 0.5, 0.1) >= 0.3 and (height - 0.5) / (width + 0.5) <= 3.3
    areas = [height * width / 1024 for _, _, height, width in boxes]
    ratios = [height / width for _, _, height, width in boxes]
    assert min(areas) < 0.03 and max(areas) > 0.31 and 0.16 < sum(areas) / 2000 < 0.19
    assert (
        min(ratios) < 0.36
        and max(ratios) > 2.8
        and abs(sum(math.log(ratio) for ratio in ratios)) / 2000 < 0.05
    )
    assert {top for top, *_ in boxes} >= set(range(20)) and {box[1] for box in boxes} >= set(range(20))
    assert max(top + height for top, _, height, _ in boxes if height < 20) == 32
    assert max(left + width for _, left, _, width in boxes if width < 20) == 32


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.25, 200, 300), (1.0, 1000, 1000)])
def test_erase_probability(probability, low, high):
    """Images are erased more or less often than params.yaml says."""
    images = torch.full((1000, 8, 8, 3), 200.0)
    result = erase(images, probability, torch.zeros(3), generator_for(2))
    assert low <= int((result != images).flatten(1).any(1).sum()) <= high
    assert images.eq(200).all()


def test_augment_erases_to_the_channel_mean():
    """The erased box isn't the data set's mean colour, in the images' own range 0..255."""
    images = torch.full((4, 32, 32, 3), 200, dtype=torch.uint8)
    result, _ = augment(images, torch.zeros(4).long(), 2, OFF | {"erasing": 1.0}, MEAN, generator_for(0))
    colours = result.reshape(-1, 3).unique(dim=0)  # sorted
    assert torch.allclose(colours, torch.tensor([[127.5, 102.0, 76.5], [200.0, 200.0, 200.0]]))


def test_mixing_off_is_off():
    """alpha 0 still mixes."""
    images = pictures()
    labels = torch.arange(len(images)) % 5
    result, targets = augment(images, labels, 5, OFF, MEAN, generator_for(0))
    assert torch.equal(targets, torch.eye(5)[labels]) and torch.equal(result, images.float())


def test_everything_off_returns_the_images():
    """A policy without any augmentation changes a pixel, a target, a shape or a type."""
    images = torch.randint(256, (16, 32, 32, 3), dtype=torch.uint8, generator=generator_for(0))
    result, targets = augment(images, torch.arange(16) % 3, 3, OFF, MEAN, generator_for(0))
    assert result.dtype == torch.float32 and torch.equal(result, images.float())
    assert torch.equal(targets, torch.nn.functional.one_hot(torch.arange(16) % 3, 3).float())


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    images = torch.randint(256, (size, 32, 32, 3), dtype=torch.uint8, generator=generator_for(0))
    return images, torch.arange(size) % 10


@pytest.mark.parametrize("policy", POLICIES, ids=[*OFF, "strong"])
def test_augment_depends_on_seed_and_step_alone(policy):
    """A repeated step gives other images (not reproducible), or another step or seed gives the same ones."""
    images, labels = batch()
    torch.manual_seed(0)
    first, first_targets = augment(images, labels, 10, policy, MEAN, generator_for(0, 2, 5))
    torch.manual_seed(1)  # the global state must not matter
    again, again_targets = augment(images, labels, 10, policy, MEAN, generator_for(0, 2, 5))
    assert torch.equal(first, again) and torch.equal(first_targets, again_targets)
    for key in ((0, 2, 6), (1, 2, 5)):
        assert not torch.equal(first, augment(images, labels, 10, policy, MEAN, generator_for(*key))[0])


@pytest.mark.parametrize("policy", POLICIES, ids=[*OFF, "strong"])
def test_each_slot_has_its_own_draws(policy):
    """All images of a batch get the same crop, flip, operation, box or share."""
    images, labels = batch()
    images = images[:1].expand(64, -1, -1, -1).contiguous()
    if policy["mixup"] or policy["cutmix"]:
        images = batch()[0]
        _, targets = augment(images, labels, 10, policy, MEAN, generator_for(1))
        distinct = len(targets.amax(1).unique())
    else:
        result, _ = augment(images, labels, 10, policy, MEAN, generator_for(1))
        distinct = len(result.flatten(1).unique(dim=0))
    assert distinct >= (2 if policy == OFF | {"flip": True} else 10)


@pytest.mark.parametrize("policy", [OFF, *POLICIES], ids=["off", *OFF, "strong"])
def test_the_input_is_left_alone(policy):
    """Augmentation writes into the resident data set, so that it wears out over the epochs."""
    images, labels = batch()
    before, labels_before = images.clone(), labels.clone()
    result, targets = augment(images, labels, 10, policy, MEAN, generator_for(1))
    result.zero_(), targets.zero_()
    assert torch.equal(images, before) and torch.equal(labels, labels_before)


def test_strong_policy_stays_in_range():
    """Images leave 0..255 or targets don't sum to one, under all augmentations at once."""
    images, labels = pictures(20), torch.arange(len(pictures(20))) % 10
    for step in range(20):
        result, targets = augment(images, labels, 10, STRONG, MEAN, generator_for(0, step))
        assert result.shape == (len(images), 32, 32, 3) and result.isfinite().all()
        assert result.min() >= 0 and result.max() <= 255 + 1e-3
        assert (targets.sum(1) - 1).abs().max() < 1e-6 and targets.shape == (len(images), 10)


def test_a_batch_of_one():
    """A last batch or a data set of one image breaks a batched operation."""
    images, labels = batch(1)
    for step in range(40):
        result, targets = augment(images, labels, 10, STRONG, MEAN, generator_for(0, step))
        assert result.shape == (1, 32, 32, 3) and torch.allclose(targets, torch.eye(10)[:1])


def test_generator_for_depends_on_every_number():
    """Two of a training's random streams are one and the same, or not reproducible."""
    keys = [
        (),
        (0,),
        (1,),
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (0, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (2**63 - 1, 1),
        (2**62, 1),
    ]
    keys += [(seed, 2, step) for seed in range(10) for step in range(100)]
    draws = {key: tuple(torch.randint(2**62, (2,), generator=generator_for(*key)).tolist()) for key in keys}
    assert len(set(draws.values())) == len(set(keys))
    assert all(generator_for(*key).initial_seed() == generator_for(*key).initial_seed() for key in keys)
    assert torch.equal(
        torch.rand(5, generator=generator_for(0, 1)), torch.rand(5, generator=generator_for(0, 1))
    )
    assert not torch.equal(
        torch.rand(5, generator=generator_for(0, 1)), torch.rand(5, generator=generator_for(1, 0))
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("policy", POLICIES, ids=[*OFF, "strong"])
def test_cuda_gives_the_same_batch(policy):
    """A (seed, step) gives another batch on a GPU: other draws, or an operation that calculates differently there."""
    images, labels = batch(256)
    here, here_targets = augment(images, labels, 10, policy, MEAN, generator_for(0, 1))
    there, there_targets = augment(images.cuda(), labels.cuda(), 10, policy, MEAN, generator_for(0, 1))
    assert there.device.type == "cuda" and torch.allclose(there_targets.cpu(), here_targets, atol=1e-6)
    difference = (there.cpu() - here).abs()  # by a level where rounding decides, by more where nearest does
    assert (difference > 1e-2).float().mean() < 0.005 and (difference > 1.01).float().mean() < 0.001
