"""The training loop on 64 random images: it learns, does the same again, keeps the best epoch, and names what is wrong."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from made import build
from trainings import ADAMW, CPU, MUON, OFF, RESNET, SGD, VIT, Nowhere, raw, training_of
from vitscale.base.errors import UserError
from vitscale.data.augment import generator_for
from vitscale.runtime.device import Compute
from vitscale.training import loop
from vitscale.training.inference import predict
from vitscale.training.loop import fit
from vitscale.training.optimizers import learning_rate


def test_loss_falls_for_the_vit(split):
    """The ViT can't even learn 64 images by heart."""
    training = training_of(split, epochs=25, lr=1e-2, policy=OFF)
    result = fit(training, split, Nowhere())
    history = result.history
    assert history[0].train_loss > 1.2 and history[-1].train_loss < 0.2 and result.validation_accuracy > 0.95
    assert [each.epoch for each in history] == list(range(1, 26))
    assert history[0].lr == learning_rate(3, 100, 4, 1e-2) and history[-1].lr == learning_rate(
        99, 100, 4, 1e-2
    )


def test_loss_falls_for_resnet18(split):
    """ResNet-18 can't even learn 64 images by heart."""
    result = fit(training_of(split, RESNET, SGD, epochs=6, lr=0.03, policy=OFF), split, Nowhere())
    assert (
        result.history[-1].train_loss < 0.5 < 1.0 < result.history[0].train_loss
        and result.validation_accuracy > 0.4
    )  # statistics lag


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        (VIT | {"dropout": 0.1, "stochastic_depth": 0.2}, ADAMW),
        (VIT, MUON),
        (VIT, SGD | {"ema_decay": 0.9}),
        (RESNET, SGD),
    ],
    ids=["vit adamw", "vit muon", "vit sgd ema", "resnet18 sgd"],
)
def test_twice_the_same(split, config, recipe):
    """The same training gives other weights or figures: it depends on something that its key doesn't hold."""
    results = []
    for noise in (1, 2):
        training = training_of(split, config, recipe)
        torch.manual_seed(noise)
        results.append(fit(training, split, Nowhere()))
    assert raw(results[0].state) == raw(results[1].state) and results[0].history == results[1].history


def test_another_seed_is_another_training(split):
    """The seed changes neither the images' order nor their augmentation."""
    first, second = (fit(training_of(split, seed=seed), split, Nowhere()) for seed in (0, 1))
    assert raw(first.state) != raw(second.state)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("config", [RESNET, VIT | {"dropout": 0.1}], ids=["resnet18", "vit"])
def test_a_probe_leaves_the_backbone_alone(split, config, ema_decay):
    """Linear probing changes the backbone (a weight, or a batch norm's statistics or count), or doesn't train the head."""
    training = training_of(split, config, SGD | {"ema_decay": ema_decay}, lr=0.1, frozen=True)
    with torch.no_grad():
        for name, buffer in training.model.named_buffers():  # as after a pretraining
            buffer.fill_(7813) if "tracked" in name else buffer.add_(
                torch.rand(buffer.shape, generator=generator_for(1))
            )
    if training.average is not None:
        training.average.module.load_state_dict(training.model.state_dict())
    before = raw({name: value.clone() for name, value in training.model.state_dict().items()})
    result = fit(training, split, Nowhere())
    for state in (training.model.state_dict(), result.state):
        after = raw(state)
        assert after.keys() == before.keys()
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {"head.weight", "head.bias"}


def test_frozen_features_are_those_of_evaluation(split):
    """A probe trains on the features of a backbone in training mode: dropout, or the batch's own statistics."""
    training = training_of(split, RESNET, SGD, frozen=True)
    training.epoch(0)
    assert training.model.training and not any(
        module.training for module in training.model.backbone.modules()
    )
    full = training_of(split, RESNET, SGD)
    predict(full.model, split.images, CPU)
    full.train_mode()
    assert all(module.training for module in full.model.modules())


def test_ema_is_the_running_average(split):
    """The average isn't decay * average + (1 - decay) * weights after each step, from the first step's weights on."""
    training = training_of(split, recipe=ADAMW | {"ema_decay": 0.8}, lr=0.01)
    average: dict[str, Tensor] = {}
    training.train_mode()
    for step in range(6):
        training.step(*training.batches.batch(np.arange(16), step), step)
        for name, value in training.model.state_dict().items():
            average[name] = 0.8 * average[name] + 0.2 * value if name in average else value.clone()
    found = training.scored_model().state_dict()
    assert found.keys() == average.keys() and training.scored_model() is not training.model
    for name, value in found.items():
        assert torch.allclose(value, average[name], rtol=1e-4, atol=1e-6), name
        assert not torch.allclose(value, training.model.state_dict()[name], rtol=1e-6, atol=0), name


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_scored_model_is_the_kept_one(split, ema_decay):
    """The weights kept aren't those that the validation accuracy belongs to."""
    training = training_of(split, recipe=ADAMW | {"ema_decay": ema_decay}, lr=0.01, epochs=3)
    result = fit(training, split, Nowhere())
    model = build(VIT)
    model.load_state_dict(result.state)
    logits = predict(model, split.images, CPU)
    assert (logits.argmax(1).numpy() == split.labels).mean() == pytest.approx(result.validation_accuracy)
    assert (
        result.validation_accuracy
        == result.history[result.best_epoch - 1].validation_accuracy
        == max(each.validation_accuracy for each in result.history)
    )
    if ema_decay:
        assert raw(result.state) != raw(training.model.state_dict())


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [([0.25, 0.5, 0.5, 0.25], 2), ([0.5, 0.5], 1), ([0.0, 0.0], 1), ([0.25, 0.5, 0.75], 3)],
)
def test_the_best_epoch_is_the_first_of_the_most_accurate(split, monkeypatch, accuracies, best):
    """Another epoch's weights are kept than those of the first with the greatest validation accuracy."""
    states = []

    def fake(model, images, compute):
        assert images is split.images
        right = int(accuracies[len(states)] * 64)
        states.append(raw(copy.deepcopy(model.state_dict())))
        answers = torch.from_numpy(split.labels).clone()
        answers[right:] = (answers[right:] + 1) % 4
        return nn.functional.one_hot(answers, 4).float()

    monkeypatch.setattr(loop, "predict", fake)
    result = fit(training_of(split, epochs=len(accuracies)), split, Nowhere())
    assert result.best_epoch == best and result.validation_accuracy == accuracies[best - 1]
    assert raw(result.state) == states[best - 1] and len(set(map(str, states))) == len(states)
    assert [each.validation_accuracy for each in result.history] == accuracies


def test_a_step_too_far_is_named(split):
    """A loss that explodes trains on, or the message names another step or rate than the first at fault."""
    training = training_of(split, recipe=ADAMW | {"warmup_epochs": 0}, lr=1e30, epochs=2)
    rate = learning_rate(1, 8, 0, 1e30)
    with pytest.raises(UserError, match="step 1 ") as caught:
        fit(training, split, Nowhere())
    assert f"learning rate {rate:.3g}" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_weight_that_is_no_number_is_named_at_step_0(split):
    """A start with a NaN in it trains on."""
    training = training_of(split)
    training.model.backbone.norm.weight.data[3] = math.nan
    with pytest.raises(UserError, match="step 0 "):
        fit(training, split, Nowhere())


@pytest.mark.parametrize(("epoch", "bad"), [(0, 0), (0, 49), (0, 50), (0, 63), (2, 130), (2, 178), (2, 191)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_bad_step_is_named(split, monkeypatch, epoch, bad, value):
    """The step named is off where the loss goes wrong between two looks at it, or at an epoch's end."""
    training = training_of(split, recipe=ADAMW | {"batch_size": 1}, epochs=3)
    monkeypatch.setattr(training.batches, "batch", lambda chosen, step: (None, None))
    monkeypatch.setattr(
        training, "step", lambda images, targets, step: torch.tensor(value if step >= bad else 1.0)
    )
    with pytest.raises(UserError, match=f"step {bad} "):
        training.epoch(epoch)


def test_training_in_bfloat16_keeps_float32_weights(split):
    """bfloat16 training leaves weights, losses or scores in bfloat16."""
    in_bfloat16 = Compute(CPU.device, "bfloat16")
    training = training_of(split, epochs=1, compute=in_bfloat16)
    result = fit(training, split, Nowhere())
    assert {value.dtype for value in result.state.values()} == {torch.float32}
    assert predict(training.model, split.images, in_bfloat16).dtype == torch.float32
    assert raw(result.state) != raw(fit(training_of(split, epochs=1), split, Nowhere()).state)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_like_a_cpu(split):
    """On a GPU the resident images, the optimizer or the average go another way than on a CPU."""
    recipe = ADAMW | {"ema_decay": 0.5}
    here = fit(training_of(split, recipe=recipe), split, Nowhere())
    training = training_of(split, recipe=recipe, compute=Compute(torch.device("cuda")))
    there = fit(training, split, Nowhere())
    assert training.batches.resident is not None
    for name, value in there.state.items():
        assert value.device.type == "cpu"
        assert torch.allclose(value, here.state[name], atol=2e-3), name


def test_the_best_weights_are_copied_once(split, monkeypatch):
    """A GPU holds the best epoch's weights beside the model's; or, on a CPU, they go on changing with it."""
    training = training_of(split)
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda tensor, memo: pytest.fail("another copy"))
    best = fit(training, split, Nowhere()).state
    for name, value in training.model.state_dict().items():
        assert best[name].data_ptr() != value.data_ptr() and best[name].stride() == value.stride()
