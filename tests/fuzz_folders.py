"""Folders of models as others publish them, in memory."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import DeiTConfig, DeiTForImageClassification, ViTConfig, ViTForImageClassification

from published import DEIT_PROCESSOR, LABELS, VIT, VIT_PROCESSOR, publish, publish_timm


def published() -> list[dict[str, bytes]]:
    """Return the files of a ViT, a DeiT, a ResNet-less timm's ViT, and of a pickle."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        mirror = Path(name)
        publish(mirror, "a/vit", ViTForImageClassification(ViTConfig(**VIT, **LABELS)), VIT_PROCESSOR)
        publish(mirror, "a/deit", DeiTForImageClassification(DeiTConfig(**VIT, **LABELS)), DEIT_PROCESSOR)
        publish_timm(mirror, "a/timm", "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3, num_classes=3)  # fmt: skip
        for folder in sorted((mirror / "a").iterdir()):
            found.append({file.name: file.read_bytes() for file in folder.iterdir()})
        torch.save(load_file(mirror / "a/vit/model.safetensors"), mirror / "pickle")
        files = {name: content for name, content in found[-1].items() if name != "model.safetensors"}
        found.append(files | {"pytorch_model.bin": (mirror / "pickle").read_bytes()})
    return found
