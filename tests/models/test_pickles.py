"""Faults that an attack on others' weights found."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import DeiTConfig, DeiTForImageClassification

from published import DEIT_PROCESSOR, LABELS, VIT, entry_of, publish, started
from vitscale.base.errors import UserError


def test_eight_bits_in_a_pickle(mirror):
    """Tensors that need scales are refused in a safetensors file and believed in a pickle."""
    publish(mirror, "someone/deit", DeiTForImageClassification(DeiTConfig(**(VIT | LABELS))), DEIT_PROCESSOR)
    folder = mirror / "someone/deit"
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(
        {name: each.to(torch.float8_e4m3fn) for name, each in state.items()}, folder / "pytorch_model.bin"
    )
    with pytest.raises(UserError):
        started(mirror, entry_of(mirror, "someone/deit"))
