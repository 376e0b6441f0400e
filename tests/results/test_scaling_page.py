"""What the scaling curve's page and picture say."""

import pytest
import vl_convert

from curves import point, pooled, power
from vitscale.base.entries import Published
from vitscale.results.drawn import PAPER
from vitscale.results.scaling import curves_of
from vitscale.results.scaling_findings import findings
from vitscale.results.scaling_page import page
from vitscale.results.scaling_picture import drawing


def test_curves_are_of_all_target_images_and_begin_with_nothing():
    made = [
        point(0, 0.3),
        point(10, 0.5),
        point(10, 0.2, target_images=10),
        point(20, 0.6, data="other"),
        point(0, 0.3, model="resnet18"),
    ]
    assert {key: [each.accuracy for each in curve] for key, curve in curves_of(made).items()} == {
        ("vit", "full", "cifar100"): [0.3, 0.5],
        ("vit", "full", "other"): [0.3, 0.6],
    }


PUBLISHED = {"famous": Published(accuracy=0.9464, protocol="full", images=1_281_167)}


@pytest.fixture(scope="module")
def made():
    found = [
        point(0, 0.3, 0.32, total=100_000),
        *power(-0.1),
        point(30_000, 0.4, 0.42, target_images=10, total=100_000),
        *power(-0.05, "resnet18"),
    ]
    return pooled(found)


def test_page(made):
    """A figure isn't on the page, or a published point passes for a measured one."""
    text = page(made, PUBLISHED, "cifar10")
    assert (
        "| vit | full | — | 0 | 1,000 | 31.00% | " in text
        and "| vit | full | cifar100 | 30,000 | 10 | 41.00% | " in text
    )
    assert (
        "(famous 94.64%): a course project's" in text and "outside 1,000 to 30,000 images of cifar100" in text
    )
    assert "published" not in page(made, {}, "cifar10")
    assert all(line in text for line in findings(made))


def test_picture_draws_every_figure(made):
    """A point or its interval is missing, lies elsewhere than its figures, or the log axis has no place for nothing."""
    spec = drawing(made, PUBLISHED, "cifar10")
    svg = vl_convert.vegalite_to_svg(spec)
    assert svg == vl_convert.vegalite_to_svg(drawing(made, PUBLISHED, "cifar10"))
    for words in (
        "none",
        "30,000",
        "1,281,167",
        "famous",
        "resnet18",
        "pretraining images",
        "cifar10 images, after pretraining on 30,000",
    ):
        assert f">{words}</text>" in svg, words
    first, second = (panel["data"]["values"] for panel in spec["hconcat"])
    assert len(first) == 9 and min(value["images"] for value in first) > 0
    assert sorted((value["model"], value["images"]) for value in second) == [
        ("resnet18", 1000),
        ("vit", 10),
        ("vit", 1000),
    ]
    for value in first + second:
        [same] = {
            each.interval
            for each in made
            if each.accuracy == value["accuracy"] and each.model == value["model"]
        }
        assert (value["low"], value["high"]) == same
    assert len(drawing(made[:5], {}, "cifar10")["hconcat"]) == 1


@pytest.fixture(scope="module")
def more(made):
    """The curves, a point of another data set, and one of weights that others trained."""
    single = [
        point(9000, 0.5, 0.52, model=model, data="other", steps=7, total=100_000)
        for model in ("vit", "resnet18")
    ]
    others = point(1_281_167, 0.95, model="deit", data="web", others="famous/deit", total=100_000)
    return [*made, *pooled([*single, others])]


def test_page_says_what_stands_beside_the_curves(more):
    """Another's weights pass for ours, or a point of other data for a point of the curve."""
    text = page(more, {}, "cifar10")
    assert "| deit | full | web, by others | 1,281,167 | 1,000 | 95.00% | " in text
    assert "| vit | full | other | 9,000 | 1,000 | 51.00% | " in text
    shown, open_ = text.split("## What it doesn't show")
    assert "deit" not in shown.split("## What the curve shows")[1]
    assert "outside 1,000 to 30,000 images of cifar100 and 9,000 images of other, or other data" in open_
    assert "cifar100 and other differ by their numbers of images or by the images and classes" in open_
    assert "deit (famous/deit, pretrained on web) is another model" in open_
    assert "the same number of steps at every number of pretraining images (vit 7; resnet18 7)" in open_
    alone = page(more[:9], {}, "cifar10")
    assert "web" not in alone and "differ by their" not in alone and "Weights that others" not in alone


def test_page_says_where_the_steps_differ(more):
    """The page says "the same number of steps" of points that had more and fewer."""
    text = page([*more, point(100, 0.4, data="other", steps=8, total=100_000)], {}, "cifar10")
    assert "other steps at every number of pretraining images (vit 7 or 8; resnet18 7)" in text


def test_picture_draws_what_stands_beside_the_curves(more):
    """A point of other data is on a line or filled like the curve's, another's weights are one of our points, or the second panel is of the wrong start."""
    spec = drawing(more, {}, "cifar10")
    values = spec["hconcat"][0]["data"]["values"]
    hollow = [(value["model"], value["images"]) for value in values if value["hollow"]]
    assert hollow == [("resnet18", 9000), ("vit", 9000)] and len(values) == 9 + len(hollow)
    lines = [value["curve"] for value in values if value["hollow"]]
    assert len(set(lines)) == 2 and not set(lines) & {
        value["curve"] for value in values if not value["hollow"]
    }
    svg = vl_convert.vegalite_to_svg(spec)
    for words in (
        "full, pretrained by others",
        "deit",
        "1,281,167",
        "filled: pretrained on cifar100; hollow: pretrained on other",
        "cifar10 images, after pretraining on 30,000",
    ):
        assert f">{words}</text>" in svg, words
    assert svg.count(f'fill="{PAPER}"') == 1 + 2, "the paper and the hollow points"
