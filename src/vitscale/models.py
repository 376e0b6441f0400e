"""The models: our Vision Transformer and torchvision's ResNet-18, each a backbone under a linear head.

A model on disk is a folder with `model.safetensors` and a `config.json` from which `build` makes it again:
the architecture's parameters as params.yaml has them, the names of its `classes` (none: no head), and what it wants of
its input: `interpolation` for images of another size, `mean` and `std` of the channels, null until a training sets them
from its data.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitscale.files import UserError, write_bytes, write_json


def sincos_positions(grid: int, dim: int) -> Tensor:
    """Return fixed 2-D sine-cosine positions, (grid * grid, dim) (Chen et al. 2021, MoCo v3, appendix A)."""
    frequencies = 10_000.0 ** (-torch.arange(dim // 4) / (dim // 4))
    angles = torch.arange(grid)[:, None] * frequencies
    y, x = angles.repeat_interleave(grid, 0), angles.repeat(grid, 1)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


class Linear(nn.Linear):
    """nn.Linear with the bias added apart, so that torch.compile fuses it into what follows instead of copying it first."""

    def forward(self, inputs: Tensor) -> Tensor:
        product = nn.functional.linear(inputs, self.weight)
        return product + self.bias.to(product.dtype)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2), tokens (batch, n, dim) to the same shape."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, n, dim = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        # Written out, since for as few tokens as an image of 32x32 has the backward pass of
        # scaled_dot_product_attention takes half of a training step on a CPU.
        weights = (q * (dim // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, n, dim))


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth (Huang et al. 2016) on both of its branches."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, dropout: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(Linear(dim, mlp_dim), nn.GELU(), Linear(mlp_dim, dim))
        self.dropout, self.drop_path = dropout, drop_path

    def residual(self, branch: Tensor) -> Tensor:
        if self.training and self.dropout:
            branch = nn.functional.dropout(branch, self.dropout)
        if self.training and self.drop_path:
            keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
            branch = branch * keep / (1 - self.drop_path)
        return branch

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.residual(self.attention(self.norm1(tokens)))
        return tokens + self.residual(self.mlp(self.norm2(tokens)))


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al. 2021, section 3.1) without its head: images (batch, 3, s, s) to (batch, dim).

    `pool` is "class" (a class token, as in the paper) or "mean" (over all patches; Beyer et al. 2022, *Better plain
    ViT baselines*); `positions` is "learned" or "sincos". Stochastic depth grows linearly to its rate at the last block.
    """

    def __init__(self, image_size: int, patch_size: int, dim: int, depth: int, heads: int, mlp_dim: int,
                 pool: str, positions: str, dropout: float, stochastic_depth: float):
        super().__init__()
        self.patch_size, self.dropout = patch_size, dropout
        self.grid = grid = image_size // patch_size
        self.patch_embedding = nn.Linear(3 * patch_size**2, dim)  # a patch's values in the order (row, column, channel)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if pool == "class" else None
        if positions == "learned":
            self.positions = nn.Parameter(0.02 * torch.randn(1, grid**2 + (pool == "class"), dim))
        else:
            fixed = sincos_positions(grid, dim)
            fixed = torch.cat([torch.zeros(int(pool == "class"), dim), fixed])[None]
            self.register_buffer("positions", fixed, persistent=False)
        rates = [stochastic_depth * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_dim, dropout, rate) for rate in rates))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def positions_on(self, grid: int) -> Tensor:
        """Return the positions (1, tokens, dim) of a square of grid x grid patches, interpolated from those of the full size."""
        if grid == self.grid:
            return self.positions
        device = self.positions.device
        # As a product with a matrix, since the backward pass of interpolation isn't deterministic on CUDA.
        one_hot = torch.eye(self.grid**2, device=device).view(-1, 1, self.grid, self.grid)
        shares = resize(one_hot, grid, "bilinear").view(self.grid**2, grid**2).T
        with torch.autocast(device.type, enabled=False):
            patches = shares @ self.positions[:, -self.grid**2:]
        return torch.cat([self.positions[:, :-self.grid**2], patches], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        p = self.patch_size
        patches = images.permute(0, 2, 3, 1).reshape(batch, height // p, p, width // p, p, 3).transpose(2, 3)
        tokens = self.patch_embedding(patches.reshape(batch, -1, p * p * 3))
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(batch, -1, -1).to(tokens.dtype), tokens], dim=1)
        # In the type of the products, so that under autocast the tokens stay bfloat16 from block to block.
        tokens = tokens + self.positions_on(height // p).to(tokens.dtype)
        if self.training and self.dropout:
            tokens = nn.functional.dropout(tokens, self.dropout)
        tokens = self.blocks(tokens)
        return self.norm(tokens[:, 0]) if self.class_token is not None else self.norm(tokens).mean(1)


def resnet18(image_size: int, stem: str) -> nn.Module:
    """Return torchvision's ResNet-18 without its head: images (batch, 3, s, s) to (batch, 512).

    `stem` "imagenet" is torchvision's own, 7x7 with stride 2 and max pooling; "cifar" is 3x3 with stride 1 and
    no pooling (He et al. 2016, section 4.2, as is usual for 32 px).
    """
    from torchvision.models import resnet18 as build_resnet18  # only where it is used: it takes a second to import

    model = build_resnet18()
    model.fc = nn.Identity()
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model.to(memory_format=torch.channels_last)


class Classifier(nn.Module):
    """A backbone and, with classes to tell apart, a linear head: images (batch, 3, s, s) to logits (batch, classes).

    A new head is zero (Dosovitskiy et al. 2021, section 3.2), so it needs no seed.
    """

    def __init__(self, backbone: nn.Module, features: int, classes: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(features, classes) if classes else nn.Identity()
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def to_input(images: Tensor, config: dict, size: int) -> Tensor:
    """Return images (b, h, w, 3) in 0..255 as (b, 3, size, size), standardised by the config's channel statistics.

    Features (b, d), a frozen backbone's answers, stay as they are.
    """
    if images.ndim == 2:
        return images
    mean, std = (255 * torch.tensor(config[name], device=images.device) for name in ("mean", "std"))
    return resize(((images - mean) / std).permute(0, 3, 1, 2), size, config["interpolation"])


def resize(images: Tensor, size: int, interpolation: str) -> Tensor:
    """Return images (b, c, h, w) as (b, c, size, size), by "bilinear" or "bicubic" interpolation with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    return nn.functional.interpolate(images, (size, size), mode=interpolation, antialias=True)


def with_statistics(config: dict, folder: Path) -> dict:
    """Return the config with a prepared data set's `mean` and `std`, unless it has some: trained models keep their own."""
    if config["mean"] is not None:
        return config
    statistics = json.loads((folder / "statistics.json").read_text())
    return config | {name: statistics[name] for name in ("mean", "std")}


def untrained(entry: dict) -> dict:
    """Return the config of an untrained model without a head, from its entry of params.yaml's `models`."""
    return {name: value for name, value in entry.items() if name != "seed"} | {
        "classes": [], "interpolation": "bilinear", "mean": None, "std": None}


def build(config: dict) -> Classifier:
    """Return the model that a config.json describes, with fresh weights from torch's global random state."""
    options = {name: value for name, value in config.items()
               if name not in ("architecture", "classes", "interpolation", "mean", "std")}
    if config["architecture"] == "vit":
        return Classifier(VisionTransformer(**options), config["dim"], len(config["classes"]))
    return Classifier(resnet18(**options), 512, len(config["classes"]))


def save_model(folder: Path, config: dict, state: dict[str, Tensor]) -> None:
    """Write a model's folder; the same weights give the same bytes."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    write_bytes(folder / "model.safetensors", save(tensors))
    write_json(folder / "config.json", config)


def load_model(folder: Path, classes: list[str] | None = None) -> tuple[Classifier, dict]:
    """Return a folder's model and its config; with `classes` its head is left behind for a new one.

    Raises UserError where the folder's files are damaged or don't belong together.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        state = load((folder / "model.safetensors").read_bytes())
        if classes is not None:
            config["classes"] = classes
            state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
        model = build(config)
        missing, unknown = model.load_state_dict(state, strict=False)
        if unknown or any(classes is None or not name.startswith("head.") for name in missing):
            raise KeyError(f"missing {missing}, unknown {unknown}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} holds no usable model ({reason}); `dvc checkout` brings outputs back") from error
    return model, config


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(config: dict) -> int:
    """Return the multiply-accumulates of one image's forward pass (products of matrices and convolutions)."""
    with torch.device("meta"):
        model = build(config).eval()
        image = torch.empty(1, 3, config["image_size"], config["image_size"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() // 2
