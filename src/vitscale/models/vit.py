"""The Vision Transformer (Dosovitskiy et al. 2021), without its head."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from vitscale.models.preprocessing import resize


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """A ViT's parameters, as params.yaml's `models` has them.

    `pool` is "class" (a class token, as in the paper) or "mean" (over all patches; Beyer et al. 2022, *Better
    plain ViT baselines*); `positions` is "learned" or "sincos". Stochastic depth grows linearly to its rate
    at the last block. `stem_channels`, which may be left out, makes it the hybrid of section 3.1: the patches
    are the positions that `convolutional_stem` leaves. `layer_norm_eps` and `distilled` stand in no
    params.yaml, and in a config.json only where weights that others trained want them: another epsilon, or a
    second token beside the class token (Touvron et al. 2021, DeiT, section 4), whose features are put after
    those of the first.
    """

    image_size: int
    patch_size: int
    dim: int
    depth: int
    heads: int
    mlp_dim: int
    pool: str
    positions: str
    dropout: float
    stochastic_depth: float
    stem_channels: Sequence[int] = ()
    layer_norm_eps: float = 1e-6
    distilled: bool = False

    @property
    def prefix(self) -> int:
        """The number of tokens before the patches'."""
        return 1 + self.distilled if self.pool == "class" else 0


def sincos_positions(grid: int, dim: int) -> Tensor:
    """Return fixed 2-D sine-cosine positions, (grid * grid, dim) (Chen et al. 2021, MoCo v3, appendix A)."""
    frequencies = 10_000.0 ** (-torch.arange(dim // 4) / (dim // 4))
    angles = torch.arange(grid)[:, None] * frequencies
    y, x = angles.repeat_interleave(grid, 0), angles.repeat(grid, 1)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


def convolutional_stem(channels: Sequence[int]) -> nn.Module:
    """Return convolutions from images (b, 3, s, s) to maps (b, c, s / p, s / p), halved n - 1 times.

    For each of the n numbers of channels a 3x3 convolution (Xiao et al. 2021, *Early convolutions help
    transformers see better*, section 4), of stride 2 but for the first, and a basic block of ResNet's (He et
    al. 2016, sections 3.3 and 4.2), which begins as the identity (Goyal et al. 2017, section 5.1).
    """
    # Only where it is used: it takes a second to import.
    from torchvision.models.resnet import BasicBlock
    from torchvision.ops import Conv2dNormActivation

    layers: list[nn.Module] = []
    for before, after in pairwise((3, *channels)):
        stride = 2 if layers else 1
        layers += [
            Conv2dNormActivation(before, after, kernel_size=3, stride=stride),
            BasicBlock(after, after),
        ]
    stem = nn.Sequential(*layers)
    for module in stem.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
    return stem.to(memory_format=torch.channels_last)


def has_fused_kernels(tensor: Tensor) -> bool:
    """Tell whether a tensor goes to torch's fused attention and bias, as on all devices but CPUs."""
    return tensor.device.type != "cpu"


class Linear(nn.Linear):
    """nn.Linear, on CPUs with the bias added apart: torch.compile then fuses it into what follows."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the product and the bias."""
        if has_fused_kernels(inputs):
            return super().forward(inputs)
        product = nn.functional.linear(inputs, self.weight)
        return product + self.bias.to(product.dtype)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2), tokens (batch, n, dim) to the same."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return each token's share of the others."""
        batch, n, dim = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if has_fused_kernels(tokens):
            # Under use_deterministic_algorithms torch passes over cuDNN's kernel, whose backward pass isn't
            # deterministic, and tells the flash and the memory-efficient one to be (attention_backward.cu).
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            # Written out, since for as few tokens as an image of 32x32 has the backward pass of
            # scaled_dot_product_attention takes half of a training step on a CPU.
            mixed = (q * (dim // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, n, dim))


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth (Huang et al. 2016) on both of its branches."""

    def __init__(
        self, dim: int, heads: int, mlp_dim: int, dropout: float, drop_path: float, eps: float = 1e-6
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = nn.Sequential(Linear(dim, mlp_dim), nn.GELU(), Linear(mlp_dim, dim))
        self.dropout, self.drop_path = dropout, drop_path

    def residual(self, branch: Tensor) -> Tensor:
        """Return a branch's values with dropout and stochastic depth."""
        if self.training and self.dropout:
            branch = nn.functional.dropout(branch, self.dropout)
        if self.training and self.drop_path:
            keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
            branch = branch * keep / (1 - self.drop_path)
        return branch

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (batch, n, dim) after attention and MLP."""
        tokens = tokens + self.residual(self.attention(self.norm1(tokens)))
        return tokens + self.residual(self.mlp(self.norm2(tokens)))


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al. 2021, section 3.1) without its head.

    Images (batch, 3, s, s) to features (batch, dim), twice as many where the model is distilled.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        self.patch_size, self.dropout = config.patch_size, config.dropout
        self.grid = grid = config.image_size // config.patch_size
        dim, eps, prefix = config.dim, config.layer_norm_eps, config.prefix
        self.stem = convolutional_stem(config.stem_channels) if config.stem_channels else None
        # Of pixels, a patch's values are in the order (row, column, channel).
        self.patch_embedding = nn.Linear([3 * config.patch_size**2, *config.stem_channels][-1], dim)
        self.class_token = nn.Parameter(torch.zeros(1, prefix, dim)) if prefix else None
        if config.positions == "learned":
            self.positions = nn.Parameter(0.02 * torch.randn(1, grid**2 + prefix, dim))
        else:
            fixed = torch.cat([torch.zeros(prefix, dim), sincos_positions(grid, dim)])[None]
            self.register_buffer("positions", fixed, persistent=False)
        rates = [config.stochastic_depth * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.Sequential(
            *(Block(dim, config.heads, config.mlp_dim, config.dropout, rate, eps) for rate in rates)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def positions_on(self, grid: int) -> Tensor:
        """Return the positions (1, tokens, dim) of grid x grid patches, interpolated from the full size's."""
        if grid == self.grid:
            return self.positions
        device = self.positions.device
        # As a product with a matrix, since the backward pass of interpolation isn't deterministic on CUDA.
        one_hot = torch.eye(self.grid**2, device=device).view(-1, 1, self.grid, self.grid)
        shares = resize(one_hot, grid, "bilinear").view(self.grid**2, grid**2).T
        with torch.autocast(device.type, enabled=False):
            patches = shares @ self.positions[:, -(self.grid**2) :]
        return torch.cat([self.positions[:, : -(self.grid**2)], patches], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class token, the second after it, or the mean of all tokens, after the last block."""
        batch, _, height, width = images.shape
        p = self.patch_size
        if self.stem is not None:
            patches = self.stem(images).permute(0, 2, 3, 1)
        else:
            patches = images.permute(0, 2, 3, 1).reshape(batch, height // p, p, width // p, p, 3)
            patches = patches.transpose(2, 3)
        tokens = self.patch_embedding(patches.reshape(batch, -1, self.patch_embedding.in_features))
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(batch, -1, -1).to(tokens.dtype), tokens], dim=1)
        # In the type of the products, so that under autocast the tokens stay bfloat16 from block to block.
        tokens = tokens + self.positions_on(height // p).to(tokens.dtype)
        if self.training and self.dropout:
            tokens = nn.functional.dropout(tokens, self.dropout)
        tokens = self.blocks(tokens)
        if self.class_token is None:
            return self.norm(tokens).mean(1)
        prefix = self.class_token.shape[1]
        return self.norm(tokens[:, 0] if prefix == 1 else tokens[:, :prefix]).flatten(1)
