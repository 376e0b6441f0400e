"""`accumulate`: a batch in equal parts, one after the other, is the step that the whole batch is."""

import numpy as np
import pytest
import torch
from torch import nn

from trainings import ADAMW, CPU, MUON, OFF, SGD, VIT, Nowhere, training_of
from vitscale.base.errors import UserError
from vitscale.data.arrays import Split
from vitscale.runtime.compiler import can_compile
from vitscale.runtime.device import Compute
from vitscale.training.loop import fit

PLAIN = SGD | {"momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0, "warmup_epochs": 0}


def trained(split, recipe, **options):
    """Return a training after an epoch from a head that isn't zero, and its losses."""
    training = training_of(split, VIT, recipe, lr=1e-2, policy=OFF | {"mixup": 0.5}, **options)
    nn.init.normal_(training.model.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return training, fit(training, split, Nowhere()).history


def moved(split, recipe, start, **options) -> tuple[torch.Tensor, list[float]]:
    training, history = trained(split, recipe, **options)
    weights = torch.cat([value.detach().flatten() for value in training.model.parameters()])
    return weights - start, [each.train_loss for each in history]


@pytest.mark.parametrize("frozen", [False, True], ids=["full", "linear_probe"])
@pytest.mark.parametrize(
    "recipe",
    [ADAMW | {"clip_norm": 0.1}, MUON, SGD | {"label_smoothing": 0.1, "ema_decay": 0.9}],
    ids=["adamw", "muon", "sgd"],
)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_parts_are_the_whole_batch(split, recipe, frozen, precision):
    """Gradients of parts are added without being averaged, only the last part counts, or the loss is a part's."""
    options = {"frozen": frozen, "compute": Compute(CPU.device, precision), "epochs": 2}
    start = training_of(split, VIT, recipe, frozen=frozen).model
    nn.init.normal_(start.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    begin = torch.cat([value.detach().flatten() for value in start.parameters()])
    whole, losses = moved(split, recipe, begin, **options)
    for parts in (2, 16):
        found, its = moved(split, recipe | {"accumulate": parts}, begin, **options)
        # What is left of small gradients is rounding: in float16, and in bfloat16 where Muon multiplies.
        tolerance = 1e-3 if precision == "float32" and recipe["optimizer"] != "muon" else 0.1
        assert its == pytest.approx(losses, rel=1e-3)
        assert (found - whole).norm() <= tolerance * whole.norm() and not torch.equal(found, whole)


def test_a_parts_gradient_is_its_share(split):
    """The parts' gradients aren't those of the mean over the whole batch, whatever an optimizer makes of them."""
    gradients = []
    for parts in (1, 4):
        training = training_of(split, VIT, PLAIN | {"accumulate": parts}, policy=OFF)
        nn.init.normal_(training.model.head.weight, generator=torch.Generator().manual_seed(1))
        images, targets = training.batches.batch(np.arange(0, 64, 4), 0)
        loss = training.step(images, targets, 0)
        gradients.append([loss.reshape(1), *(each.grad.flatten() for each in training.model.parameters())])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6) and one.any()


def test_no_more_than_a_part_is_computed_at_once(split):
    """All of a batch goes through the model at once, so that memory isn't spared, or an image twice or never."""
    training = training_of(split, VIT, ADAMW | {"accumulate": 8}, policy=OFF)
    seen = []
    training.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    images, targets = training.batches.batch(np.arange(16), 0)
    training.step(images, targets, 0)
    assert {len(part) for part in seen} == {2} and torch.equal(torch.cat(seen), images)


@pytest.mark.skipif(not can_compile(CPU.device), reason="needs a C++ compiler")
def test_parts_are_compiled_once_a_size(split, monkeypatch):
    """A part has another shape than the others, so that a model is compiled once more for each, or beyond the limit."""
    assert can_compile(CPU.device)  # asked before: it compiles something too, once a process
    compiled, compile_ = [], torch.compile

    def counting(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda *args, **kinds: compile_(*args, backend=counting, **kinds))
    torch._dynamo.reset()
    recipe = ADAMW | {"compile": True, "accumulate": 4}
    fit(training_of(split, VIT, recipe, epochs=2, sizes=[16, 32]), split, Nowhere())
    assert len(compiled) == 2


def test_a_compiled_training_in_parts_is_the_whole(split):
    """Compiled for parts a training goes another way than for whole batches."""
    results = []
    for parts in (1, 4):
        torch._dynamo.reset()
        _, history = trained(split, ADAMW | {"compile": True, "accumulate": parts}, epochs=1)
        results.append(history[0].train_loss)
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def test_unequal_parts_are_refused(split):
    """A data set smaller than a batch is parted unequally, so that some images count more than others."""
    small = Split(split.images[:50], split.labels[:50], split.classes)
    recipe = ADAMW | {"batch_size": 64}
    with pytest.raises(UserError, match="50 images of a batch can't be computed in 8 equal parts") as caught:
        training_of(small, recipe=recipe | {"accumulate": 8})
    assert "accumulate" in str(caught.value) and "batch_size" in str(caught.value)
    assert training_of(small, recipe=recipe | {"accumulate": 10}).batches.batch_size == 50
