"""torchvision's ResNet-18 (He et al. 2016), without its head."""

from dataclasses import dataclass

import torch
from torch import nn

FEATURES = 512


@dataclass(frozen=True, kw_only=True)
class ResNet18Config:
    """A ResNet-18's parameters, as params.yaml's `models` has them.

    `stem` "imagenet" is torchvision's own, 7x7 with stride 2 and max pooling; "cifar" is 3x3 with stride 1
    and no pooling (He et al. 2016, section 4.2, as is usual for 32 px).
    """

    image_size: int
    stem: str


def resnet18(config: ResNet18Config) -> nn.Module:
    """Return ResNet-18 without its head: images (batch, 3, s, s) to features (batch, 512)."""
    # Only where it is used: it takes a second to import.
    from torchvision.models import resnet18 as build_resnet18

    model = build_resnet18()
    model.fc = nn.Identity()
    if config.stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model.to(memory_format=torch.channels_last)
