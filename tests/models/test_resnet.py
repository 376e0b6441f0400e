"""ResNet-18 against torchvision's with the same weights."""

import pytest
import torch
from torchvision.models import resnet18 as torchvision_resnet18

from made import build, count_macs
from networks import RESNET, images, randomised
from vitscale.models.store import count_parameters


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_imagenet_resnet_equals_torchvisions(training):
    """With the stem "imagenet" our ResNet-18 isn't torchvision's."""
    model = randomised(RESNET).train(training)
    theirs = torchvision_resnet18(num_classes=10).train(training)
    names = {name: name.replace("backbone.", "").replace("head.", "fc.") for name in model.state_dict()}
    theirs.load_state_dict({names[name]: value for name, value in model.state_dict().items()})
    x = images(size=64)
    found, wanted = model(x), theirs(x)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))
    assert count_parameters(model) == count_parameters(theirs)


@torch.no_grad()
def test_cifar_stem():
    """The stem for 32 px shrinks the images, or the network hasn't the usual 11.17M parameters."""
    model = build(RESNET | {"stem": "cifar"}).eval()
    conv = model.backbone.conv1
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (1, 1), None)
    shapes = []
    model.backbone.layer1.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape)))
    assert model(images()).shape == (4, 10) and shapes == [(4, 64, 32, 32)]
    assert count_parameters(model) == 11_173_962
    usual = (2 / (64 * 9)) ** 0.5  # He et al. 2015, fan out
    assert abs(conv.weight.std() / usual - 1) < 0.1


def test_macs_of_resnet18():
    """ResNet-18 doesn't come out at the 1.81G multiply-accumulates that it is known for, at 224 px."""
    assert count_macs(RESNET | {"image_size": 224, "classes": ["a class"] * 1000}) == pytest.approx(
        1.814e9, rel=0.001
    )
    assert count_macs(RESNET | {"stem": "cifar"}) == pytest.approx(0.556e9, rel=0.005)
