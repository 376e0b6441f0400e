"""What a step, an epoch and a score are made of, by their formulas: loss, gradient, update, average, figures."""

import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from made import build
from trainings import ADAMW, CPU, MUON, OFF, SGD, VIT, Nowhere, raw, training_of, with_batch_norm
from vitscale.data.arrays import Split
from vitscale.data.augment import generator_for
from vitscale.runtime.device import Compute
from vitscale.training.inference import predict
from vitscale.training.loop import fit
from vitscale.training.optimizers import Recipe, make_optimizers

PLAIN = SGD | {"momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0, "warmup_epochs": 0}


def with_a_head(training):
    """Give a training a head that isn't zero, so that each class has another logit; return the training."""
    nn.init.normal_(training.model.head.weight, generator=generator_for(3))
    return training


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_takes_its_share_of_the_target(split, smoothing):
    """The loss isn't the cross-entropy with (1 - e) of the target and e over all classes, or the recipe's e isn't used."""
    training = with_a_head(training_of(split, recipe=PLAIN | {"label_smoothing": smoothing}, policy=OFF))
    images, targets = training.batches.batch(np.arange(0, 64, 4), 0)
    with torch.no_grad():
        log_shares = training.model.train()(images).log_softmax(1)
    wanted = -((1 - smoothing) * targets + smoothing / 4).mul(log_shares).sum(1).mean()
    assert training.step(images, targets, 0).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_plain_step_goes_down_the_losss_gradient(split):
    """Plain SGD goes another way than -lr times the gradient of the mean loss: a scaled, summed or old gradient."""
    training = with_a_head(training_of(split, recipe=PLAIN, lr=0.5, policy=OFF))
    for step in range(3):
        images, targets = training.batches.batch(np.arange(16 * step, 16 * step + 16), step)
        parameters = list(training.model.train().parameters())
        loss = nn.functional.cross_entropy(training.model(images), targets)
        gradients = torch.autograd.grad(loss, parameters)
        rate = training.rate(step)
        wanted = [p.detach() - rate * gradient for p, gradient in zip(parameters, gradients)]
        training.step(images, targets, step)
        for found, each in zip(parameters, wanted):
            assert torch.allclose(found.detach(), each, rtol=1e-4, atol=1e-6)


def updates_of(recipe: dict, gradients: list[float]) -> list[float]:
    """Return a bias after each of some steps at the rate 0.1, from 0, under such gradients."""
    model = build(VIT)
    bias, found = model.head.bias, []
    optimizers = make_optimizers(model, Recipe(**recipe))
    for gradient in gradients:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.1
            optimizer.step()
        found.append(bias[0].item())
    return found


@pytest.mark.parametrize("beta2", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("recipe", [ADAMW, MUON], ids=["adamw", "muon"])
def test_adamw_averages_by_its_betas(recipe, beta2):
    """AdamW doesn't average gradients by 0.9 and their squares by the recipe's beta2 (Kingma & Ba 2015, algorithm 1)."""
    gradients, first, second, value, wanted = [1.0, -3.0, 0.5, 8.0], 0.0, 0.0, 0.0, []
    for step, gradient in enumerate(gradients, 1):
        first = 0.9 * first + 0.1 * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        value -= 0.1 * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - beta2**step)) + 1e-8)
        wanted.append(value)
    assert updates_of(recipe | {"beta2": beta2}, gradients) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_sgd_has_nesterovs_momentum(momentum):
    """SGD's momentum isn't the recipe's, or isn't Nesterov's."""
    gradients, velocity, value, wanted = [1.0, -3.0, 0.5, 8.0], 0.0, 0.0, []
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        value -= 0.1 * (gradient + momentum * velocity)
        wanted.append(value)
    assert updates_of(SGD | {"momentum": momentum}, gradients) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("momentum", [0.3, 0.95])
def test_muon_has_the_recipes_momentum_and_decay(momentum):
    """Muon's momentum or weight decay isn't the recipe's."""
    model, recipe = build(VIT), MUON | {"momentum": momentum, "weight_decay": 0.2}
    weight = model.backbone.blocks[0].attention.out.weight
    twin = nn.Parameter(weight.detach().clone())
    theirs = torch.optim.Muon(
        [twin], lr=0.1, weight_decay=0.2, momentum=momentum, adjust_lr_fn="match_rms_adamw"
    )
    ours, _ = make_optimizers(model, Recipe(**recipe))
    ours.param_groups[0]["lr"] = 0.1
    for step in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator_for(step))
        twin.grad = weight.grad.clone()
        ours.step()
        theirs.step()
    assert (weight - twin).abs().max() < 0.02 * (
        weight - build(VIT).backbone.blocks[0].attention.out.weight
    ).abs().max()


def test_the_average_holds_batch_norms_statistics(split):
    """The average's weights come with the batch statistics of the last step's weights, not with averages of its own."""
    model = with_batch_norm()
    training = training_of(split, recipe=SGD | {"ema_decay": 0.8}, lr=0.1, model=model)
    training.train_mode()
    names, average = ("backbone.1.running_mean", "backbone.1.running_var"), {}
    for step in range(5):
        training.step(*training.batches.batch(np.arange(16) + 8 * step, step), step)
        for name in names:
            value = training.model.state_dict()[name]
            average[name] = 0.8 * average[name] + 0.2 * value if step else value.clone()
    found = training.scored_model().state_dict()
    for name in names:
        assert torch.allclose(found[name], average[name], rtol=1e-4)
        assert not torch.allclose(found[name], training.model.state_dict()[name], rtol=1e-3)


def test_the_average_is_scored_and_kept(split):
    """With an average the last step's weights are scored, or kept."""
    training = training_of(split, recipe=ADAMW | {"ema_decay": 0.9}, lr=0.01, epochs=1)
    result = fit(training, split, Nowhere())
    assert raw(result.state) == raw(training.scored_model().state_dict())
    assert raw(result.state) != raw(training.model.state_dict())


def test_an_epochs_figures(split, monkeypatch):
    """The training loss isn't the mean over all steps, the validation loss is smoothed, or an accuracy is rounded to float32."""
    validation = Split(split.images[:63], split.labels[:63], split.classes)
    training = training_of(split, recipe=ADAMW | {"label_smoothing": 0.3}, lr=0.01, epochs=1)
    losses, step = [], training.step
    monkeypatch.setattr(training, "step", lambda *rest: losses.append(step(*rest)) or losses[-1])
    [epoch] = fit(training, validation, Nowhere()).history
    logits = predict(training.model, validation.images, CPU).double()
    labels = torch.from_numpy(validation.labels)
    assert len({loss.item() for loss in losses}) == 4
    assert epoch.train_loss == pytest.approx(sum(loss.item() for loss in losses) / 4, rel=1e-6)
    assert epoch.validation_loss == pytest.approx(
        nn.functional.cross_entropy(logits, labels).item(), rel=1e-5
    )
    right = int((logits.argmax(1) == labels).sum())
    assert 0 < right < 63 and epoch.validation_accuracy == pytest.approx(right / 63, rel=1e-13)


def test_the_loss_is_in_float32(split):
    """Under bfloat16 the loss has 8 bits: steps that differ by less look the same, and its gradient is rounded."""
    training = with_a_head(training_of(split, policy=OFF, compute=Compute(CPU.device, "bfloat16")))
    images, targets = training.batches.batch(np.arange(16), 0)
    with torch.no_grad(), training.compute.autocast():
        logits = training.model.train()(images)
    wanted = nn.functional.cross_entropy(logits.double(), targets.double())
    loss = training.step(images, targets, 0)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize(("warmup_epochs", "steps"), [(0.4, 2), (0.3, 1), (0.9, 4), (2, 8)])
def test_a_warmup_is_rounded_to_steps(split, warmup_epochs, steps):
    """A share of an epoch is cut down to whole steps instead of rounded: a warmup of 0.9 epochs has 3 of 4 steps."""
    training = training_of(split, recipe=ADAMW | {"warmup_epochs": warmup_epochs}, epochs=3, lr=1.0)
    assert training.rate(steps - 1) == 1.0 == training.rate(steps)
    assert all(training.rate(step) == pytest.approx((step + 1) / steps) for step in range(steps))


def test_predictions_are_in_the_images_order(split):
    """Images of several sizes are answered in another order than they came, or one is left out."""
    model = with_a_head(training_of(split)).model
    images = [np.array(image) for image in split.images[:7]]
    wanted = predict(model, np.array(split.images[:7]), CPU)
    assert torch.allclose(predict(model, images, CPU, batch_size=3), wanted, atol=1e-6)
    assert len(wanted.unique(dim=0)) == 7


def test_scoring_keeps_no_pass(split):
    """Each pass's small logits are kept: between its large tensors they split the heap, which grows to gigabytes."""
    model, passes, alive = build(VIT), [], []

    def seen(_, taken, given):
        alive.append(sum(each() is not None for each in passes))
        passes.append(weakref.ref(given))

    model.register_forward_hook(seen)
    assert len(predict(model, split.images, CPU, batch_size=4)) == 64
    assert len(passes) == 16 and max(alive) <= 1  # the pass before


def test_a_model_is_scored_at_its_own_size_and_precision(split):
    """Images of another size aren't resized before they are scored, or scoring leaves out the precision."""
    training = with_a_head(training_of(split, VIT))
    model = training.model
    model.config = replace(model.config, architecture=replace(model.config.architecture, image_size=16))
    taken = model.config.preprocessing
    with torch.no_grad():
        wanted = model.eval()(taken.to_input(taken.fitted(torch.from_numpy(np.array(split.images)))))
    assert taken.image_size == 16 and torch.allclose(predict(model, split.images, CPU), wanted, atol=1e-6)
    rough = predict(model, split.images, Compute(CPU.device, "bfloat16"))
    assert rough.dtype == torch.float32 and torch.equal(rough, rough.bfloat16().float())


def test_scoring_is_in_evaluation_mode(split):
    """A model is scored with dropout, or with the statistics of the images that are scored together."""
    for model in (build(VIT | {"dropout": 0.5}), with_batch_norm()):
        model.train()
        with_a_head(training_of(split, model=model))
        together = predict(model, split.images, CPU)
        assert torch.allclose(together, predict(model, split.images, CPU, batch_size=7), atol=1e-6)
        assert len(together.unique(dim=0)) == 64
