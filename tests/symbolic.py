"""A CUDA device of which torch knows shapes, types and what its kernels would do, but no values (torch's FakeTensor).

Tensors of the CPU stay real beside it, so that augmentation can draw. A value that is asked for ends in an error: on a GPU
the host would wait for it.
"""

from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.utils._pytree import tree_leaves

import backward

aten = torch.ops.aten
GPU = torch.device("cuda:0")


def named(func, args: tuple, kwargs: dict) -> str:
    """Return an operator's name with what, beside it, decides whether it is deterministic."""
    name = func._schema.name.removeprefix("aten::")
    if name == "bincount" and (kwargs.get("weights") if len(args) < 2 else args[1]) is not None:
        return "bincount with weights"
    if name.startswith(("index_put", "put", "_index_put")) and (kwargs.get("accumulate") or True in args[3:]):
        return f"{name} with accumulate"
    return f"{name}.dim" if name == "median" and func._overloadname == "dim" else name


class Symbolic(FakeTensorMode):
    """While it is entered there is a `cuda:0`. `seen` counts its operators, forward and backward."""

    avoid_device_init = True  # the same where there is a GPU

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.seen: Counter = Counter()
        self.depth = 0

    def dispatch(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        there = [leaf for leaf in leaves if isinstance(leaf, FakeTensor)]
        if not there and not any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves):
            return func(*args, **kwargs)
        if not self.depth:
            self.seen[named(func, args, kwargs)] += 1
        if func is torch.ops.aten.bincount.default:  # all values are smaller than `minlength`
            return args[0].new_empty(
                kwargs.get("minlength", args[2] if len(args) > 2 else 0), dtype=torch.int64
            )
        if func is torch.ops.aten._fused_sgd_.default:  # torch has no shapes for it
            assert {tensor.device for tensor in there} == {GPU} and len(there) == sum(map(len, args[:3]))
            return None
        self.depth += 1
        try:
            return super().dispatch(func, types, args, kwargs)
        finally:
            self.depth -= 1


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return scaled_dot_product_attention by the kernel that a GPU takes; without one torch writes it out."""
    if q.dtype == torch.float32:
        return aten._scaled_dot_product_efficient_attention(q, k, v, None, q.requires_grad)[0]
    return aten._scaled_dot_product_flash_attention(q, k, v)[0]


@contextmanager
def a_gpu(mode: FakeTensorMode, free: int = 10**12):
    """Let torch believe in a GPU with so many free bytes, whose tensors `mode` makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, 10**12))
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
        patch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=10**12))
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(Tensor, "backward", backward.backward)
        patch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
        if isinstance(mode, Symbolic):
            patch.setattr(functional, "scaled_dot_product_attention", attention)
            # Whether float16 overflowed is the one value that a step asks for.
            patch.setattr(
                torch.amp.GradScaler, "_maybe_opt_step", lambda _, optimizer, *rest: optimizer.step()
            )
        with mode:
            yield mode
