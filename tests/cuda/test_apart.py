"""What a GPU computes with is on it: batches and steps on a device whose tensors refuse to meet the CPU's."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gpus import FEATURES, MODELS, OFF, POLICIES, RECIPES, SPLIT, a_training, batch_of, model_of
from pretended import OnDevice, Pretended
from symbolic import GPU, a_gpu
from trainings import CPU, LIGHT, Nowhere
from vitscale.data.augment import generator_for
from vitscale.data.trivial_augment import TRIVIAL, operate, to_device
from vitscale.runtime.device import Compute
from vitscale.training import batches
from vitscale.training.inference import predict
from vitscale.training.loop import fit

STRONG = LIGHT | {"trivial_augment": True, "erasing": 0.5, "mixup": 0.2, "cutmix": 1.0}


def there(precision: str = "float32") -> Compute:
    return Compute(GPU, precision)


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Tell whether a tensor is on the device and has the same bytes as one on the CPU."""
    return isinstance(found, OnDevice) and torch.equal(found.held, wanted)


@pytest.mark.parametrize(
    ("mixed", "complaint"),
    [
        (lambda there, here: there + here, "a tensor of the CPU"),
        (lambda there, here: torch.where(here > 0, there, there), "a tensor of the CPU"),
        (lambda there, here: torch.cat([there, here]), "a tensor of the CPU"),
        (lambda there, here: torch._foreach_add([there], [here]), "a tensor of the CPU"),
        (lambda there, here: there[here.long()], "a tensor of the CPU"),
        (lambda there, here: nn.functional.linear(there[None], here[None]), "a tensor of the CPU"),
        (lambda there, here: torch.rand(3, device=GPU, generator=generator_for(0)), "a generator of the CPU"),
        (lambda there, here: there.double(), "float64"),
        (lambda there, here: torch.zeros(1, dtype=torch.float64, device=GPU), "float64"),
    ],
    ids=["sum", "where", "cat", "foreach", "index", "linear", "generator", "double", "float64"],
)
def test_devices_refuse_to_mix(mixed, complaint):
    """The other tests here pass whatever the code does: tensors of two devices meet unseen."""
    with a_gpu(Pretended()), pytest.raises(RuntimeError, match=complaint):
        mixed(torch.ones(3).to(GPU), torch.ones(3))


def test_devices_do_what_cuda_lets_them_do():
    """What CUDA allows is refused, so that these tests ask for more than works: copies, numbers, a CPU's 0-dim tensor."""
    with a_gpu(Pretended()) as gpu:
        x = torch.arange(3.0).to(GPU)
        assert (2 * x + torch.tensor(1.0)).device == GPU == torch.zeros(2, device=GPU).device
        x += 1
        x.copy_(x.cpu() * 2)
        x[:1] = 7.0
        assert x.cpu().tolist() == [7.0, 4.0, 6.0] and x.sum().item() == 17.0
        assert gpu.waits == {
            "aten._to_copy.default": 3,
            "aten.copy_.default": 1,
            "aten._local_scalar_dense.default": 1,
        }


@pytest.mark.parametrize("free", [0, 10**12], ids=["streamed", "resident"])
@pytest.mark.parametrize("policy", POLICIES)
def test_batch(policy, free):
    """A policy's batch on a GPU ends in an error, or in other images or targets than on a CPU."""
    wanted = a_training(model_of("vit-class-learned"), policy=POLICIES[policy])
    with a_gpu(Pretended(), free):
        found = a_training(model_of("vit-class-learned"), there(), policy=POLICIES[policy])
        for step in (0, 3):
            assert all(map(same, batch_of(found, step), batch_of(wanted, step)))


@pytest.mark.parametrize("free", [0, 10**12], ids=["streamed", "resident"])
@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_batch_waits_for(policy, free):
    """A batch copies from the host's memory, or has a shape that hangs on values, so that a GPU idles between the steps."""
    with a_gpu(Pretended(), free) as gpu:
        training = a_training(model_of("vit-class-learned"), there(), policy=POLICIES[policy])
        gpu.waits.clear()
        for step in range(4):
            batch_of(training, step)
        assert not gpu.waits


@pytest.mark.parametrize(("name", "waits"), [("cuda:0", False), ("mps", True)])
def test_copies_to_a_device(name, waits, monkeypatch):
    """Apple's GPU reads memory that the host has given to others by then."""
    asked = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, non_blocking: asked.append(non_blocking))
    to_device(torch.ones(3), torch.device(name))
    assert asked == [not waits]


@pytest.mark.parametrize("free", [0, 10**12], ids=["streamed", "resident"])
def test_batch_of_features(free):
    """A batch of stored features ends in an error on a GPU, or has others than on a CPU."""
    head = model_of("vit-class-learned").head_alone()
    wanted = batch_of(a_training(head, split=FEATURES, frozen=True, policy=OFF))
    with a_gpu(Pretended(), free):
        found = batch_of(a_training(head, there(), split=FEATURES, frozen=True, policy=OFF))
        assert all(map(same, found, wanted))


def test_batches_made_ahead(monkeypatch):
    """Images that stream, made ahead on a stream of their own, are others than resident ones, or in another order."""
    stream = SimpleNamespace(record_event=lambda: "made", wait_event=lambda event: None)
    monkeypatch.setattr(batches, "ahead", map)  # without the thread, in which no device would be pretended
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    wanted = list(a_training(model_of("vit-class-learned"), policy=STRONG).batches.epoch(0))
    with a_gpu(Pretended(), free=0):
        training = a_training(model_of("vit-class-learned"), there(), policy=STRONG)
        found = list(training.batches.epoch(0))
        assert training.batches.streamed and len(found) == 2
        assert all(same(mine, theirs) for pair in zip(found, wanted) for mine, theirs in zip(*pair))


@pytest.mark.parametrize("name", [name for name, *_ in TRIVIAL])
def test_operation(name):
    """One of TrivialAugment's operations, which a few random draws may leave out, takes a tensor of the CPU along."""
    _, low, high, signed = next(each for each in TRIVIAL if each[0] == name)
    strength = low + (high - low) * torch.linspace(-1 if signed else 0, 1, len(SPLIT))
    images = torch.from_numpy(SPLIT.images).float()
    with a_gpu(Pretended()):
        assert same(operate(name, images.to(GPU), strength), operate(name, images, strength))


def numbers(state: dict) -> list[np.ndarray]:
    """Return a state's tensors as arrays, in order."""
    held = [value.held if isinstance(value, OnDevice) else value for value in state.values()]
    return [value.detach().numpy().copy() for value in held]


@pytest.mark.parametrize(
    ("model", "recipe"),
    [(model, recipe) for model in MODELS for recipe in RECIPES if model.startswith("vit")]
    + [("resnet18-imagenet", "sgd"), ("resnet18-cifar", "muon")],
)
def test_training(model, recipe):
    """An epoch on a GPU ends in an error (an average, a norm or a rate that stays on the CPU), or trains something else."""
    rest = {"recipe": RECIPES[recipe], "policy": STRONG, "sizes": [32]}
    here = a_training(model_of(model), **rest)
    wanted = here.epoch(0)
    with a_gpu(Pretended()):
        training = a_training(model_of(model), there(), **rest)
        assert training.epoch(0) == pytest.approx(wanted, rel=1e-4)
        tensors = [*training.model.parameters(), *training.model.buffers()]
        assert all(
            tensor.device == GPU
            for tensor in [*tensors, *(each.grad for each in training.model.parameters())]
        )
        found, known = (numbers(each.scored_model().state_dict()) for each in (training, here))
    for mine, theirs in zip(found, known):
        assert np.allclose(mine, theirs, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("model", ["vit-dropout-depth", "resnet18-imagenet"])
def test_precision(model, precision):
    """Under autocast an epoch on a GPU ends in an error, or isn't computed in the precision asked for."""
    first = a_training(model_of(model), policy=LIGHT)
    full = first.step(*batch_of(first), 0).item()
    with a_gpu(Pretended(has_float64=True)):  # torch's loss scaling has another way for mps
        training = a_training(model_of(model), there(precision), policy=LIGHT)
        half = training.step(*batch_of(training), 0).item()
        assert half == pytest.approx(full, rel=0.05) and half != full
        assert {each.dtype for each in training.model.parameters()} == {torch.float32}


def test_a_step_that_overflows():
    """A step whose gradients overflow in float16 on a GPU isn't skipped, or isn't counted, or counts for the average."""
    with a_gpu(Pretended(has_float64=True)):
        training = a_training(
            model_of("vit-class-learned"), there("float16"), policy=OFF, recipe=RECIPES["muon"]
        )
        before = numbers(training.model.state_dict())
        images, targets = batch_of(training)
        training.step(images, targets * float("inf"), 0)
        assert training.skipped == 1 and all(
            map(np.array_equal, before, numbers(training.model.state_dict()))
        )
        training.scaler.update(256.0)
        training.step(images, targets, 0)
        assert training.skipped == 1 and not all(
            map(np.array_equal, before, numbers(training.model.state_dict()))
        )


@pytest.mark.parametrize(
    ("recipe", "precision", "waits"),
    [
        ("adamw", "float32", {}),
        ("adamw", "bfloat16", {}),
        ("adamw", "float16", {"aten._local_scalar_dense.default": 1}),  # whether it overflowed
        ("sgd", "float32", {}),
        ("accumulate", "float32", {}),
    ],
)
def test_what_a_step_waits_for(recipe, precision, waits):
    """A step asks for a value, or copies from the host's memory, so that the GPU idles until the host has gone on."""
    with a_gpu(Pretended(has_float64=True)) as gpu:
        training = a_training(
            model_of("vit-dropout-depth"), there(precision), policy=OFF, recipe=RECIPES[recipe], sizes=[32]
        )
        first, second = (batch_of(training, step) for step in (0, 1))
        training.step(*first, 0)
        gpu.waits.clear()
        training.step(*second, 1)
        assert dict(gpu.waits) == waits


@pytest.mark.parametrize(("model", "copies"), [("vit-dropout-depth", 1), ("resnet18-imagenet", 2)])
def test_what_an_average_waits_for(model, copies):
    """With an average a step waits for more than torch's own copy of how many were averaged (and of it for buffers)."""
    with a_gpu(Pretended()) as gpu:
        training = a_training(model_of(model), there(), policy=OFF, recipe=RECIPES["muon"], sizes=[32])
        batch = batch_of(training)
        training.step(*batch, 0)
        gpu.waits.clear()
        training.step(*batch, 1)
        assert dict(gpu.waits) == {"aten._to_copy.default": copies}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("inputs", ["images", "features"])
def test_probe(inputs, recipe):
    """A linear probe, of images or of stored features, ends in an error on a GPU, or trains more than the head."""
    with a_gpu(Pretended()):
        model = model_of("vit-class-learned")
        model, split = (model, SPLIT) if inputs == "images" else (model.head_alone(), FEATURES)
        names, before = list(model.state_dict()), numbers(model.state_dict())
        training = a_training(model, there(), split=split, frozen=True, policy=OFF, recipe=RECIPES[recipe])
        training.epoch(0)
        after = numbers(training.model.state_dict())
    changed = [not np.array_equal(old, new) for old, new in zip(before, after)]
    assert changed == [name.startswith("head") for name in names]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_state_moves_between_devices(recipe):
    """A checkpoint, which is read on the CPU, isn't brought back to the GPU: the run ends there, or goes on otherwise."""
    rest = {"recipe": RECIPES[recipe], "policy": LIGHT}
    with a_gpu(Pretended()):
        first = a_training(model_of("vit-class-learned"), there(), **rest)
        first.epoch(0)
        saved = torch.utils._pytree.tree_map(
            lambda each: each.cpu() if isinstance(each, OnDevice) else each, first.state()
        )
        second = a_training(model_of("vit-class-learned"), there(), **rest)
        second.restore(saved)
        assert first.epoch(1) == second.epoch(1)
        mine, theirs = (numbers(each.model.state_dict()) for each in (first, second))
    assert all(map(np.array_equal, mine, theirs))


def test_fit():
    """Between the epochs, in validation, the average or the best epoch's weights, something is on the wrong device."""
    recipe = RECIPES["muon"]
    wanted = fit(a_training(model_of("vit-class-learned"), recipe=recipe), SPLIT, Nowhere())
    with a_gpu(Pretended()):
        found = fit(a_training(model_of("vit-class-learned"), there(), recipe=recipe), SPLIT, Nowhere())
    assert not any(isinstance(value, OnDevice) for value in found.state.values())
    assert [e.validation_loss for e in found.history] == pytest.approx(
        [e.validation_loss for e in wanted.history], rel=1e-3
    )


@pytest.mark.parametrize(
    "images",
    [SPLIT.images, list(SPLIT.images), [each[:20] for each in SPLIT.images]],
    ids=["split", "list", "other-size"],
)
@pytest.mark.parametrize("model", MODELS)
def test_predict(model, images):
    """Scoring on a GPU ends in an error, gives its answers there, or gives others."""
    wanted = predict(model_of(model), images, CPU)
    with a_gpu(Pretended()):
        found = predict(model_of(model), images, there())
    assert not isinstance(found, OnDevice) and torch.allclose(found, wanted, atol=1e-3)


def test_predict_from_features():
    """Stored features are scored on the CPU, or not at all."""
    head = model_of("vit-class-learned").head_alone()
    nn.init.normal_(head.head.weight)
    wanted = predict(head, FEATURES.images, CPU)
    with a_gpu(Pretended()):
        assert torch.allclose(predict(head, FEATURES.images, there()), wanted, atol=1e-4)
