"""Checkpoint files that others made: shapes first, values once those fit.

No code of a file is run: safetensors has none, and of a pickle only tensors are taken. No memory is taken for
what a file merely says of itself: `shapes` gives tensors on the meta device, which have no values.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vitscale.base import files
from vitscale.base.errors import UserError
from vitscale.models.store import DTYPES, header


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a small JSON file. Raises ValueError where it is none, or not small."""
    try:
        return files.read_json(path, dict, "take other weights", f"its {path.name}")
    except UserError as error:
        raise ValueError(f"can't be used: {error}") from None


def _pickled(path: Path, device: str) -> dict[str, Tensor]:
    """Return the tensors of a pickle. Raises ValueError where it holds anything else."""
    if not zipfile.is_zipfile(
        path
    ):  # of before torch 1.6: what it says of its sizes can't be held against its own
        raise ValueError(f"has a {path.name} that isn't of torch 1.6 or later")
    with zipfile.ZipFile(path) as archive:
        if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
            raise ValueError(f"has a {path.name} that is compressed, as torch never writes it")
    state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise ValueError(f"has a {path.name} with other things than tensors by name")
    if sum(each.nbytes for each in state.values()) > path.stat().st_size:  # one value stands for many
        raise ValueError(f"has a {path.name} whose tensors are larger than the file")
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    if odd := [name for name, each in state.items() if each.is_floating_point() and each.dtype not in floats]:
        raise ValueError(f"has {odd[0]} of type {state[odd[0]].dtype}; we take {', '.join(DTYPES)}")
    return {name: each.float() if each.is_floating_point() else each for name, each in state.items()}


def shapes(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors on the meta device: without values, and those of floating point as float32.

    Raises what reading it raises: ValueError, SafetensorError, UnpicklingError, RuntimeError.
    """
    if path.suffix != ".safetensors":
        return _pickled(path, "meta")
    return header(path)


def values(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors, those of floating point as float32."""
    if path.suffix != ".safetensors":
        return _pickled(path, "cpu")
    return {
        name: each.float() if each.is_floating_point() else each for name, each in load_file(path).items()
    }
