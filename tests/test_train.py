"""The training loop on 64 random images: schedule, reproducibility, resuming, and what it says when something is wrong."""

import copy
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from made import build, preprocessing
from vitscale.base.errors import UserError
from vitscale.data.arrays import Split, SplitWriter, load_split, stratified
from vitscale.data.augment import Policy, generator_for
from vitscale.runtime import device
from vitscale.runtime.device import Compute
from vitscale.training import checkpoint as checkpoint_module
from vitscale.training import loop
from vitscale.training.checkpoint import Checkpoint, checkpoint_for
from vitscale.training.inference import predict
from vitscale.training.loop import Plan, Training, fit
from vitscale.training.optimizers import Muon, Recipe, learning_rate, parameter_groups

CPU = Compute(torch.device("cpu"))
STATISTICS = {"mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3]}
VIT = {
    "architecture": "vit",
    "image_size": 32,
    "patch_size": 8,
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "mlp_dim": 32,
    "pool": "class",
    "positions": "learned",
    "dropout": 0.0,
    "stochastic_depth": 0.0,
    "classes": list("abcd"),
    "interpolation": "bilinear",
} | STATISTICS
RESNET = {
    "architecture": "resnet18",
    "image_size": 32,
    "stem": "imagenet",
    "classes": list("abcd"),
    "interpolation": "bilinear",
} | STATISTICS
COMMON = {
    "batch_size": 16,
    "weight_decay": 0.05,
    "warmup_epochs": 1,
    "label_smoothing": 0.0,
    "clip_norm": 1.0,
    "ema_decay": 0.0,
    "compile": False,
}
ADAMW = COMMON | {"optimizer": "adamw", "beta2": 0.99}
MUON = COMMON | {"optimizer": "muon", "momentum": 0.95, "beta2": 0.99}
SGD = COMMON | {"optimizer": "sgd", "momentum": 0.9}
OFF = {
    "crop_padding": 0,
    "flip": False,
    "trivial_augment": False,
    "erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}
LIGHT = OFF | {"crop_padding": 2, "flip": True}


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    """Return 64 random images of 4 classes, from disk as the stages read them."""
    rng = np.random.default_rng(0)
    writer = SplitWriter(tmp_path_factory.mktemp("split"), 64, 32, list("abcd"))
    writer.add(rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), np.repeat(np.arange(4), 16))
    writer.close()
    return load_split(writer.folder)


class Nowhere(Checkpoint):
    """A checkpoint that keeps nothing."""

    def __init__(self):
        self.path = Path("nowhere")

    def load(self) -> None:
        return None

    def save(self, state: dict) -> None:
        pass


class Killed(Exception):
    pass


class Killing(Checkpoint):
    """A checkpoint after whose write of the given epoch the process is killed."""

    def __init__(self, path: Path, after: int):
        super().__init__(path)
        self.after = after

    def save(self, state: dict) -> None:
        super().save(state)
        if state["epochs"] == self.after:
            raise Killed


def training_of(
    split: Split,
    config: dict = VIT,
    recipe: dict = ADAMW,
    *,
    epochs: int = 2,
    lr: float = 3e-3,
    seed: int = 0,
    initial: int = 0,
    policy: dict = LIGHT,
    fraction: float = 1.0,
    frozen: bool = False,
    sizes: list[int] = [32],
    compute: Compute = CPU,
) -> Training:
    torch.manual_seed(initial)
    plan = Plan(
        recipe=Recipe(**recipe),
        policy=Policy(**policy),
        fraction=fraction,
        sizes=sizes,
        epochs=epochs,
        lr=lr,
        seed=seed,
        frozen_backbone=frozen,
    )
    return Training(build(config), split, plan, compute)


def raw(state: dict[str, Tensor]) -> dict[str, bytes]:
    """Return a state's bytes, in which 0.0 and -0.0 and all kinds of NaN differ."""
    return {name: value.contiguous().numpy().tobytes() for name, value in state.items()}


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
    assert (training.steps_per_epoch, training.total_steps, training.warmup_steps) == (4, 12, 2)
    for step in (0, 1, 2, 11):
        training.step(*training.batch(np.arange(16), step), step)
        assert {group["lr"] for group in groups_of(training)} == {learning_rate(step, 12, 2, 0.01)}
    assert (
        training_of(split, recipe=ADAMW | {"warmup_epochs": 50}, epochs=3).warmup_steps == 11
    )  # never all of it
    assert (
        training_of(split, recipe=ADAMW | {"batch_size": 500}).batch_size == 64
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


def test_muon_steps_are_orthogonal(split):
    """An update of Muon isn't a nearly orthogonal matrix of AdamW's size, whatever the gradient: 0.2 * lr a value."""
    training = training_of(split, recipe=MUON | {"warmup_epochs": 0, "weight_decay": 0.0}, lr=0.1)
    nn.init.normal_(training.model.head.weight)  # a zero head passes no gradient on
    matrix = training.model.backbone.blocks[0].mlp[0].weight
    before = matrix.detach().clone()
    training.step(*training.batch(np.arange(16), 0), 0)
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
            for shape in [(24, 8), (8, 24), (24, 8), (16, 16), (24, 8)]
        ]

    ours, theirs = matrices(), matrices()
    options = {"lr": 0.1, "weight_decay": 0.05, "momentum": 0.95}
    optimizers = [Muon(ours, **options), torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw")]
    start, draws = [matrix.detach().clone() for matrix in ours], torch.Generator().manual_seed(1)
    for _ in range(3):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape, generator=draws)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, before in zip(ours, theirs, start):
        assert torch.allclose(
            a, b, atol=0.02 * (a - before).abs().max().item()
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
    training.step(*training.batch(np.arange(16), 0), 0)
    decayed = set().union(
        *(names_of(training.model, group) for group in groups_of(training) if group["weight_decay"])
    )
    assert 0 < len(decayed) < len(before)
    for name, parameter in training.model.named_parameters():
        if name in decayed:
            assert torch.allclose(parameter, factor * before[name], rtol=1e-5, atol=0), name
        else:
            assert torch.equal(parameter, before[name]), name


# The data


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.77, 1.0])
def test_stratified(fraction):
    """A class gets another share than the fraction of its images, or none at all, or an image is drawn twice."""
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2, 5], [40, 200, 3, 1000]))
    chosen = stratified(labels, fraction, 0)
    assert (np.diff(chosen) > 0).all()  # sorted, no image twice
    for label, count in ((0, 40), (1, 200), (2, 3), (5, 1000)):
        found = int((labels[chosen] == label).sum())
        assert found >= 1 and (found == 1 or abs(found - fraction * count) <= 0.5)
    assert np.array_equal(chosen, stratified(labels, fraction, 0))
    if fraction < 1:
        assert not np.array_equal(chosen, stratified(labels, fraction, 1))
    else:
        assert np.array_equal(chosen, np.arange(len(labels)))


def test_stratified_shares_are_nested():
    """A training on less data sees images that one on more data doesn't, so that the two can't be compared."""
    labels = np.random.default_rng(1).integers(0, 7, 500)
    shares = [set(stratified(labels, fraction, 3)) for fraction in (0.01, 0.1, 0.25, 0.5, 0.9, 1.0)]
    assert all(smaller < larger for smaller, larger in zip(shares, shares[1:]))


def shown_in(split, monkeypatch, indices, batch_size=8, epochs=2) -> list[list[list[int]]]:
    """Return the images of every batch of every epoch; the steps must be numbered throughout."""
    training = training_of(split, recipe=ADAMW | {"batch_size": batch_size}, epochs=epochs)
    training.indices = indices
    seen, real = [], training.batch
    monkeypatch.setattr(
        training, "batch", lambda chosen, step: seen.append((step, chosen.tolist())) or real(chosen, step)
    )
    for epoch in range(epochs):
        training.epoch(epoch)
    assert [step for step, _ in seen] == list(range(training.total_steps))
    batches, each = [chosen for _, chosen in seen], training.steps_per_epoch
    return [batches[epoch * each : (epoch + 1) * each] for epoch in range(epochs)]


def test_an_epoch_takes_every_image_at_most_once(split, monkeypatch):
    """An epoch shows an image twice, drops more than a partial batch, or repeats its order."""
    epochs = shown_in(split, monkeypatch, np.arange(64), batch_size=10)
    for batches in epochs:
        assert [len(batch) for batch in batches] == 6 * [10] and len(set(sum(batches, []))) == 60
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("count", [1, 3, 8, 24, 29, 33, 63, 64])
def test_an_epoch_of_a_fraction_has_as_many_steps(split, monkeypatch, count):
    """Less data means fewer steps or smaller batches, an image that isn't of the fraction, or some more often than others."""
    indices = np.random.default_rng(0).permutation(64)[:count]
    for batches in shown_in(split, monkeypatch, indices):
        assert [len(batch) for batch in batches] == 8 * [8]
        shown = sum(batches, [])
        passes = [shown[start : start + count] for start in range(0, 64, count)]
        assert all(len(set(each)) == len(each) and set(each) <= set(indices.tolist()) for each in passes)
        assert count < 8 or len(set(map(tuple, passes))) == len(passes)


def test_a_batch_is_the_standardised_images(split):
    """A batch holds other images, labels or scales than asked for, or depends on more than its step."""
    training = training_of(split, policy=OFF)
    chosen = np.array([5, 60, 17])
    images, targets = training.batch(chosen, 3)
    wanted = preprocessing(VIT).to_input(torch.from_numpy(np.array(split.images[chosen])).float())
    assert torch.equal(images, wanted) and targets.argmax(1).tolist() == split.labels[chosen].tolist()
    augmented = training_of(split, policy=LIGHT)
    first, again, other = (augmented.batch(chosen, step)[0] for step in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, training_of(split, policy=LIGHT, seed=1).batch(chosen, 3)[0])


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet18"])
def test_sizes_share_the_epochs(split, config, monkeypatch):
    """Training images don't grow as the schedule says, or validation isn't at the model's own size."""
    monkeypatch.setattr(
        loop, "predict", lambda model, *rest: seen.append("validation") or predict(model, *rest)
    )
    training = training_of(split, config | {"image_size": 24}, epochs=5, sizes=[16, 24, 32], policy=OFF)
    seen, step = [], training.step

    def scored(model, inputs):
        if not model.training:
            seen.append(tuple(inputs[0].shape[2:]))

    monkeypatch.setattr(
        training, "step", lambda images, *rest: seen.append(tuple(images.shape[2:])) or step(images, *rest)
    )
    training.model.register_forward_pre_hook(scored)
    fit(training, split, Nowhere())
    assert seen == [
        each for size in (16, 16, 24, 24, 32) for each in [*4 * [(size, size)], "validation", (24, 24)]
    ]


class Counting:
    """A stand-in for the images on disk that counts how many are asked for at once, and can't be had as a whole."""

    def __init__(self, images: np.memmap):
        self.images, self.asked = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, chosen):
        result = self.images[chosen]
        self.asked.append(len(result))
        return result

    def __array__(self, *_, **__):
        raise AssertionError("all images were loaded at once")


def test_images_stay_on_disk(split):
    """On a CPU the training or the scoring loads all images into memory, instead of a batch at a time."""
    assert isinstance(split.images, np.memmap) and split.images.mode == "r"
    assert training_of(split).split.images is split.images
    counting = Counting(split.images)
    on_disk = Split(counting, split.labels, split.classes)
    training = training_of(on_disk, epochs=1)
    training.epoch(0)
    logits = predict(training.model, on_disk.images, CPU, batch_size=20)
    assert counting.asked == [16] * 4 + [20, 20, 20, 4]
    assert torch.allclose(logits, predict(training.model, split.images, CPU), atol=1e-6)


def peak() -> int:
    """Return the most memory that this process has had resident, in KiB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def test_images_larger_than_memory(tmp_path):
    """Training on 60 GB of images of 224 px, or scoring some of them, takes more than the batches' memory."""
    count = 400_000
    writer = SplitWriter(tmp_path, count, 224, list("abcd"))
    writer.file.flush()
    os.ftruncate(
        writer.file.fileno(), writer.file.tell() + count * 224**2 * 3
    )  # a hole in the file: it takes no room on the disk
    writer.file.close()
    split = Split(np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(count) % 4, list("abcd"))
    assert split.images.nbytes > 60e9
    config = VIT | {"image_size": 224, "patch_size": 32}
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak()
    training = training_of(split, config, policy=OFF, fraction=0.5, sizes=[224])
    order = training.epoch_order(0)
    assert len(order) == count and len(np.unique(order)) == count // 2
    for step in range(3):
        training.step(*training.batch(order[16 * step : 16 * step + 16], step), step)
    predict(training.model, split.images[-64:], CPU)
    assert peak() - before < 1_000_000


# Training


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
        training.step(*training.batch(np.arange(16), step), step)
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
    monkeypatch.setattr(training, "batch", lambda chosen, step: (None, None))
    monkeypatch.setattr(
        training, "step", lambda images, targets, step: torch.tensor(value if step >= bad else 1.0)
    )
    with pytest.raises(UserError, match=f"step {bad} "):
        training.epoch(epoch)


def test_clip_norm_bounds_the_gradient(split):
    """clip_norm 0 clips, or another value doesn't."""
    steps = {}
    for clip in (0.0, 1e-3):
        recipe = SGD | {"clip_norm": clip, "momentum": 0.0, "weight_decay": 0.0, "warmup_epochs": 0}
        training = training_of(split, recipe=recipe, lr=1.0)
        before = torch.cat([value.detach().flatten().clone() for value in training.model.parameters()])
        training.step(*training.batch(np.arange(16), 0), 0)
        after = torch.cat([value.detach().flatten() for value in training.model.parameters()])
        steps[clip] = float((after - before).norm())
    assert steps[1e-3] == pytest.approx(1e-3, rel=1e-2) and steps[0.0] > 0.1


# Checkpoints


RESUMED = {
    "vit adamw": (VIT | {"dropout": 0.2, "stochastic_depth": 0.1}, ADAMW | {"ema_decay": 0.9}, 4, 3e-3),
    "vit muon": (VIT | {"dropout": 0.2, "depth": 2}, MUON, 3, 3e-3, [16, 24, 32]),
    "vit sgd": (VIT | {"dropout": 0.2, "depth": 2}, SGD | {"ema_decay": 0.9}, 4, 3e-2),
    "vit without average": (VIT | {"dropout": 0.2}, ADAMW, 3, 3e-3),
    "resnet18 sgd": (RESNET, SGD | {"ema_decay": 0.5}, 2, 1e-2, [16, 32]),
}


@pytest.mark.parametrize("case", RESUMED)
def test_resuming_changes_nothing(split, tmp_path, capsys, case):
    """A training that was killed and run again ends in other weights or figures than an undisturbed one."""
    config, recipe, epochs, lr, *sizes = RESUMED[case]
    arguments = {"epochs": epochs, "lr": lr, "sizes": sizes[0] if sizes else [32]}
    undisturbed = training_of(split, config, recipe, **arguments)
    wanted = fit(undisturbed, split, Nowhere())
    for after in range(1, epochs):
        path = tmp_path / f"{after}.pt"
        with pytest.raises(Killed):
            fit(training_of(split, config, recipe, **arguments), split, Killing(path, after))
        assert "going on" not in capsys.readouterr().out
        resumed = training_of(
            split, config, recipe, initial=99, **arguments
        )  # its own initial weights must not matter
        torch.manual_seed(1234)
        found = fit(resumed, split, Checkpoint(path))
        assert f"going on after epoch {after} of {epochs}, from {path}" in capsys.readouterr().out
        assert raw(found.state) == raw(wanted.state) and found.history == wanted.history
        assert (found.best_epoch, found.validation_accuracy) == (
            wanted.best_epoch,
            wanted.validation_accuracy,
        )
        assert raw(resumed.model.state_dict()) == raw(undisturbed.model.state_dict())
        if recipe["ema_decay"]:
            assert raw(resumed.average.state_dict()) == raw(undisturbed.average.state_dict())


def test_a_finished_training_isnt_run_again(split, tmp_path, monkeypatch):
    """A stage killed between its last epoch and its outputs trains all over."""
    wanted = fit(training_of(split), split, Checkpoint(tmp_path / "a.pt"))
    monkeypatch.setattr(Training, "epoch", lambda *_: pytest.fail("trained again"))
    found = fit(training_of(split, initial=5), split, Checkpoint(tmp_path / "a.pt"))
    assert (
        raw(found.state) == raw(wanted.state)
        and found.history == wanted.history
        and found.best_epoch == wanted.best_epoch
    )


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: bytes(len(content)),
    ],
    ids=["a bit flipped", "cut short", "cut to nearly nothing", "empty", "zeros"],
)
def test_a_damaged_checkpoint_is_left_behind(split, tmp_path, capsys, damage):
    """A damaged checkpoint is believed, ends the training, or is passed over in silence."""
    path = tmp_path / "a.pt"
    wanted = fit(training_of(split), split, Nowhere())
    with pytest.raises(Killed):
        fit(training_of(split), split, Killing(path, 1))
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    found = fit(training_of(split), split, Checkpoint(path))
    printed = capsys.readouterr()
    assert "warning" in printed.err and str(path) in printed.err and "going on" not in printed.out
    assert raw(found.state) == raw(wanted.state) and found.history == wanted.history


def test_no_checkpoint_is_no_warning(tmp_path, capsys):
    """A first run warns of a checkpoint that can't be there."""
    assert Checkpoint(tmp_path / "none.pt").load() is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("fault", ["disk full", "fsync", "replace"])
def test_a_checkpoint_write_that_is_cut_leaves_the_last_one(tmp_path, monkeypatch, fault):
    """A full disk takes the previous checkpoint along, or leaves a part of the new one behind."""
    checkpoint = Checkpoint(tmp_path / "a.pt")
    checkpoint.save({"epochs": 1, "weights": torch.arange(5)})
    before = checkpoint.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*_):
        raise OSError(28, "No space left on device")

    try:
        if fault == "disk full":  # the write itself stops after 20 kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        else:
            monkeypatch.setattr(os, fault, full)
        with pytest.raises(OSError):
            checkpoint.save({"epochs": 2, "weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    assert checkpoint.path.read_bytes() == before and list(tmp_path.iterdir()) == [checkpoint.path]
    assert checkpoint.load()["epochs"] == 1
    checkpoint.save({"epochs": 2})
    assert checkpoint.load() == {"epochs": 2}


def test_checkpoint_for(tmp_path, monkeypatch):
    """Two trainings share a checkpoint, it lies elsewhere than VITSCALE_CHECKPOINTS says, or old ones pile up."""
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "there"))
    for key in ("a" * 64, "b" * 64):
        with checkpoint_for("finetune@x", key) as checkpoint:
            assert checkpoint.load() is None and checkpoint.path.parent == tmp_path / "there"
            checkpoint.save({"key": key})
    old = tmp_path / "there/finetune@y-c.pt"
    old.write_bytes(b"")
    past = time.time() - (checkpoint_module.KEEP_DAYS + 1) * 86_400
    os.utime(old, (past, past))
    with checkpoint_for("finetune@x", "a" * 64) as checkpoint:
        assert checkpoint.load() == {"key": "a" * 64}
    assert not old.exists() and len(list((tmp_path / "there").glob("*.pt"))) == 2


# The device


@pytest.fixture
def settings_kept():
    """Put torch's global settings back, which device.setup changes."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", "1e1", " ", "²"])
def test_setup_refuses_a_thread_count(threads, monkeypatch, settings_kept):
    """A thread count that is no positive number is passed over, or ends in a traceback."""
    monkeypatch.setenv("VITSCALE_THREADS", threads)
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    with pytest.raises(UserError, match="VITSCALE_THREADS") as caught:
        device.setup()
    assert "1 or more" in str(caught.value)


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "cpu:-3", "1x"])
def test_setup_refuses_a_device(name, monkeypatch, settings_kept):
    """A device that isn't there ends in a traceback, or in a training on another one."""
    monkeypatch.delenv("VITSCALE_THREADS", raising=False)
    monkeypatch.setenv("VITSCALE_DEVICE", name)
    with pytest.raises(UserError, match=f"VITSCALE_DEVICE={name}") as caught:
        device.setup()
    assert "cpu, cuda" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_setup(monkeypatch, settings_kept):
    """The environment's threads and device aren't taken, or non-deterministic algorithms stay allowed."""
    monkeypatch.setenv("VITSCALE_THREADS", "1")
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    assert (
        device.setup() == CPU
        and torch.get_num_threads() == 1
        and torch.are_deterministic_algorithms_enabled()
    )
    monkeypatch.delenv("VITSCALE_THREADS")
    monkeypatch.delenv("VITSCALE_DEVICE")
    assert device.setup().device.type == ("cuda" if torch.cuda.is_available() else "cpu")


CLAIM = """
import sys, tempfile, time, types
import torch
from vitscale.runtime import device
tempfile.tempdir = sys.argv[1]
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_properties = lambda index: types.SimpleNamespace(uuid=f"gpu-{index}")
print(device.claim_cuda(), device.claim_cuda(), flush=True)
time.sleep(60)
"""


def test_each_process_claims_a_cuda_device_of_its_own(tmp_path):
    """Two workers train on one GPU while another idles, or a killed worker's GPU stays claimed."""
    processes = []

    def claim() -> str:
        """Return what a new process, which stays, is given when it asks and when it asks again."""
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", CLAIM, str(tmp_path)],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(Path(device.__file__).parents[2])},
            )
        )
        return processes[-1].stdout.readline().strip()

    try:
        assert [claim() for _ in range(3)] == [
            "cuda:0 cuda:0",
            "cuda:1 cuda:1",
            "cuda:0 cuda:0",
        ]  # the third shares
        processes[1].kill()
        processes[1].wait()
        assert claim() == "cuda:1 cuda:1"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("precision", "native", "wanted"),
    [
        ("float32", True, torch.float32),
        ("float32", False, torch.float32),
        ("bfloat16", True, torch.bfloat16),
        ("bfloat16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_precision(precision, native, wanted, monkeypatch):
    """A forward pass runs in another precision than params.yaml's, or than the hardware's where it leaves the choice."""
    monkeypatch.setattr(device, "has_native_bfloat16", lambda device: native)
    with Compute(CPU.device, precision).autocast():
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == wanted
    assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [
        ({}, False),
        ({"avx512": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
    ],
)
def test_native_bfloat16_on_a_cpu(capabilities, wanted, monkeypatch):
    """bfloat16 is chosen where the CPU only emulates it, or isn't where it has it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert device.has_native_bfloat16(CPU.device) is wanted


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
    assert training.resident is not None
    for name, value in there.state.items():
        assert value.device.type == "cpu"
        assert torch.allclose(value, here.state[name], atol=2e-3), name
