"""How large a model may be, whoever asks for it: params.yaml, or the config.json that came with weights.

Nobody's wish is believed: beyond these a start takes all memory, or no end, before anything else could say
so. They leave room for the largest ViTs that are in use, ViT-G/14 (dim 1664, depth 48, 1.84e9 parameters).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

SIDE = 4096  # pixels an image is high and wide: 48 MiB each as uint8
TOKENS = (
    16_384  # patches of an image, 2048 px in patches of 16: attention takes the square of it, 1 GiB a head
)
DIM, MLP_DIM = 16_384, 65_536  # ViT-22B has 6144 and 24576
STEM = 13  # stages; an image is halved 12 times, which come to SIDE
DEPTH = 1000  # blocks; DeepNet has 1000 layers
PARAMETERS = 2_500_000_000  # 10 GB, and 40 GB to train with AdamW
CLASSES = 1_000_000  # of a head; ImageNet-21k has 21,843


def vit_fault(
    *,
    image_size: int,
    patch_size: int,
    dim: int,
    depth: int,
    mlp_dim: int,
    stem_channels: Sequence[int] = (),
    **_: Any,
) -> str:
    """Return what is wrong with a ViT as a whole, each size within its own limit; "" if nothing is.

    It is too large, or its patches aren't what its stem leaves. What else a model's parameters have is passed
    over.
    """
    if stem_channels and patch_size != (made := 2 ** (len(stem_channels) - 1)):
        return f"{len(stem_channels)} stem_channels make patches of {made}, not {patch_size}"
    tokens = (image_size // patch_size) ** 2
    if tokens > TOKENS:
        return (
            f"image_size {image_size} in patches of {patch_size} makes {tokens} of them, more than {TOKENS}"
        )
    block = 4 * dim**2 + 2 * dim * mlp_dim  # weights alone; biases, norms and tokens are little beside them
    patch = stem_channels[-1] if stem_channels else 3 * patch_size**2
    stem = sum(9 * before * after + 18 * after**2 for before, after in pairwise((3, *stem_channels)))
    count = stem + depth * block + (patch + tokens) * dim
    if count > PARAMETERS:
        sizes = f"dim {dim}, depth {depth} and mlp_dim {mlp_dim}"
        sizes += f", with stem_channels {[*stem_channels]}," if stem_channels else ""
        return f"{sizes} make {count} parameters, more than {PARAMETERS}"
    return ""
