"""What a training draws, and what it draws it for: no stream twice, every seed another, the images that were asked for."""

import numpy as np
import pytest
import torch

from made import build
from trainings import LIGHT, OFF, VIT, training_of
from vitscale.data.arrays import Split, stratified
from vitscale.data.augment import generator_for
from vitscale.training import batches, loop
from vitscale.training.batches import on_device


def test_no_two_epochs_augment_alike(split):
    """The n-th batch of every epoch is cropped and flipped alike, so that an image has few looks or one."""
    training = training_of(split, policy=LIGHT, epochs=5)
    firsts = [
        training.batches.batch(np.arange(16), step)[0]
        for step in range(0, 20, training.batches.steps_per_epoch)
    ]
    assert len(firsts) == 5 == len(torch.stack(firsts).unique(dim=0))


def dropped(split, monkeypatch, seed: int, epochs: int) -> list[tuple]:
    """Return the numbers that dropout would draw at the first step of each epoch."""
    training, found = training_of(split, seed=seed, epochs=epochs), []
    monkeypatch.setattr(
        training, "step", lambda *_: found.append(tuple(torch.rand(4).tolist())) or torch.zeros(())
    )
    for epoch in range(epochs):
        training.epoch(epoch)
    return found[:: training.batches.steps_per_epoch]


def test_no_two_epochs_drop_alike(split, monkeypatch):
    """Dropout takes the same values away at the same step of every epoch, or with every seed."""
    first, again, other = (dropped(split, monkeypatch, seed, 5) for seed in (0, 0, 1))
    assert first == again and len(set(first + other)) == 10


def test_no_two_streams_are_one(split, monkeypatch):
    """The order of the images, their augmentation and dropout draw from one stream, or from one again in a later epoch."""
    keys, real = [], generator_for
    for module in (batches, loop):
        monkeypatch.setattr(module, "generator_for", lambda *key: keys.append(key) or real(*key))
    training = training_of(split, policy=LIGHT, epochs=3, seed=4)
    for epoch in range(3):
        training.epoch(epoch)
    assert len(set(keys)) == len(keys) == 3 * (1 + 1 + training.batches.steps_per_epoch)
    assert {key[0] for key in keys} == {4}


def test_the_seed_decides_which_images_and_their_order(split):
    """Every seed trains on the same share of the images, or in the same order."""
    first, other = (training_of(split, fraction=0.5, seed=seed) for seed in (0, 1))
    assert np.array_equal(first.batches.indices, stratified(split.labels, 0.5, 0))
    assert np.array_equal(other.batches.indices, stratified(split.labels, 0.5, 1))
    first, other = (training_of(split, seed=seed).batches.epoch_order(0) for seed in (0, 1))
    assert first.tolist() != other.tolist() and sorted(first) == sorted(other) == list(range(64))


def test_a_small_share_has_whole_batches(split):
    """A share of fewer images than a batch has smaller batches, and so other training than a larger share."""
    training = training_of(split, fraction=1 / 16)
    assert len(training.batches.indices) == 4
    assert (training.batches.batch_size, training.total_steps) == (16, 8)
    assert set(training.batches.epoch_order(0)) == set(training.batches.indices.tolist())


def test_erasing_leaves_the_models_mean(split):
    """An erased box isn't the mean of the model's channels, which is 0 to the model, but grey or another statistic."""
    config = VIT | {"mean": [0.1, 0.4, 0.8], "std": [0.2, 0.3, 0.25]}
    white = Split(np.full((64, 32, 32, 3), 255, np.uint8), split.labels, split.classes)
    images, _ = training_of(white, config, policy=OFF | {"erasing": 1.0}).batches.batch(np.arange(16), 0)
    erased = (images.abs() < 1e-5).all(1).flatten(1).sum(1)
    lit = torch.tensor([(1 - 0.1) / 0.2, (1 - 0.4) / 0.3, (1 - 0.8) / 0.25]).view(1, 3, 1, 1)
    assert (erased > 0).all() and torch.equal(
        erased + ((images - lit).abs() < 1e-4).all(1).flatten(1).sum(1), torch.full((16,), 1024)
    )


def test_features_come_with_their_labels():
    """A probe's features are changed, or held against another one's label."""
    features = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
    split = Split(features, np.arange(32) % 4, list("abcd"))
    training = training_of(split, model=build(VIT).head_alone(), frozen=True, sizes=[])
    chosen = np.array([5, 30, 17, 3])
    found, targets = training.batches.batch(chosen, 3)
    assert torch.equal(found, torch.from_numpy(features[chosen]))
    assert torch.equal(targets, torch.eye(4)[torch.tensor([1, 2, 1, 3])])


@pytest.mark.parametrize("count", [1, 9_999, 10_000, 10_001, 20_003])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_resident_copy_is_whole(count, dtype):
    """The copy on the device has an image that was never written, in another's place, or rounded."""
    images = (np.random.default_rng(0).integers(1, 2**20, (count, 1, 1, 3)) / 7).astype(dtype)
    found = on_device(images, torch.device("cpu"))
    assert found.numpy().dtype == dtype and np.array_equal(found.numpy(), images)


def test_a_resident_batch_is_that_from_the_disk(split):
    """With the images on the device a batch has other images, labels or augmentation."""
    training = training_of(split)
    chosen = np.array([5, 60, 17])
    wanted = training.batches.batch(chosen, 3)
    training.batches.resident = on_device(split.images, torch.device("cpu"))
    for found, each in zip(training.batches.batch(chosen, 3), wanted):
        assert torch.equal(found, each)
