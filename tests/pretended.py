"""Tensors that say they are on a device that isn't there, and refuse to meet tensors of the CPU.

Each holds a CPU tensor, which does its work: so values are real, and a training gives what it gives on a CPU.
CUDA's own rules hold, a little stricter: a CPU tensor without dimensions may meet a device's; indices on the CPU may
not, though CUDA takes them (it copies them, and waits).
"""

from collections import Counter

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
# What the host has to wait for, since it asks for a value, or for a shape that hangs on values.
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.bincount.default,
}


class OnDevice(Tensor):
    """A tensor that says it is on a device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device):
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    def __repr__(self, **_) -> str:
        return f"OnDevice({self.held}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of `Pretended`")


def returned(func, args: tuple, kwargs: dict, result: Tensor, place: int):
    """Return the argument that an operator in place gives back, or None."""
    info = func._schema.returns[place].alias_info if place < len(func._schema.returns) else None
    if info is None or not info.is_write:
        return None
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.before_set == info.before_set:
            return args[i] if i < len(args) else kwargs[argument.name]
    return None


# A FakeTensorMode only so that torch doesn't look for a driver; it makes no fake tensor.
class Pretended(FakeTensorMode):
    """While it is entered the device is there. `waits` counts what its host would wait for."""

    avoid_device_init = True  # nor where there is a GPU

    def __init__(self, has_float64: bool = False):
        super().__init__()
        self.there, self.has_float64 = torch.device("cuda:0"), has_float64
        self.waits: Counter = Counter()
        self.seen: Counter = Counter()

    def __enter__(self):
        self.kept = torch.backends.cudnn.enabled
        torch.backends.cudnn.enabled = False  # its operators have no CPU kernels
        torch.__future__.set_overwrite_module_params_on_conversion(
            True
        )  # else `to` would leave `held` behind
        return super().__enter__()

    def __exit__(self, *error):
        torch.backends.cudnn.enabled = self.kept
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        mine = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
        cpus = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, OnDevice)]
        named = kwargs.get("device")
        to = named if named is not None else self.there if mine else torch.device("cpu")
        if to.type == "cpu" and not mine:
            return func(*args, **kwargs)
        if func not in COPIES and mine and (sized := [leaf for leaf in cpus if leaf.ndim]):
            raise RuntimeError(
                f"{func}: a tensor of the CPU, {tuple(sized[0].shape)}, among those of {self.there}"
            )
        if to.type != "cpu" and any(isinstance(leaf, torch.Generator) for leaf in leaves):
            raise RuntimeError(f"{func}: a generator of the CPU for {self.there}")
        self.seen[str(func)] += 1
        moved = func in COPIES and (bool(cpus) or to.type == "cpu")
        if func in WAITS or (moved and not (kwargs.get("non_blocking") or True in args[2:])):
            self.waits[str(func)] += 1
        held = tree_map(lambda leaf: leaf.held if isinstance(leaf, OnDevice) else leaf, (args, kwargs))
        if named is not None:
            held[1]["device"] = torch.device("cpu")
        found = func(*held[0], **held[1])
        results = found if isinstance(found, (tuple, list)) else (found,)
        answers = []
        for place, result in enumerate(results):
            given = returned(func, args, kwargs, result, place)
            if given is not None:
                answers.append(given)
            elif isinstance(result, (tuple, list)):
                answers.append([self.put(each, to) for each in result])
            else:
                answers.append(self.put(result, to))
        if isinstance(found, (tuple, list)):
            return type(found)(answers)
        return answers[0]

    def put(self, result, to: torch.device):
        """Return a result where it belongs; without float64, as Apple's mps, unless it was asked for."""
        if not isinstance(result, Tensor) or to.type == "cpu":
            return result
        if result.dtype == torch.float64 and not self.has_float64:
            raise RuntimeError(f"float64 on {to}, which Apple's mps doesn't have")
        return OnDevice(result, to)
