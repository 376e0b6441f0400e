"""Several processes at one training, as torchrun starts them: how they meet, and what they tell each other.

Each function is the identity where there is one process.
"""

import os
import socket
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vitscale.base.errors import UserError
from vitscale.base.processes import PROCESSES, RANK

Value = TypeVar("Value")


def join(device: torch.device) -> None:
    """Meet the other processes, each with a device of its own."""
    if PROCESSES > 1 and not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # A day: the first process may wait for another one that is at the same training.
        backend = "nccl" if device.type == "cuda" else "gloo"
        day = timedelta(days=1)
        store = meeting_place(day)
        distributed.init_process_group(backend, store=store, rank=RANK, world_size=PROCESSES, timeout=day)


def meeting_place(timeout: timedelta) -> distributed.Store:
    """Return a new connection to the store where torchrun's processes meet.

    Its `--max-restarts` keeps the store, with dead processes' addresses: each start has a part of its own.
    """
    store = next(iter(distributed.rendezvous("env://", timeout=timeout)))[0]
    return distributed.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def part() -> None:
    """Part from the other processes, when all are through; NCCL complains of those that just end."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def part_of(batch_size: int) -> slice:
    """Return which of a batch are this process's. Raises UserError where equal parts can't be had."""
    if batch_size % PROCESSES:
        raise UserError(
            f"{PROCESSES} processes can't have equal parts of a batch of {batch_size}; change the recipe's "
            "batch_size"
        )
    share = batch_size // PROCESSES
    return slice(RANK * share, (RANK + 1) * share)


def share_statistics(model: nn.Module, device: torch.device) -> None:
    """Let batch norm take its statistics over the batch of all processes.

    Raises UserError on a CPU, where torch can't.
    """
    if PROCESSES > 1 and any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        if device.type == "cpu":
            raise UserError(
                "batch norm can't be shared by processes on CPUs; start this model's stage without torchrun"
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def share_gradients(model: nn.Module) -> nn.Module:
    """Return a model whose backward pass leaves the means of all processes' gradients."""
    return DistributedDataParallel(model, forward_sync_buffers=False) if PROCESSES > 1 else model


def shared(model: nn.Module, now: bool) -> AbstractContextManager:
    """Return the context of a pass whose gradients the processes share now, or with those of a later one."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not now else nullcontext()


def mean(values: Tensor) -> Tensor:
    """Return the values' mean over all processes."""
    if PROCESSES > 1:
        values = values.clone()
        distributed.all_reduce(values)
        values /= PROCESSES
    return values


def share_of(count: int, rank: int | None = None) -> range:
    """Return which of `count` things a process scores, by default this one.

    All have equally many, at least one where there is one, so that the last shares overlap.
    """
    each = -(-count // PROCESSES)
    first = min((RANK if rank is None else rank) * each, count - each)
    return range(first, first + each)


def joined(values: Tensor, count: int, device: torch.device) -> Tensor:
    """Return the rows of all shares of `count`, on the CPU in every process; `device` is what sends them."""
    if PROCESSES == 1:
        return values
    values = values.to(device)
    sent = values.new_empty(PROCESSES * len(values), *values.shape[1:])
    distributed.all_gather_into_tensor(sent, values)
    result = torch.empty(count, *values.shape[1:], dtype=values.dtype)
    for rank, part in enumerate(sent.cpu().split(len(values))):
        share = share_of(count, rank)
        result[share.start : share.stop] = part
    return result


def of_first(value: Value) -> Value:
    """Return the first process's value in every process."""
    if PROCESSES > 1:
        values = [value]
        distributed.broadcast_object_list(values)
        value = values[0]
    return value


def require_same(value: Value, what: str) -> None:
    """Raise UserError where this process's value, which says `what` it has, isn't the first process's."""
    if of_first(value) != value:
        raise UserError(
            f"{socket.gethostname()} has other {what} than the machine of process 0; bring its folder up to "
            "date and start again on all machines"
        )
