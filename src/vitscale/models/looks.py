"""Where in an image a model looks, beside its logits.

A ViT: attention rollout (Abnar & Zuidema 2020, *Quantifying Attention Flow in Transformers*), what the
classifying tokens have of each patch. ResNet-18: Grad-CAM (Selvaraju et al. 2017), a map for each class.
"""

from contextlib import ExitStack
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitscale.models.store import Classifier
from vitscale.models.vit import VisionTransformer


def shares(qkv: Tensor, heads: int) -> Tensor:
    """Return how much a block's tokens take of each other (b, n, n); rows add up to 1.

    `qkv` are their queries, keys and values (b, n, 3 * dim). It is the mean over heads, of which half is the
    token itself, for the residual connection (section 3).
    """
    batch, n, width = qkv.shape
    q, k, _ = qkv.view(batch, n, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    mean = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1).mean(1)
    return (mean + torch.eye(n, device=mean.device)) / 2


class Looks(nn.Module):
    """A classifier that also tells where it looks; not for two threads at once.

    Standardised images (b, 3, s, s) to the model's own logits (b, classes) and to maps >= 0 (b, c, h, w) of
    a ViT's patches (c = 1) or of ResNet-18's last features (c = classes).
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and looks."""
        backbone: Any = self.model.backbone
        is_vit = isinstance(backbone, VisionTransformer)
        watched = [block.attention.qkv for block in backbone.blocks] if is_vit else [backbone.layer4]
        seen: list[Tensor] = []
        with ExitStack() as hooks:
            for module in watched:
                hooks.enter_context(module.register_forward_hook(lambda *call: seen.append(call[-1])))
            logits = self.model(images)
        return logits, self._rollout(seen) if is_vit else self._grad_cam(seen[0])

    def _rollout(self, blocks: list[Tensor]) -> Tensor:
        """Return what class token, or mean of all tokens, has of each patch, after the last block."""
        backbone: Any = self.model.backbone
        each = (
            shares(qkv, block.attention.heads) for qkv, block in zip(blocks, backbone.blocks, strict=True)
        )
        flow = reduce(lambda below, block: block @ below, each)
        prefix = 0 if backbone.class_token is None else backbone.class_token.shape[1]
        taken = flow[:, 0, prefix:] if prefix else flow.mean(1)
        side = round(taken.shape[1] ** 0.5)
        return taken.view(-1, 1, side, side)

    def _grad_cam(self, features: Tensor) -> Tensor:
        """Return the features' maps (b, k, h, w) by the weights that each class gives them (b, c, h, w).

        Under global average pooling and a linear head a class's gradients are its weights over the number of
        positions (section 3.1).
        """
        weights = cast(Tensor, self.model.head.weight) / features[0, 0].numel()
        return torch.einsum("bkhw,ck->bchw", features, weights).relu()
