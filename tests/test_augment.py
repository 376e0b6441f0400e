"""Augmentation against torchvision's own operations on uint8 tensors, image by image."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vitscale.data import augment as module
from vitscale.data.augment import Policy, crop, erase, generator_for, mix
from vitscale.data.augment import augment as augment_by
from vitscale.data.trivial_augment import TRIVIAL, operate, trivial_augment


def augment(images, labels, classes, policy, mean, generator):
    return augment_by(images, labels, classes, Policy(**policy), mean, generator)


OFF = {
    "crop_padding": 0,
    "flip": False,
    "trivial_augment": False,
    "erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}
STRONG = {
    "crop_padding": 4,
    "flip": True,
    "trivial_augment": True,
    "erasing": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
}
MEAN = [0.5, 0.4, 0.3]
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


def pictures(each: int = 4, size: int = 32) -> Tensor:
    """Return uint8 images of every kind: noise, smooth, low in contrast, flat, saturated, near-empty, black, white."""
    draws = torch.Generator().manual_seed(5)
    integers = partial(torch.randint, generator=draws)
    noise = integers(256, (each, size, size, 3))
    smooth = torch.nn.functional.interpolate(
        torch.rand(each, 3, 4, 4, generator=draws), size=size, mode="bilinear"
    )
    smooth = (smooth * 255).permute(0, 2, 3, 1)
    narrow = integers(20, (each, size, size, 3)) + integers(200, (each, 1, 1, 3))
    flat = integers(256, (each, 1, 1, 3)).expand(-1, size, size, -1)
    saturated = 255 * integers(2, (each, size, size, 3))
    sparse = torch.zeros(1, size, size, 3)
    sparse[0, 3, 4] = torch.tensor([255.0, 128.0, 1.0])
    bounds = [torch.zeros(1, size, size, 3), torch.full((1, size, size, 3), 255)]
    return torch.cat(
        [kind.to(torch.uint8) for kind in (noise, smooth, narrow, flat, saturated, sparse, *bounds)]
    )


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
        trivial_augment(torch.zeros(60_000, 1, 1, 3), generator_for(3))
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
    trivial_augment(tagged, generator_for(4))
    monkeypatch.undo()
    same = generator_for(4)
    kinds, levels, signs = (
        torch.randint(count, (len(images),), generator=same).tolist() for count in (len(NAMES), 31, 2)
    )
    for (name, strength), kind, level, sign in zip(chosen, kinds, levels, signs):
        table = magnitudes(TRIVIAL[kind][0])
        wanted = table[level % len(table)] * (-1 if sign and name in SIGNED else 1)
        assert name == TRIVIAL[kind][0] and strength == pytest.approx(wanted, abs=2e-5)
    result = trivial_augment(images, generator_for(4))
    assert set(kinds) == set(range(len(NAMES)))
    for image, (name, strength), ours in zip(images, chosen, result):
        theirs = reference(name, image.byte(), strength).float()
        slack = 1 if name in (*ROUNDED, "autocontrast") else 0
        assert ((ours - theirs).abs() > slack).any(-1).float().mean() <= (
            0.005 if name in GEOMETRIC else 0
        ), name


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_equals_torchvision(padding):
    """A window is off by a pixel, rows and columns are swapped, or the padding isn't zero."""
    window = 2 * padding + 1
    top, left = (
        offsets.flatten()
        for offsets in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    )
    images = torch.randint(256, (window**2, 32, 32, 3), dtype=torch.uint8, generator=generator_for(0))
    for image, y, x, ours in zip(images, top.tolist(), left.tolist(), crop(images, top, left, padding)):
        padded = F.pad(image.permute(2, 0, 1), [padding] * 4, fill=0)
        assert torch.equal(ours.permute(2, 0, 1), F.crop(padded, y, x, 32, 32))


def test_augment_crops_and_flips_as_torchvision_would():
    """The drawn offsets and flips aren't applied to the images that they were drawn for."""
    images = torch.randint(256, (300, 32, 32, 3), dtype=torch.uint8, generator=generator_for(0))
    result, _ = augment(
        images, torch.zeros(300).long(), 2, OFF | {"crop_padding": 4, "flip": True}, MEAN, generator_for(7, 8)
    )
    same = generator_for(7, 8)
    top, left = torch.randint(9, (2, 300), generator=same).tolist()
    flipped = torch.randint(2, (300,), generator=same, dtype=torch.bool).tolist()
    for image, y, x, flip, ours in zip(images, top, left, flipped, result):
        theirs = F.crop(F.pad(image.permute(2, 0, 1), [4] * 4), y, x, 32, 32)
        theirs = F.horizontal_flip(theirs) if flip else theirs
        assert torch.equal(ours, theirs.permute(1, 2, 0).float())
    assert (
        set(top) == set(left) == set(range(9)) and len(set(zip(top, left))) > 50
    )  # each image its own window
    assert 100 < sum(flipped) < 200


def boxes_of(mask: Tensor) -> list[tuple[int, int, int, int]]:
    """Return (top, left, height, width) of the true box in each mask (b, h, w), which must be a whole rectangle."""
    found = []
    for each in mask:
        rows, columns = each.any(1).nonzero().flatten(), each.any(0).nonzero().flatten()
        top, left, height, width = int(rows[0]), int(columns[0]), len(rows), len(columns)
        assert each[top : top + height, left : left + width].all() and each.sum() == height * width, (
            "no rectangle"
        )
        found.append((top, left, height, width))
    return found


def test_erase_boxes():
    """Erased boxes leave the paper's limits (2 to 33% of the area, aspect 0.3 to 3.3) or don't use all of them."""
    fill = torch.tensor([10.0, 20.0, 30.0])
    images = torch.full((2000, 32, 32, 3), 200.0)
    result = erase(images, 1.0, fill, generator_for(2))
    mask = (result == fill).all(-1)
    assert torch.equal(result[~mask], images[~mask])  # a pixel is either filled in all channels or untouched
    boxes = boxes_of(mask)
    for _, _, height, width in boxes:  # sides are rounded to whole pixels
        assert (height + 0.5) * (width + 0.5) >= 0.02 * 1024 and (height - 0.5) * (width - 0.5) <= 0.33 * 1024
        assert (height + 0.5) / max(width - 0.5, 0.1) >= 0.3 and (height - 0.5) / (width + 0.5) <= 3.3
    areas = [height * width / 1024 for _, _, height, width in boxes]
    ratios = [height / width for _, _, height, width in boxes]
    assert min(areas) < 0.03 and max(areas) > 0.31 and 0.16 < sum(areas) / 2000 < 0.19
    assert (
        min(ratios) < 0.36
        and max(ratios) > 2.8
        and abs(sum(math.log(ratio) for ratio in ratios)) / 2000 < 0.05
    )
    assert {top for top, *_ in boxes} >= set(range(20)) and {box[1] for box in boxes} >= set(range(20))
    assert max(top + height for top, _, height, _ in boxes if height < 20) == 32
    assert max(left + width for _, left, _, width in boxes if width < 20) == 32


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.25, 200, 300), (1.0, 1000, 1000)])
def test_erase_probability(probability, low, high):
    """Images are erased more or less often than params.yaml says."""
    images = torch.full((1000, 8, 8, 3), 200.0)
    result = erase(images, probability, torch.zeros(3), generator_for(2))
    assert low <= int((result != images).flatten(1).any(1).sum()) <= high
    assert images.eq(200).all()


def test_augment_erases_to_the_channel_mean():
    """The erased box isn't the data set's mean colour, in the images' own range 0..255."""
    images = torch.full((4, 32, 32, 3), 200, dtype=torch.uint8)
    result, _ = augment(images, torch.zeros(4).long(), 2, OFF | {"erasing": 1.0}, MEAN, generator_for(0))
    colours = result.reshape(-1, 3).unique(dim=0)  # sorted
    assert torch.allclose(colours, torch.tensor([[127.5, 102.0, 76.5], [200.0, 200.0, 200.0]]))


def told_apart(batch: int, size: int = 8) -> tuple[Tensor, Tensor]:
    """Return images whose mean over the pixels is their own target: image i is one in channel i alone."""
    return torch.eye(batch)[:, None, None].repeat(1, size, size, 1), torch.eye(batch)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.3), (0.2, 1.0)])
def test_mixed_targets_are_the_shares_really_kept(mixup, cutmix):
    """A target names another share, or another partner, than the pixels show."""
    images, targets = told_apart(200)
    mixed, mixed_targets = mix(images, targets, mixup, cutmix, generator_for(1, 2))
    assert torch.allclose(mixed.mean((1, 2)), mixed_targets, atol=1e-5)
    assert torch.allclose(mixed_targets.sum(1), torch.ones(200), atol=1e-6) and (mixed_targets >= 0).all()
    changed = (mixed_targets.diagonal() < 1 - 1e-6).float().mean()
    assert changed > 0.5
    for part in told_apart(200):  # and the arguments are as they were
        assert torch.equal(part, images if part.ndim == 4 else targets)


def kinds(mixed: Tensor) -> tuple[Tensor, Tensor]:
    """Return which images are uniform blends (mixup), and which show two unblended images (CutMix)."""
    pure = ((mixed == 0) | (mixed == 1)).flatten(1).all(1)
    uniform = (mixed == mixed[:, :1, :1]).flatten(1).all(1)
    return uniform & ~pure, pure & ~uniform


def test_mixup_blends_whole_images():
    """Mixup pastes instead of blending."""
    blended, pasted = kinds(mix(*told_apart(100), 1.0, 0.0, generator_for(3))[0])
    assert blended.sum() > 90 and not pasted.any()


def test_cutmix_pastes_one_rectangle():
    """CutMix blends instead of pasting, or pastes something else than one rectangle."""
    images, targets = told_apart(100, size=32)
    mixed, _ = mix(images, targets, 0.0, 1.0, generator_for(3))
    blended, pasted = kinds(mixed)
    assert pasted.sum() > 80 and not blended.any()
    foreign = (mixed != images).any(-1)[pasted]
    assert len(set(boxes_of(foreign))) > 50


def test_both_mixes_give_each_image_either():
    """With both on, all images of a batch get the same kind of mix, or some get both."""
    mixed, _ = mix(*told_apart(200), 1.0, 1.0, generator_for(3))
    blended, pasted = kinds(mixed)
    untouched = (mixed == told_apart(200)[0]).flatten(1).all(1)
    assert blended.sum() > 60 and pasted.sum() > 60
    others = ~(blended | pasted | untouched)  # CutMix of the whole image
    assert (mixed[others].flatten(1).sum(1) == 64).all() and others.sum() < 20


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_beta_draws(alpha):
    """Mixing shares don't follow Beta(alpha, alpha): mean 1/2, variance 1 / (4 (2 alpha + 1))."""
    draws = module._beta(alpha, 20_000, generator_for(9))
    assert draws.isfinite().all() and draws.min() >= 0 and draws.max() <= 1
    assert abs(draws.mean() - 0.5) < 0.02 and abs(draws.var() * 4 * (2 * alpha + 1) - 1) < 0.05


def test_mixing_off_is_off():
    """alpha 0 still mixes."""
    images = pictures()
    labels = torch.arange(len(images)) % 5
    result, targets = augment(images, labels, 5, OFF, MEAN, generator_for(0))
    assert torch.equal(targets, torch.eye(5)[labels]) and torch.equal(result, images.float())


def test_everything_off_returns_the_images():
    """A policy without any augmentation changes a pixel, a target, a shape or a type."""
    images = torch.randint(256, (16, 32, 32, 3), dtype=torch.uint8, generator=generator_for(0))
    result, targets = augment(images, torch.arange(16) % 3, 3, OFF, MEAN, generator_for(0))
    assert result.dtype == torch.float32 and torch.equal(result, images.float())
    assert torch.equal(targets, torch.nn.functional.one_hot(torch.arange(16) % 3, 3).float())


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    images = torch.randint(256, (size, 32, 32, 3), dtype=torch.uint8, generator=generator_for(0))
    return images, torch.arange(size) % 10


POLICIES = [OFF | {name: STRONG[name]} for name in OFF] + [STRONG]


@pytest.mark.parametrize("policy", POLICIES, ids=[*OFF, "strong"])
def test_augment_depends_on_seed_and_step_alone(policy):
    """A repeated step gives other images (not reproducible), or another step or seed gives the same ones."""
    images, labels = batch()
    torch.manual_seed(0)
    first, first_targets = augment(images, labels, 10, policy, MEAN, generator_for(0, 2, 5))
    torch.manual_seed(1)  # the global state must not matter
    again, again_targets = augment(images, labels, 10, policy, MEAN, generator_for(0, 2, 5))
    assert torch.equal(first, again) and torch.equal(first_targets, again_targets)
    for key in ((0, 2, 6), (1, 2, 5)):
        assert not torch.equal(first, augment(images, labels, 10, policy, MEAN, generator_for(*key))[0])


@pytest.mark.parametrize("policy", POLICIES, ids=[*OFF, "strong"])
def test_each_slot_has_its_own_draws(policy):
    """All images of a batch get the same crop, flip, operation, box or share."""
    images, labels = batch()
    images = images[:1].expand(64, -1, -1, -1).contiguous()
    if policy["mixup"] or policy["cutmix"]:
        images = batch()[0]
        _, targets = augment(images, labels, 10, policy, MEAN, generator_for(1))
        distinct = len(targets.amax(1).unique())
    else:
        result, _ = augment(images, labels, 10, policy, MEAN, generator_for(1))
        distinct = len(result.flatten(1).unique(dim=0))
    assert distinct >= (2 if policy == OFF | {"flip": True} else 10)


@pytest.mark.parametrize("policy", [OFF, *POLICIES], ids=["off", *OFF, "strong"])
def test_the_input_is_left_alone(policy):
    """Augmentation writes into the resident data set, so that it wears out over the epochs."""
    images, labels = batch()
    before, labels_before = images.clone(), labels.clone()
    result, targets = augment(images, labels, 10, policy, MEAN, generator_for(1))
    result.zero_(), targets.zero_()
    assert torch.equal(images, before) and torch.equal(labels, labels_before)


def test_strong_policy_stays_in_range():
    """Images leave 0..255 or targets don't sum to one, under all augmentations at once."""
    images, labels = pictures(20), torch.arange(len(pictures(20))) % 10
    for step in range(20):
        result, targets = augment(images, labels, 10, STRONG, MEAN, generator_for(0, step))
        assert result.shape == (len(images), 32, 32, 3) and result.isfinite().all()
        assert result.min() >= 0 and result.max() <= 255 + 1e-3
        assert (targets.sum(1) - 1).abs().max() < 1e-6 and targets.shape == (len(images), 10)


def test_a_batch_of_one():
    """A last batch or a data set of one image breaks a batched operation."""
    images, labels = batch(1)
    for step in range(40):
        result, targets = augment(images, labels, 10, STRONG, MEAN, generator_for(0, step))
        assert result.shape == (1, 32, 32, 3) and torch.allclose(targets, torch.eye(10)[:1])


def test_generator_for_depends_on_every_number():
    """Two of a training's random streams are one and the same, or not reproducible."""
    keys = [
        (),
        (0,),
        (1,),
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (0, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (2**63 - 1, 1),
        (2**62, 1),
    ]
    keys += [(seed, 2, step) for seed in range(10) for step in range(100)]
    draws = {key: tuple(torch.randint(2**62, (2,), generator=generator_for(*key)).tolist()) for key in keys}
    assert len(set(draws.values())) == len(set(keys))
    assert all(generator_for(*key).initial_seed() == generator_for(*key).initial_seed() for key in keys)
    assert torch.equal(
        torch.rand(5, generator=generator_for(0, 1)), torch.rand(5, generator=generator_for(0, 1))
    )
    assert not torch.equal(
        torch.rand(5, generator=generator_for(0, 1)), torch.rand(5, generator=generator_for(1, 0))
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("policy", POLICIES, ids=[*OFF, "strong"])
def test_cuda_gives_the_same_batch(policy):
    """A (seed, step) gives another batch on a GPU: other draws, or an operation that calculates differently there."""
    images, labels = batch(256)
    here, here_targets = augment(images, labels, 10, policy, MEAN, generator_for(0, 1))
    there, there_targets = augment(images.cuda(), labels.cuda(), 10, policy, MEAN, generator_for(0, 1))
    assert there.device.type == "cuda" and torch.allclose(there_targets.cpu(), here_targets, atol=1e-6)
    difference = (there.cpu() - here).abs()  # by a level where rounding decides, by more where nearest does
    assert (difference > 1e-2).float().mean() < 0.005 and (difference > 1.01).float().mean() < 0.001
