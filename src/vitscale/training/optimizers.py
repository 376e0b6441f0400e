"""How a model is optimised: the recipe, its learning rate step by step, and its optimizers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from vitscale.runtime.precision import chosen


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An entry of params.yaml's `recipes`; 0 and false: off. adamw has no `momentum`, sgd no `beta2`.

    A batch is computed in `accumulate` equal parts, one after the other, and is one step all the same.
    """

    optimizer: str
    batch_size: int
    weight_decay: float
    warmup_epochs: float
    label_smoothing: float
    clip_norm: float
    ema_decay: float
    compile: bool
    momentum: float = 0.0
    beta2: float = 0.0
    accumulate: int = 1


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Return a step's rate (from 0): linear warmup, half a cosine to 0 (Loshchilov & Hutter 2017)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split the parameters: matrices and kernels decay; biases, norms, class token, positions don't."""
    decayed: list[Tensor] = []
    spared: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spare = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in ("class_token", "positions")
            (spared if spare else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices, as torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`.

    A kernel (out, in, h, w) is a matrix (out, in * h * w) to it. Updates are scaled to the size of AdamW's
    (Liu et al. 2025, *Muon is scalable for LLM training*, section 2.2). Matrices of one shape are
    orthogonalised together: one by one they took a seventh of a step. Their products are in bfloat16 where
    the device multiplies it itself, else in float32, also where a GPU has float16 alone: gradients as small
    as 1e-8 are 0 there.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # a closure, which the loop never gives
        """Update the matrices once."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                gradients = cast(list[Tensor], [matrix.grad for matrix in matrices])
                for matrix in matrices:
                    if not self.state[matrix]:
                        self.state[matrix]["momentum"] = torch.zeros_like(matrix)
                averages = [self.state[matrix]["momentum"] for matrix in matrices]
                torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
                directions = torch.stack(
                    [each.flatten(1) for each in torch._foreach_lerp(gradients, averages, group["momentum"])]
                )
                native = chosen("auto", directions.device) == torch.bfloat16
                updates = orthogonalised(directions.bfloat16() if native else directions)
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                scale = 0.2 * math.sqrt(max(directions.shape[1:]))
                torch._foreach_add_(
                    matrices, [each.view(shape) for each in updates.float()], alpha=-group["lr"] * scale
                )


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices (n, rows, columns) with singular values near 1, by 5 Newton-Schulz steps."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.transpose(1, 2)).transpose(1, 2)
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        squares = x @ x.transpose(1, 2)
        x = torch.baddbmm(
            x, torch.baddbmm(squares, squares, squares, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )
    return x


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return a recipe's optimizers, which share the trainable parameters and the learning rate.

    "muon" updates the matrices of a ViT's blocks and its stem's kernels but the first, which sees pixels, by
    Muon, everything else by AdamW.
    """
    groups, optimizers = parameter_groups(model, recipe.weight_decay), []
    if recipe.optimizer == "sgd":
        return [
            torch.optim.SGD(
                groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True
            )
        ]
    if recipe.optimizer == "muon":
        inner = {
            id(parameter)
            for name, parameter in model.named_parameters()
            if ".blocks." in name or ".stem." in name and ".stem.0.0." not in name
        }
        decayed = groups[0]["params"]
        groups[0]["params"] = [parameter for parameter in decayed if id(parameter) not in inner]
        matrices = [parameter for parameter in decayed if id(parameter) in inner]
        if matrices:  # there are none in a ResNet, or under a probe
            optimizers.append(
                Muon(matrices, lr=0.0, weight_decay=recipe.weight_decay, momentum=recipe.momentum)
            )
    return [*optimizers, torch.optim.AdamW(groups, betas=(0.9, recipe.beta2), fused=True)]


class Together:
    """Several optimizers, and what follows their step, as the one optimizer that a GradScaler is given.

    So it skips a step whose gradients overflow for all of them, or for none.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer], then: Callable[[], None]):
        self.optimizers, self.then = optimizers, then

    @property
    def param_groups(self) -> list[dict]:
        """The groups of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> bool:
        """Take the step; return True, where a scaler that skips it returns None."""
        for optimizer in self.optimizers:
            optimizer.step()
        self.then()
        return True
