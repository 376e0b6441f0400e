"""What raises on CUDA under deterministic algorithms, by torch's own list, and whether the tests would see it."""

import pytest
import torch
from torch.nn import functional as F

from determinism import CUDA, MPS, listed, raising
from symbolic import GPU, Symbolic, a_gpu


def test_every_entry_of_torchs_list_is_known():
    """A newer torch lists an operator that raises, and no step is held against it; or an entry here is out of date."""
    assert len(listed()) > 20 and sorted(listed()) == sorted({**CUDA, **MPS})


@pytest.mark.parametrize("entries", [CUDA, MPS], ids=["cuda", "mps"])
def test_listed_operators_exist(entries):
    """A name of the list is misspelt, so that the operator is never found in a step."""
    names = {name.split(" with ")[0].split(".")[0] for each in entries.values() for name in each}
    assert all(hasattr(torch.ops.aten, name) for name in names)


def image(size: int = 8) -> torch.Tensor:
    return torch.empty(2, 3, size, size, device=GPU, requires_grad=True)


RAISE = {
    "_adaptive_avg_pool2d_backward": lambda: F.adaptive_avg_pool2d(image(), 2).sum().backward(),
    "adaptive_max_pool2d_backward": lambda: F.adaptive_max_pool2d(image(), 2).sum().backward(),
    "_upsample_bilinear2d_aa_backward": lambda: (
        F.interpolate(image(), 4, mode="bilinear", antialias=True).sum().backward()
    ),
    "upsample_bicubic2d_backward": lambda: F.interpolate(image(), 4, mode="bicubic").sum().backward(),
    "reflection_pad2d_backward": lambda: F.pad(image(), (1, 1, 1, 1), mode="reflect").sum().backward(),
    "grid_sampler_2d_backward": lambda: (
        F.grid_sample(image(), torch.empty(2, 4, 4, 2, device=GPU), align_corners=False).sum().backward()
    ),
    "nll_loss_forward": lambda: F.cross_entropy(
        image()[:, :, 0, 0], torch.empty(2, dtype=torch.long, device=GPU)
    ),
    "histc": lambda: torch.histc(image().detach()),
    "bincount with weights": lambda: torch.bincount(
        torch.empty(4, dtype=torch.long, device=GPU), torch.empty(4, device=GPU), minlength=4
    ),
    "median.dim": lambda: image().median(0),
    "put_": lambda: (
        image().detach().put_(torch.empty(1, dtype=torch.long, device=GPU), torch.empty(1, device=GPU))
    ),
    "scatter_reduce_": lambda: (
        image()
        .detach()
        .scatter_reduce_(0, torch.empty(1, 1, 1, 1, dtype=torch.long, device=GPU), image().detach(), "amax")
    ),
}


@pytest.mark.parametrize("name", RAISE)
def test_an_operator_that_raises_is_seen(name):
    """An operator that raises on CUDA goes through the tests of steps unseen, since it is recorded under another name."""
    with a_gpu(Symbolic()) as gpu:
        RAISE[name]()
    assert raising(gpu.seen) == {name}


QUIET = {
    "adaptive_avg_pool2d to 1": lambda: F.adaptive_avg_pool2d(image(), 1).sum().backward(),
    "max_pool2d": lambda: F.max_pool2d(image(), 2).sum().backward(),
    "soft targets": lambda: F.cross_entropy(image()[:, :, 0, 0], torch.empty(2, 3, device=GPU)).backward(),
    "bincount": lambda: torch.bincount(torch.empty(4, dtype=torch.long, device=GPU), minlength=4),
    "nearest": lambda: F.interpolate(image(), 4, mode="nearest").sum().backward(),
}


@pytest.mark.parametrize("name", QUIET)
def test_an_operator_that_doesnt_raise(name):
    """What works on CUDA is taken for an operator that raises, so that the code goes a longer way round."""
    with a_gpu(Symbolic()) as gpu:
        QUIET[name]()
    assert gpu.seen and not raising(gpu.seen)
