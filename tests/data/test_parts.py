"""A part of a batch, as one of several processes makes it, is bit for bit what the whole batch has there."""

import pytest
import torch

from pictures import MEAN, POLICIES, STRONG, augment, pictures
from tiny import OFF
from vitscale.data import augment as module
from vitscale.data import trivial_augment
from vitscale.data.augment import Policy, draw, generator_for
from vitscale.data.trivial_augment import TRIVIAL, operate
from vitscale.models.preprocessing import resize

GROUPS = [2, 3, 5, 7, 8, 9, 15, 16, 17, 20]


@pytest.fixture(autouse=True)
def threads():
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def augmented(policy: dict, images, part: slice, seed: int):
    """Return what a process with that part of the batch makes."""
    batch = len(images)
    rows, drawn = draw(Policy(**policy), batch, images.shape[1], generator_for(seed)).part(part)
    return module.augment(images[rows], torch.arange(batch)[rows] % 10, 10, drawn, MEAN)


@pytest.mark.parametrize("size", [17, 32, 224])
@pytest.mark.parametrize("policy", [OFF, *POLICIES], ids=["off", *OFF, "strong"])
def test_parts_are_those_of_the_whole(policy, size):
    """A process sees other draws, another partner or another rounding than a single one, or draws on without the others."""
    images = torch.randint(256, (24, size, size, 3), dtype=torch.uint8, generator=generator_for(0))
    for seed in range(1 if size > 32 else 10):
        whole, targets = augment(images, torch.arange(24) % 10, 10, policy, MEAN, generator_for(seed))
        for processes in (1, 2, 4, 24):
            each = 24 // processes
            for start in range(0, 24, each):
                part = slice(start, start + each)
                found, its = augmented(policy, images, part, seed)
                assert torch.equal(found, whole[part]) and torch.equal(its, targets[part])


@pytest.mark.parametrize("mixed", [{}, {"mixup": 0.2}, {"cutmix": 1.0}], ids=["alone", "mixup", "cutmix"])
def test_a_part_takes_its_own_and_their_partners(mixed):
    """A process works on images that it doesn't need, or on one twice."""
    policy, batch = STRONG | {"mixup": 0.0, "cutmix": 0.0} | mixed, 64
    whole = draw(Policy(**policy), batch, 8, generator_for(3))
    for processes in (2, 4, 8):
        each = batch // processes
        for start in range(0, batch, each):
            rows, _ = whole.part(slice(start, start + each))
            own = set(range(start, start + each))
            wanted = own | ({int(whole.mix.partner[i]) for i in own} if whole.mix else set())
            assert rows.tolist() == sorted(wanted)


def strengths(name: str, low: float, high: float, signed: bool) -> torch.Tensor:
    """Return an operation's 31 strengths, of both signs where it has them."""
    level = torch.arange(31)
    found = (8 - level / 5).round() if name == "posterize" else low + (high - low) * level / 30
    return torch.cat([found, -found]) if signed else found


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("row", TRIVIAL, ids=[row[0] for row in TRIVIAL])
def test_an_operation_gives_an_image_the_same_in_any_company(row, size):
    """An image's pixels depend on how many others the operation gets, on its place among them, or on the threads."""
    name, values = row[0], strengths(*row)
    kinds = pictures(1, size)
    images = kinds[torch.arange(len(values)) % len(kinds)].float()
    torch.set_num_threads(1)
    alone = torch.cat([operate(name, images[i : i + 1], values[i : i + 1]) for i in range(len(values))])
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for count in [1, *GROUPS, len(values)] if size == 32 else [1, 3, 16, 20]:
            for start in range(0, len(values), count):
                part = slice(start, start + count)
                assert torch.equal(operate(name, images[part], values[part]), alone[part]), (threads, count)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "to"), [(32, 16), (32, 24), (32, 224), (224, 64), (224, 160)])
def test_a_resized_image_is_the_same_in_any_company(size, to, interpolation):
    """An image's pixels depend on how many others are resized with it, or on the threads."""
    images = torch.rand(20, size, size, 3, generator=generator_for(0)).permute(0, 3, 1, 2)
    torch.set_num_threads(1)
    alone = torch.cat([resize(image[None], to, interpolation) for image in images])
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for count in (1, 3, 8, 20):
            for start in range(0, 20, count):
                part = slice(start, start + count)
                assert torch.equal(resize(images[part], to, interpolation), alone[part]), (threads, count)


def test_the_mean_of_a_large_image_is_exact(monkeypatch):
    """The sum of a large image's values is rounded on the way, so that threads and devices come to other means."""
    means = []
    monkeypatch.setattr(trivial_augment, "_blend", lambda images, mean, _: means.extend(mean) or images)
    images = torch.randint(256, (8, 700, 700, 1), generator=generator_for(0)).expand(-1, -1, -1, 3).float()
    operate("contrast", images, torch.zeros(8))
    grays = (0.2989 * images[..., 0] + 0.587 * images[..., 1] + 0.114 * images[..., 2]).floor()
    exact = torch.tensor([int(each.long().sum()) for each in grays])
    assert torch.equal(torch.stack(means).flatten(), exact.float() / 700**2)
