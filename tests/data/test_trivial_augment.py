"""TrivialAugment's operations against torchvision's own on uint8 tensors, image by image."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pictures import pictures
from vitscale.data import trivial_augment as module
from vitscale.data.augment import generator_for
from vitscale.data.trivial_augment import TRIVIAL, draw_operations, operate, trivial_augment

NAMES = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}
SIGNED = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
)
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
ROUNDED = (
    "color",
    "contrast",
    "sharpness",
)  # float32 rounding, with or without fused multiply-add, may tip these


def magnitudes(name: str) -> list[float]:
    """Return torchvision's 31 strengths of an operation in our units (solarize: of 255), or one where it has none."""
    table = v2.TrivialAugmentWide._AUGMENTATION_SPACE[NAMES[name]][0](31, 32, 32)
    if table is None:
        return [0.0]
    return [float(value) * (255 if name == "solarize" else 1) for value in table]


def reference(name: str, image: Tensor, strength: float) -> Tensor:
    """Return what torchvision makes of one uint8 image (h, w, 3), by the calls that its TrivialAugmentWide makes."""
    angle = math.degrees(math.atan(strength))
    affine = partial(F.affine, angle=0.0, scale=1.0, interpolation=v2.InterpolationMode.NEAREST, fill=0)
    calls = {
        "identity": lambda x: x,
        "shear_x": partial(affine, translate=[0, 0], shear=[angle, 0.0], center=[0, 0]),
        "shear_y": partial(affine, translate=[0, 0], shear=[0.0, angle], center=[0, 0]),
        "translate_x": partial(affine, translate=[int(strength), 0], shear=[0.0, 0.0]),
        "translate_y": partial(affine, translate=[0, int(strength)], shear=[0.0, 0.0]),
        "rotate": partial(F.rotate, angle=strength, interpolation=v2.InterpolationMode.NEAREST, fill=0),
        "brightness": partial(F.adjust_brightness, brightness_factor=1 + strength),
        "color": partial(F.adjust_saturation, saturation_factor=1 + strength),
        "contrast": partial(F.adjust_contrast, contrast_factor=1 + strength),
        "sharpness": partial(F.adjust_sharpness, sharpness_factor=1 + strength),
        "posterize": partial(F.posterize, bits=int(strength)),
        "solarize": partial(F.solarize, threshold=strength),
        "autocontrast": F.autocontrast,
        "equalize": F.equalize,
    }
    return calls[name](image.permute(2, 0, 1).contiguous()).permute(1, 2, 0)


def cases(name: str) -> tuple[Tensor, Tensor]:
    """Return every picture at several strengths and signs: uint8 images (b, h, w, 3) and strengths (b,)."""
    table = magnitudes(name)
    strengths = sorted({table[level] for level in (0, 1, 7, 15, 22, 30) if level < len(table)})
    if name in SIGNED:
        strengths = sorted({sign * value for value in strengths for sign in (1, -1)})
    images = pictures()
    return images.repeat(len(strengths), 1, 1, 1), torch.tensor(strengths).repeat_interleave(len(images))


def both(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cases' images and strengths, what `operate` gives, and what torchvision gives."""
    images, strengths = cases(name)
    found = operate(name, images.float(), strengths)
    wanted = torch.stack(
        [reference(name, image, float(strength)) for image, strength in zip(images, strengths)]
    )
    assert found.shape == images.shape and found.dtype == torch.float32
    return images, strengths, found, wanted.float()


def test_the_operations_are_torchvisions():
    """An operation is missing, added, or has another sign rule than TrivialAugmentWide."""
    space = v2.TrivialAugmentWide._AUGMENTATION_SPACE
    assert {NAMES[name]: signed for name, _, _, signed in TRIVIAL} == {
        name: entry[1] for name, entry in space.items()
    }


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*GEOMETRIC, *ROUNDED)])
def test_operation_equals_torchvision(name):
    """An operation that has no rounding to argue about gives other grey values than torchvision."""
    images, strengths, found, wanted = both(name)
    for image, strength, ours, theirs in zip(images, strengths, found, wanted):
        wrong = (ours != theirs).nonzero()
        assert not len(wrong), (
            f"strength {strength:.4f}: {len(wrong)} values differ; the first, of {image[tuple(wrong[0])]}, "
            f"is {ours[tuple(wrong[0])]}, not {theirs[tuple(wrong[0])]}"
        )


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_operation_equals_torchvision(name):
    """An image is moved by another amount, about another point, or in another direction than by torchvision."""
    _, strengths, found, wanted = both(name)
    for strength, ours, theirs in zip(strengths, found, wanted):
        share = (ours != theirs).any(-1).float().mean()
        assert share <= 0.005, f"{share:.1%} of the pixels differ at strength {strength:.4f}"


def exact_range(name: str, image: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return the least and greatest grey value that an exact calculation allows, up to float32's rounding error.

    They are one and the same but where the exact value is within that error of a whole number.
    """
    error = 3e-4
    x, factor = image.double(), 1 + strength
    if name == "sharpness":
        sums = x.unfold(0, 3, 1).unfold(1, 3, 1).sum((-2, -1)) + 4 * x[1:-1, 1:-1]
        low = x.clone()
        low[1:-1, 1:-1] = (sums / 13).round()
        high = low.clone()
    else:
        gray = (x * torch.tensor([0.2989, 0.587, 0.114], dtype=torch.double)).sum(-1, keepdim=True)
        low, high = (gray - 1e-4).floor(), (gray + 1e-4).floor()
        if name == "contrast":
            low, high = low.mean(), high.mean()
    ends = torch.stack([factor * x + (1 - factor) * low, factor * x + (1 - factor) * high])
    return (ends.amin(0) - error).clamp(0, 255).floor(), (ends.amax(0) + error).clamp(0, 255).floor()


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_operation_equals_torchvision(name):
    """A grey value differs from torchvision's although the exact value leaves no doubt.

    torchvision uses fused multiply-add where the processor has it, so even its own values differ by a level from machine
    to machine, where the exact result is a whole number. Nowhere else may ours differ.
    """
    images, strengths, found, wanted = both(name)
    doubtful = []
    for number, (image, strength, ours, theirs) in enumerate(zip(images, strengths, found, wanted)):
        low, high = exact_range(name, image, float(strength))
        assert (low <= theirs).all() and (theirs <= high).all(), "the test's own idea of the operation is off"
        assert (low <= ours).all() and (ours <= high).all() and (high - low).max() <= 1, (
            f"strength {strength:.4f}"
        )
        if strength != 0 and number % len(pictures()) < 4:  # noise, where whole results are rare
            doubtful.append((low < high)[1:-1, 1:-1].double().mean().item())
    assert len(doubtful) == 40 and sum(doubtful) / 40 < 0.1


@pytest.mark.parametrize("sign", [1, -1])
def test_sharpness_leaves_flat_images_alone(sign):
    """Pixels that equal their blurred selves get darker by a level, through rounding."""
    flat = torch.arange(256).float().view(256, 1, 1, 1).expand(256, 4, 4, 3)
    for strength in magnitudes("sharpness"):
        found = operate("sharpness", flat, torch.full((256,), sign * strength))
        changed = (found != flat).flatten(1).any(1).nonzero().flatten().tolist()
        assert not changed, f"at strength {sign * strength:.3f} flat images of grey {changed[:9]} … change"


@pytest.mark.parametrize("sign", [1, -1])
def test_sharpness_leaves_the_border_alone(sign):
    """Pixels of the border, which aren't blurred, get darker by a level, through rounding."""
    images = pictures().float()
    border = torch.ones(32, 32, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    for strength in magnitudes("sharpness"):
        found = operate("sharpness", images, torch.full((len(images),), sign * strength))
        share = (found != images)[:, border].float().mean()
        assert share == 0, f"at strength {sign * strength:.3f} {share:.1%} of the border's values change"


@pytest.mark.parametrize("name", SIGNED)
def test_strength_zero_of_a_signed_operation_changes_nothing(name):
    """The weakest strength of a signed operation isn't the unchanged image."""
    images = pictures().float()
    assert torch.equal(operate(name, images, torch.zeros(len(images))), images)


@pytest.mark.parametrize("name", NAMES)
def test_operation_treats_every_image_by_itself(name):
    """An image's result depends on its neighbours in the batch, or its strength is taken from another's slot."""
    images, strengths = cases(name)
    order = torch.randperm(len(images), generator=generator_for(1))
    together = operate(name, images[order].float(), strengths[order])
    for slot in range(0, len(images), 13):
        alone = operate(name, images[order[slot]][None].float(), strengths[order[slot]][None])
        assert torch.equal(together[slot], alone[0])


def test_operate_refuses_an_unknown_name():
    """A misspelt operation is passed over in silence."""
    with pytest.raises(ValueError, match="shear_z"):
        operate("shear_z", pictures().float(), torch.zeros(len(pictures())))


@pytest.fixture(scope="module")
def drawn() -> dict[str, Tensor]:
    """Return all strengths that 60000 draws of trivial_augment give each operation."""
    calls: dict[str, Tensor] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "operate", lambda name, images, strength: calls.__setitem__(name, strength) or images
        )
        trivial_augment(torch.zeros(60_000, 1, 1, 3), draw_operations(60_000, generator_for(3)))
    return calls


@pytest.mark.parametrize("name", [name for name in NAMES if name != "identity"])
def test_strengths_are_torchvisions(name, drawn):
    """An operation is drawn at strengths that TrivialAugmentWide doesn't have, or one of its 31 levels is left out.

    Equal up to float32's rounding. That matters for one level alone: 15 of translate is exactly 16 here, while torchvision's
    linspace gives 15.999999, which it cuts to 15.
    """
    wanted = magnitudes(name)
    if name in SIGNED:
        wanted = wanted + [-value for value in wanted]
    wanted = torch.tensor(sorted({round(value, 5) for value in wanted}))
    found = (drawn[name].double() * 1e5).round().unique() / 1e5
    assert found.shape == wanted.shape, f"{len(found)} strengths, torchvision has {len(wanted)}"
    assert torch.allclose(found.float(), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "identity"])
def test_operations_and_levels_are_equally_likely(name, drawn):
    """An operation, a level or a sign is drawn more often than the others (bounds: 5 standard deviations)."""
    total, share = 60_000, 1 / len(NAMES)
    assert abs(len(drawn[name]) - total * share) < 5 * math.sqrt(total * share * (1 - share))
    if name in SIGNED:
        signs = drawn[name][drawn[name] != 0].sign()
        assert signs.sum().abs() < 5 * math.sqrt(len(signs))
    expected: dict[float, int] = {}  # strength -> how many of the 31 levels have it
    for value in magnitudes(name):
        expected[round(value, 4)] = expected.get(round(value, 4), 0) + 1
    for value, levels in expected.items():
        count = int(((drawn[name].abs() - value).abs() < 1e-3).sum())
        likely = levels / sum(expected.values())
        assert abs(count - len(drawn[name]) * likely) <= 5 * math.sqrt(
            len(drawn[name]) * likely * (1 - likely)
        ), value


def test_trivial_augment_applies_one_operation_to_each_image(monkeypatch):
    """An image gets the operation or strength of another's slot, or more than one operation, or is left out."""
    images = pictures(40).float()
    chosen = [("identity", 0.0)] * len(images)
    tagged = images.clone()
    tagged[:, 0, 0, 0] = torch.arange(len(images))  # tells operate's caller which slot it hands over

    def spy(name, batch, strength):
        for slot, value in zip(batch[:, 0, 0, 0].int().tolist(), strength.tolist()):
            assert chosen[slot] == ("identity", 0.0), "two operations on one image"
            chosen[slot] = (name, value)
        return batch

    monkeypatch.setattr(module, "operate", spy)
    operations = draw_operations(len(images), generator_for(4))
    trivial_augment(tagged, operations)
    monkeypatch.undo()
    same = generator_for(4)
    kinds, levels, signs = (
        torch.randint(count, (len(images),), generator=same).tolist() for count in (len(NAMES), 31, 2)
    )
    for (name, strength), kind, level, sign in zip(chosen, kinds, levels, signs):
        table = magnitudes(TRIVIAL[kind][0])
        wanted = table[level % len(table)] * (-1 if sign and name in SIGNED else 1)
        assert name == TRIVIAL[kind][0] and strength == pytest.approx(wanted, abs=2e-5)
    result = trivial_augment(images, operations)
    assert set(kinds) == set(range(len(NAMES)))
    for image, (name, strength), ours in zip(images, chosen, result):
        theirs = reference(name, image.byte(), strength).float()
        slack = 1 if name in (*ROUNDED, "autocontrast") else 0
        assert ((ours - theirs).abs() > slack).any(-1).float().mean() <= (
            0.005 if name in GEOMETRIC else 0
        ), name
