"""Whole steps on a `cuda:0` that isn't there: its operators take shapes and types, none asks for a value, none raises."""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from determinism import raising
from gpus import FEATURES, MODELS, OFF, POLICIES, RECIPES, SPLIT, a_training, batch_of, model_of
from symbolic import GPU, Symbolic, a_gpu
from vitscale.models import vit
from vitscale.runtime.device import Compute
from vitscale.training.inference import predict
from vitscale.training.loop import Training

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # a deep copy asks
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def tensors_of(training: Training) -> list[Tensor]:
    """Return all that a step leaves: weights, statistics, gradients, optimizers' states, the average."""
    model, average = training.model, training.average
    states = [
        each
        for optimizer in training.optimizers
        for state in optimizer.state.values()
        for each in state.values()
    ]
    gradients = [each.grad for each in model.parameters() if each.requires_grad]
    averaged = [] if average is None else [*average.module.parameters(), *average.module.buffers()]
    assert None not in gradients and len(states) >= len(gradients)
    return [
        *model.parameters(),
        *model.buffers(),
        *gradients,
        *averaged,
        *(each for each in states if isinstance(each, Tensor)),
    ]


def stepped(training: Training, precision: str, steps: int = 2) -> None:
    """Train some steps; fail where something is left elsewhere, or was computed in another type."""
    types = Counter()
    training.model.head.register_forward_hook(lambda module, given, logits: types.update([logits.dtype]))
    training.train_mode()
    for step in range(steps):
        loss = training.step(*batch_of(training, step), step)
        assert loss.device == GPU and loss.dtype == torch.float32 and loss.shape == ()
    assert {each.device for each in tensors_of(training)} == {GPU}
    assert {each.dtype for each in training.model.parameters()} == {torch.float32}
    assert types == {PRECISIONS[precision]: steps * training.plan.recipe.accumulate}


# ResNet-18, whose step takes a second, in each precision with its own recipe, with the others in float32 alone.
STEPS = [
    (model, recipe, precision)
    for model in MODELS
    for recipe in RECIPES
    for precision in PRECISIONS
    if model.startswith("vit")
    or (model == "resnet18-imagenet" and (recipe == "sgd" or precision == "float32"))
]


@pytest.mark.parametrize(("model", "recipe", "precision"), STEPS)
def test_step(model, recipe, precision):
    """A step on CUDA has an operator that CUDA hasn't, waits for a value, raises, or leaves something on the CPU."""
    with a_gpu(Symbolic()) as gpu:
        training = a_training(
            model_of(model), Compute(GPU, precision), recipe=RECIPES[recipe], policy=OFF, sizes=[32]
        )
        stepped(training, precision, 1 if model.startswith("resnet") else 2)
    assert not raising(gpu.seen) and any("backward" in name for name in gpu.seen)


@pytest.mark.parametrize(
    ("precision", "kernel"), [("float32", "efficient"), ("float16", "flash"), ("bfloat16", "flash")]
)
def test_attention_is_fused(precision, kernel):
    """On CUDA a ViT writes attention out, as it does on CPUs, and takes the memory and time of all its weights."""
    with a_gpu(Symbolic()) as gpu:
        stepped(
            a_training(model_of("vit-dropout-depth"), Compute(GPU, precision), policy=OFF, sizes=[32]),
            precision,
            1,
        )
    name = f"_scaled_dot_product_{kernel}_attention"
    assert gpu.seen[name] == gpu.seen[f"{name}_backward"] == 2 and not {"_softmax", "bmm"} & gpu.seen.keys()


@pytest.mark.parametrize("model", MODELS)
def test_step_at_another_size(model):
    """With progressive resizing a step differentiates an interpolation, which raises on CUDA."""
    with a_gpu(Symbolic()) as gpu:
        stepped(a_training(model_of(model), Compute(GPU), policy=OFF, sizes=[16]), "float32", 1)
    assert not raising(gpu.seen) and "_upsample_bilinear2d_aa" in gpu.seen


@pytest.mark.parametrize("free", [0, 10**12], ids=["streamed", "resident"])
@pytest.mark.parametrize("policy", POLICIES)
def test_batch(policy, free):
    """A policy asks for a value on the device, has an operator that raises, or leaves a batch on the CPU."""
    with a_gpu(Symbolic(), free) as gpu:
        training = a_training(model_of("vit-class-learned"), Compute(GPU), policy=POLICIES[policy])
        for step, size in ((0, 16), (3, 32)):
            images, targets = batch_of(training, step)
            assert images.device == targets.device == GPU and images.dtype == targets.dtype == torch.float32
            assert images.shape == (12, 3, size, size) and targets.shape == (12, 4)
    assert not raising(gpu.seen)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("inputs", ["images", "features"])
def test_probe(inputs, recipe, precision):
    """A probe's step on CUDA goes through what raises, trains the backbone too, or leaves something on the CPU."""
    model, split = model_of("vit-class-learned"), SPLIT
    if inputs == "features":
        model, split = model.head_alone(), FEATURES
    with a_gpu(Symbolic()) as gpu:
        rest = {"split": split, "frozen": True, "policy": OFF, "recipe": RECIPES[recipe], "sizes": [32]}
        training = a_training(model, Compute(GPU, precision), **rest)
        stepped(training, precision)
        with_gradients = [name for name, each in training.model.named_parameters() if each.grad is not None]
    assert with_gradients == ["head.weight", "head.bias"] and not raising(gpu.seen)


def test_probe_of_a_frozen_resnet18():
    """A frozen backbone's batch norms take statistics on CUDA, or its buffers are averaged as numbers."""
    with a_gpu(Symbolic()) as gpu:
        rest = {"frozen": True, "policy": OFF, "recipe": RECIPES["muon"], "sizes": [32]}
        stepped(a_training(model_of("resnet18-imagenet"), Compute(GPU), **rest), "float32")
    assert not raising(gpu.seen) and not any("batch_norm_backward" in name for name in gpu.seen)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_predict(model, precision):
    """Scoring on CUDA has an operator that CUDA hasn't or that raises, or gives its answers in another type."""
    with a_gpu(Symbolic()) as gpu:
        logits = predict(model_of(model), SPLIT.images[:, :24, :24], Compute(GPU, precision))
        assert logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.shape == (24, 4)
    assert not raising(gpu.seen)


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x + torch.ones(4, 4),
        lambda x: x.cpu() + x,
    ],
    ids=["item", "if", "mask", "nonzero", "mixed", "back"],
)
def test_a_value_that_is_asked_for(asks):
    """The tests here pass whatever a step does: the host can ask for values, or mix devices, unseen."""
    with a_gpu(Symbolic()):
        x = torch.ones(4, 4).to(GPU)
        with pytest.raises(
            (DataDependentOutputException, DynamicOutputShapeException, RuntimeError)
        ) as caught:
            asks(x)
    assert "driver" not in str(caught.value)


def test_backward_is_torchs(monkeypatch):
    """The backward pass in Python, which the fake device takes, gives other gradients than torch's engine."""
    import backward

    for name in ("vit-dropout-depth", "resnet18-imagenet"):
        found = []
        for engine in (Tensor.backward, backward.backward):
            with monkeypatch.context() as patch:
                patch.setattr(Tensor, "backward", engine)
                training = a_training(model_of(name), policy=OFF)
                training.train_mode()
                torch.manual_seed(0)
                training.step(*batch_of(training), 0)
                found.append([each.grad for each in training.model.parameters()])
        assert all(map(torch.equal, *found)) and not any((each == 0).all() for each in found[0])


@pytest.mark.parametrize("model", ["vit-class-learned", "vit-dropout-depth", "resnet18-imagenet"])
def test_one_graph(model, monkeypatch):
    """With `compile` the way that a GPU takes through a ViT breaks into several graphs: with fullgraph, an error there."""
    monkeypatch.setattr(vit, "has_fused_kernels", lambda tensor: True)
    graphs = []
    compiled = torch.compile(
        model_of(model).train(),
        backend=lambda graph, _: graphs.append(graph) or graph,
        fullgraph=True,
        dynamic=False,
    )
    for size in (32, 16):
        compiled(torch.rand(2, 3, size, size)).sum().backward()
    assert len(graphs) == 2
    torch._dynamo.reset()
