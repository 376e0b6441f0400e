"""Faults that an attack on others' weights found."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import DeiTConfig, DeiTForImageClassification

from published import DEIT_PROCESSOR, LABELS, VIT, entry_of, inputs_of, publish, started
from vitscale.base.errors import UserError


def test_an_epsilon_below_ours(mirror):
    """A model whose tokens vary little, as transformers' own start has them, answers otherwise with another epsilon."""
    torch.manual_seed(0)
    model = DeiTForImageClassification(
        DeiTConfig(**(VIT | LABELS | {"initializer_range": 0.02, "hidden_size": 64}))
    ).eval()
    folder = mirror / "someone/deit"
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(DEIT_PROCESSOR))
    ours = started(mirror, entry_of(mirror, "someone/deit"))
    images = inputs_of(ours)
    with torch.no_grad():
        assert (ours(images) - model(images).logits).abs().max() < 1e-4


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
