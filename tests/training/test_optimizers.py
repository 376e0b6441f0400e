"""The schedule, what decays, Muon, and the gradient's bound."""

import numpy as np
import pytest
import torch
from torch import nn

from made import build
from trainings import ADAMW, MUON, RESNET, SGD, VIT, Nowhere, raw, training_of
from vitscale.data.augment import generator_for
from vitscale.training.loop import Training, fit
from vitscale.training.optimizers import Muon, learning_rate, parameter_groups


# The schedule
@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (50, 0), (7, 6), (1, 0), (1000, 1)])
def test_learning_rate(total, warmup):
    """The warmup isn't linear up to the peak, or the rest isn't torch's CosineAnnealingLR down to 0."""
    peak = 0.3
    rates = [learning_rate(step, total, warmup, peak) for step in range(total)]
    assert rates[:warmup] == pytest.approx([peak * (step + 1) / warmup for step in range(warmup)])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total - warmup)
    for rate in rates[warmup:]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(peak) and min(rates) > 0
    assert learning_rate(total, total, warmup, peak) == pytest.approx(0, abs=1e-12)


def groups_of(training: Training) -> list[dict]:
    return [group for optimizer in training.optimizers for group in optimizer.param_groups]


@pytest.mark.parametrize("recipe", [ADAMW, MUON], ids=["adamw", "muon"])
def test_every_step_runs_at_its_rate(split, recipe):
    """An optimizer doesn't get the schedule's rate, or warmup_epochs is counted in something else than epochs."""
    training = training_of(split, recipe=recipe | {"warmup_epochs": 0.5}, epochs=3, lr=0.01)
    assert (training.batches.steps_per_epoch, training.total_steps, training.warmup_steps) == (4, 12, 2)
    for step in (0, 1, 2, 11):
        training.step(*training.batches.batch(np.arange(16), step), step)
        assert {group["lr"] for group in groups_of(training)} == {learning_rate(step, 12, 2, 0.01)}
    assert (
        training_of(split, recipe=ADAMW | {"warmup_epochs": 50}, epochs=3).warmup_steps == 11
    )  # never all of it
    assert (
        training_of(split, recipe=ADAMW | {"batch_size": 500}).batches.batch_size == 64
    )  # a batch larger than the data set


# What decays
def names_of(model: nn.Module, group: dict) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def test_parameter_groups_of_the_vit():
    """Biases, norms, class token or positions decay, or a matrix doesn't."""
    model = build(VIT | {"depth": 2})
    decayed, spared = parameter_groups(model, 0.07)
    layers = ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    matrices = {f"backbone.blocks.{i}.{name}.weight" for i in range(2) for name in layers}
    assert names_of(model, decayed) == matrices | {"backbone.patch_embedding.weight", "head.weight"}
    assert names_of(model, spared) == {name for name, _ in model.named_parameters()} - names_of(
        model, decayed
    )
    assert {"backbone.class_token", "backbone.positions"} <= names_of(model, spared)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.07, 0.0)


def test_parameter_groups_of_resnet18():
    """A batch norm or a bias decays, or a kernel doesn't."""
    model = build(RESNET)
    decayed, spared = parameter_groups(model, 0.07)
    modules = dict(model.named_modules())
    kinds = {name: modules[name.rpartition(".")[0]] for name, _ in model.named_parameters()}
    assert names_of(model, decayed) == {
        name
        for name, module in kinds.items()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name.endswith("weight")
    }
    assert names_of(model, spared) == set(kinds) - names_of(model, decayed)
    assert len(names_of(model, decayed)) == 21 and len(names_of(model, spared)) == 41


def test_parameter_groups_of_a_probe(split):
    """The probe's optimizer holds a parameter of the backbone."""
    training = training_of(split, RESNET, SGD, frozen=True)
    assert [names_of(training.model, group) for group in groups_of(training)] == [
        {"head.weight"},
        {"head.bias"},
    ]


def test_muon_takes_the_matrices_of_the_blocks(split):
    """Muon updates the patch embedding, the head or a bias, or a parameter has two optimizers or none."""
    training = training_of(split, VIT | {"depth": 2}, MUON)
    muon, adamw = training.optimizers
    layers = ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    assert [names_of(training.model, group) for group in muon.param_groups] == [
        {f"backbone.blocks.{i}.{name}.weight" for i in range(2) for name in layers}
    ]
    assert (type(muon), type(adamw)) == (Muon, torch.optim.AdamW)
    taken = [name for group in groups_of(training) for name in names_of(training.model, group)]
    assert sorted(taken) == sorted(name for name, _ in training.model.named_parameters())


def test_muon_takes_the_kernels_of_a_stem_but_the_first(split):
    """Catches a hybrid's convolutions left to AdamW, or the one that sees pixels, or a norm, given to Muon."""
    size = VIT["patch_size"]
    channels = [8] * size.bit_length()
    training = training_of(split, VIT | {"depth": 1, "stem_channels": channels}, MUON)
    [group] = training.optimizers[0].param_groups
    stem = {name for name in names_of(training.model, group) if ".stem." in name}
    blocks = {f"backbone.stem.{2 * i + 1}.conv{j}.weight" for i in range(len(channels)) for j in (1, 2)}
    assert stem == blocks | {f"backbone.stem.{2 * i}.0.weight" for i in range(1, len(channels))}
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    nn.init.normal_(training.model.head.weight)
    training.step(*training.batches.batch(np.arange(16), 0), 0)
    after = training.model.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in stem)


def test_muon_steps_are_orthogonal(split):
    """An update of Muon isn't a nearly orthogonal matrix of AdamW's size, whatever the gradient: 0.2 * lr a value."""
    training = training_of(split, recipe=MUON | {"warmup_epochs": 0, "weight_decay": 0.0}, lr=0.1)
    nn.init.normal_(training.model.head.weight)  # a zero head passes no gradient on
    matrix = training.model.backbone.blocks[0].mlp[0].weight
    before = matrix.detach().clone()
    training.step(*training.batches.batch(np.arange(16), 0), 0)
    values = torch.linalg.svdvals((matrix.detach() - before).double()) / (
        0.1 * 0.2 * max(matrix.shape) ** 0.5
    )
    assert (
        values.median() > 0.6 and values.max() < 1.3
    )  # five Newton-Schulz steps leave the least ones behind


def test_muon_is_torchs_muon():
    """Taking matrices of one shape together gives another update than torch's own, one by one."""

    def matrices():
        draws = torch.Generator().manual_seed(0)
        return [
            nn.Parameter(torch.randn(shape, generator=draws))
            for shape in [(24, 8), (8, 24), (24, 8), (16, 16), (24, 8), (8, 24)]
        ]

    ours, theirs = matrices(), matrices()
    ours[-1].data = ours[-1].data.view(8, 6, 2, 2)  # a kernel, among matrices of its size
    options = {"lr": 0.1, "weight_decay": 0.05, "momentum": 0.95}
    optimizers = [Muon(ours, **options), torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw")]
    start, draws = [matrix.detach().clone() for matrix in ours], torch.Generator().manual_seed(1)
    for _ in range(3):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape, generator=draws)
            b.grad = a.grad.view(b.shape).clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, before in zip(ours, theirs, start):
        assert torch.allclose(
            a.view(b.shape), b, atol=0.02 * (a - before).abs().max().item()
        )  # both orthogonalise in bfloat16


@pytest.mark.parametrize("frozen", [False, True])
def test_muon_without_matrices_is_adamw(split, frozen):
    """A recipe with Muon fails on a ResNet or for a probe, or isn't AdamW there."""
    results = [
        fit(training_of(split, RESNET if not frozen else VIT, recipe, frozen=frozen), split, Nowhere())
        for recipe in (ADAMW, MUON)
    ]
    assert raw(results[0].state) == raw(results[1].state)


@pytest.mark.parametrize(
    ("recipe", "factor"),
    [(ADAMW, 1 - 0.1 * 0.05), (MUON, 1 - 0.1 * 0.05), (SGD, 1 - 0.1 * 0.05 * 1.9)],
    ids=["adamw", "muon", "sgd"],
)
def test_weight_decay_shrinks_decayed_parameters_alone(split, recipe, factor):
    """With zero gradients a step shrinks something other than the decayed parameters, or them by another factor.

    AdamW: 1 - lr * decay. SGD with Nesterov momentum m, first step: 1 - lr * decay * (1 + m).
    """
    training = training_of(split, recipe=recipe | {"warmup_epochs": 0}, lr=0.1)
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator_for(1)))
    training.loss = lambda logits, targets: (0 * logits).sum()
    before = {name: parameter.detach().clone() for name, parameter in training.model.named_parameters()}
    training.step(*training.batches.batch(np.arange(16), 0), 0)
    decayed = set().union(
        *(names_of(training.model, group) for group in groups_of(training) if group["weight_decay"])
    )
    assert 0 < len(decayed) < len(before)
    for name, parameter in training.model.named_parameters():
        if name in decayed:
            assert torch.allclose(parameter, factor * before[name], rtol=1e-5, atol=0), name
        else:
            assert torch.equal(parameter, before[name]), name


def test_clip_norm_bounds_the_gradient(split):
    """clip_norm 0 clips, or another value doesn't."""
    steps = {}
    for clip in (0.0, 1e-3):
        recipe = SGD | {"clip_norm": clip, "momentum": 0.0, "weight_decay": 0.0, "warmup_epochs": 0}
        training = training_of(split, recipe=recipe, lr=1.0)
        before = torch.cat([value.detach().flatten().clone() for value in training.model.parameters()])
        training.step(*training.batches.batch(np.arange(16), 0), 0)
        after = torch.cat([value.detach().flatten() for value in training.model.parameters()])
        steps[clip] = float((after - before).norm())
    assert steps[1e-3] == pytest.approx(1e-3, rel=1e-2) and steps[0.0] > 0.1
