"""Apple's mps, which was never at hand: has it a kernel for each operator of a step, and does one raise there?

float64, which it hasn't, is refused in test_apart.
"""

from pathlib import Path

import pytest
import torchgen
import yaml

from determinism import MPS, raising
from gpus import FEATURES, MODELS, OFF, RECIPES, SPLIT, a_training, batch_of, model_of
from pretended import Pretended
from symbolic import GPU, a_gpu
from trainings import LIGHT
from vitscale.runtime.device import Compute
from vitscale.training.inference import predict

STRONG = LIGHT | {"trivial_augment": True, "erasing": 0.5, "mixup": 0.2, "cutmix": 1.0}
# torch writes these out where the device is another one.
CUDAS = {"_scaled_dot_product_efficient_attention": "_scaled_dot_product_attention_math_for_mps"}


def functions() -> dict[str, dict]:
    """Return ATen's table of operators by name and overload, as the installed torch has it."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.load(path.read_text(), yaml.CSafeLoader)
    return {entry["func"].partition("(")[0]: entry for entry in entries}


def has_kernel(name: str, table: dict[str, dict]) -> bool:
    """Tell whether an operator has a kernel for MPS, by itself, by its `out` form, or made of others."""
    entry = table[name]
    for _ in range(2):
        keys = {
            key.strip()
            for keys in entry.get("dispatch", {"CompositeImplicitAutograd": ""})
            for key in keys.split(",")
        }
        if any(key == "MPS" or key.startswith("Composite") for key in keys):
            return True
        entry = table.get(entry.get("structured_delegate", ""), {"dispatch": {}})
    return False


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """Return the operators of batches, steps and scores, forward and backward, by name and overload."""
    found = set()
    for number, model in enumerate(MODELS):
        with a_gpu(Pretended()) as gpu:
            recipe = RECIPES[list(RECIPES)[number % len(RECIPES)]]
            training = a_training(model_of(model), Compute(GPU), policy=STRONG, recipe=recipe)
            training.train_mode()
            training.step(*batch_of(training), 0)
            predict(model_of(model), SPLIT.images[:, :24, :24], Compute(GPU))
            head = model_of("vit-class-learned").head_alone()
            probe = a_training(head, Compute(GPU), split=FEATURES, frozen=True, policy=OFF)
            probe.step(*batch_of(probe), 0)
        found |= {name.removeprefix("aten.").removesuffix(".default") for name in gpu.seen}
    return found


def test_every_operator_has_a_kernel(seen):
    """A step has an operator that torch has no kernel for on mps, and ends there in NotImplementedError."""
    table = functions()
    assert len(seen) > 60
    assert [name for name in sorted(seen) if name in table and not has_kernel(name, table)] == []
    assert [name for name in sorted(seen) if name not in table] == []


def test_a_missing_kernel_is_seen():
    """The test above passes whatever a step does."""
    table = functions()
    assert not has_kernel("_fft_c2r", {"_fft_c2r": {"func": "", "dispatch": {"CPU": "x", "CUDA": "y"}}})
    assert has_kernel("relu", table) and has_kernel("_upsample_bilinear2d_aa", table)


def test_what_raises(seen):
    """A step has an operator that raises on mps under deterministic algorithms, beside the one that is known."""
    names = {name.partition(".")[0] for name in seen}
    assert raising(names, MPS) == {"max_pool2d_with_indices_backward"}  # ResNet-18 with ImageNet's stem
