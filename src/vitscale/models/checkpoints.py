"""Checkpoint files that others made: shapes first, values once those fit.

No code of a file is run: safetensors has none, and of a pickle only tensors are taken. No memory is taken for
what a file merely says of itself: `shapes` gives tensors on the meta device, which have no values.
"""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

# By safetensors' names, and what becomes of them: an I64 is a counter of batches. Others, such as 8-bit ones,
# need scales that stand elsewhere.
DTYPES = dict.fromkeys(("F64", "F32", "F16", "BF16"), torch.float32) | {"I64": torch.int64}
JSON_LIMIT = 16 * 2**20  # bytes; the names of ImageNet's 21,843 classes take 2 MB


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a small JSON file. Raises ValueError where it is none, or not small."""
    if (size := path.stat().st_size) > JSON_LIMIT:
        raise ValueError(f"has a {path.name} of {size} bytes, more than the {JSON_LIMIT} that we read")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a {path.name} that is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"has a {path.name} that holds no object")
    return content


def on_meta(tensors: Iterable[tuple[str, Iterable[int], str]]) -> dict[str, Tensor]:
    """Return tensors without values, by name, of such shapes and of safetensors' types.

    Raises ValueError where a shape or a type is none that we take.
    """
    found = {}
    for name, shape, dtype in tensors:
        if dtype not in DTYPES:
            raise ValueError(f"has {name} of type {dtype}; we take {', '.join(DTYPES)}")
        try:
            found[name] = torch.empty(list(shape), dtype=DTYPES[dtype], device="meta")
        except (RuntimeError, TypeError, OverflowError):
            raise ValueError(f"has {name} of a shape that no tensor can have") from None
    return found


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
    with safe_open(path, "pt") as file:  # it holds the header against the file's own size
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return on_meta((name, each.get_shape(), each.get_dtype()) for name, each in slices.items())


def values(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors, those of floating point as float32."""
    if path.suffix != ".safetensors":
        return _pickled(path, "cpu")
    return {
        name: each.float() if each.is_floating_point() else each for name, each in load_file(path).items()
    }
