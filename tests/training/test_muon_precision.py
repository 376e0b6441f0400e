"""In what Muon multiplies: bfloat16 where the device does that itself, else float32."""

import pytest
import torch
from torch import nn

from vitscale.data.augment import generator_for
from vitscale.training import optimizers
from vitscale.training.optimizers import Muon, orthogonalised

SHAPES = [(48, 16), (16, 48), (24, 24)]


def updates(dtype: torch.dtype | None, monkeypatch, scale: float = 1.0) -> tuple[list, set]:
    """Return a step's updates where `auto` is such a dtype, and the dtypes that were orthogonalised."""
    seen = set()

    def watched(matrices):
        seen.add(matrices.dtype)
        return orthogonalised(matrices)

    if dtype:
        monkeypatch.setattr(optimizers, "chosen", lambda precision, device: dtype)
    monkeypatch.setattr(optimizers, "orthogonalised", watched)
    matrices = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for i, matrix in enumerate(matrices):
        matrix.grad = scale * torch.randn(matrix.shape, generator=generator_for(i))
    Muon(matrices, lr=1.0, weight_decay=0.0, momentum=0.95).step()
    return [matrix.detach() / (0.2 * max(matrix.shape) ** 0.5) for matrix in matrices], seen


@pytest.mark.parametrize(
    ("auto", "wanted"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_muon_multiplies_in_what_is_native(auto, wanted, monkeypatch):
    """On a CPU without bfloat16 a step takes 25 times as long; in float16 a small gradient is 0."""
    for scale in (1.0, 1e-6):
        found, seen = updates(auto, monkeypatch, scale)
        assert seen == {wanted} and {update.dtype for update in found} == {torch.float32}
        for update in found:
            values = torch.linalg.svdvals(update.double())
            assert values.median() > 0.6 and values.max() < 1.3


def test_muon_in_float32_is_newton_schulz(monkeypatch):
    """The float32 way isn't that of bfloat16, only sharper: another polynomial, scale or sign."""
    exact, _ = updates(torch.float32, monkeypatch)
    rough, _ = updates(torch.bfloat16, monkeypatch)
    for shape, one, other, i in zip(SHAPES, exact, rough, range(3), strict=True):
        x = torch.randn(shape, generator=generator_for(i)).double()
        x = x.T if shape[0] > shape[1] else x
        x = x / x.norm()
        for _ in range(5):  # Jordan et al. 2024
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        wanted = -(x.T if shape[0] > shape[1] else x).float()
        assert (one - wanted).abs().max() < 1e-4 < (other - wanted).abs().max() < 0.1


def test_a_limit_of_onednn_reaches_muon(monkeypatch):
    """Where ONEDNN_MAX_CPU_ISA forbids bfloat16's instructions Muon multiplies in it all the same."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert updates(None, monkeypatch)[1] == {torch.float32}
