"""The backward pass in Python, for tensors on a device that isn't there: torch's own engine asks CUDA for its streams."""

import torch
from torch import Tensor


def edges(node) -> list:
    """Return the nodes that a node of autograd's graph hands gradients to, with the place of each in theirs."""
    return [(following, place) for following, place in node.next_functions if following is not None]


def waited_for(root) -> dict:
    """Return each node of a graph and how many gradients it waits for."""
    counts, stack = {root: 0}, [root]
    while stack:
        for following, _ in edges(stack.pop()):
            if following not in counts:
                counts[following] = 0
                stack.append(following)
            counts[following] += 1
    return counts


def backward(loss: Tensor) -> None:
    """Leave gradients as `loss.backward()` does: the same nodes, called one after the other.

    Fails where a gradient is not on the device of what it is the gradient of.
    """
    missing, held, ready = (
        waited_for(loss.grad_fn),
        {loss.grad_fn: {0: torch.ones_like(loss)}},
        [loss.grad_fn],
    )
    with torch.no_grad():
        while ready:
            node = ready.pop()
            given = held.pop(node, {})
            left = node(*[given.get(place) for place in range(len(node._input_metadata))]) if given else ()
            left = left if isinstance(left, tuple) else (left,)
            for (following, place), gradient in zip(node.next_functions, left):
                if following is not None and gradient is not None:
                    wanted = following._input_metadata[place]
                    assert gradient.device == wanted.device, (
                        f"{node.name()}: {gradient.device}, not {wanted.device}"
                    )
                    # As the engine does: summed over what was broadcast, in the type of what went in.
                    gradient = (
                        gradient if gradient.shape == wanted.shape else gradient.sum_to_size(wanted.shape)
                    )
                    gradient = gradient if gradient.dtype == wanted.dtype else gradient.to(wanted.dtype)
                    mine = held.setdefault(following, {})
                    mine[place] = mine[place] + gradient if place in mine else gradient
            for following, _ in edges(node):
                missing[following] -= 1
                if not missing[following]:
                    ready.append(following)
