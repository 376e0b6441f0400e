"""Our SVG pictures: what is drawn stands in a legend, told apart without colour, on light pages and dark ones."""

import re

import pytest
import vl_convert

from curves import pooled, power
from tiny import ROOT
from vitscale.base.config import read_yaml
from vitscale.results import picture, scaling_picture
from vitscale.results.drawn import BLUE, DARK, GREEN, INK, PAPER, PURPLE, VERMILLION, with_dark
from vitscale.results.study import Study
from vitscale.results.tables import figures_in


def study(pipeline: str) -> Study:
    params = read_yaml(ROOT / pipeline / "params.yaml")
    return Study.read(params.__getitem__, figures_in(ROOT / pipeline / "metrics"))


def curves() -> dict:
    found = pooled([*power(-0.1), *power(-0.05, "resnet18")])
    found[0].protocol = found[1].protocol = "linear_probe"
    return scaling_picture.drawing(found, {}, "cifar10")


PICTURES = {"study": lambda: picture.drawing(study(".")), "scaling": curves}


def looks(svg: str, role: str, *names: str) -> set[tuple]:
    """Return the attributes of every drawn shape of a kind, and whether it is round."""
    found = set()
    for group in re.findall(rf'<g class="mark-\w+ {role}[^"]*".*?</g>', svg):
        for shape in re.findall(r"<(?:path|line)[^>]*>", group):
            attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', shape))
            found.add((*(attributes.get(name) for name in names), "A" in attributes.get("d", "")))
    return found


def test_the_legend_has_every_kind_of_point():
    """Catches a colour, a shape or a hollow point that no legend explains."""
    svg = vl_convert.vegalite_to_svg(picture.drawing(study(".")))
    drawn = looks(svg, 'role-mark[^"]*layer_1_marks', "fill", "stroke")
    assert len(drawn) == 5 and drawn <= looks(svg, "role-legend-symbol", "fill", "stroke")
    kinds = {(colour, shape) for colour, shape, _ in picture.LOOKS.values()}
    assert len(kinds) == len({shape for _, shape in kinds}) == 3  # by shape as well as by colour
    assert {colour for _, colour, _ in drawn} == {colour for colour, _ in kinds}


def test_the_legend_has_every_dash():
    """Catches protocols that differ in a dash which the legend doesn't show: both were black dots."""
    svg = vl_convert.vegalite_to_svg(curves())
    dashes = looks(svg, 'role-mark[^"]*layer_0', "stroke-dasharray")
    assert len(dashes) == 2 and dashes <= looks(
        svg, "role-legend-symbol", "stroke-dasharray"
    )  # no dashed circle


def test_one_model_has_one_colour_in_both_pictures():
    """Catches a ViT that is blue in one picture and orange in the other."""
    scale = curves()["hconcat"][0]["encoding"]["color"]["scale"]
    assert dict(zip(scale["domain"], scale["range"])) == {"vit": BLUE, "resnet18": VERMILLION}
    assert (picture.LOOKS["ViT"][0], picture.LOOKS["ResNet-18"][0]) == (BLUE, VERMILLION)


@pytest.mark.parametrize("name", PICTURES)
def test_each_colour_is_seen_on_a_dark_page(name):
    """Catches black text, or a line of another library's default, that a dark page swallows."""
    svg = with_dark(vl_convert.vegalite_to_svg(PICTURES[name]()))
    colours = set(re.findall(r' (?:fill|stroke)="(#?\w+)"', svg)) - {"none", "transparent"}
    assert {PAPER, INK, BLUE, VERMILLION} <= colours <= {*DARK, VERMILLION, GREEN, PURPLE}
    assert all(f'[fill="{light}"]{{fill:{dark}}}' in svg for light, dark in DARK.items())
    assert svg.count("<style>") == 1 and svg.index("<style>") < svg.index("<rect")


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""
    shares = []
    for colour in (first, second):
        values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        shares.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(shares) + 0.05) / (min(shares) + 0.05)


@pytest.mark.parametrize("swapped", [dict, DARK.copy], ids=["light", "dark"])
def test_contrast(swapped):
    """Catches text under 4.5 to 1 and points under 3 to 1 (WCAG 2.2, 1.4.3 and 1.4.11)."""
    shown = {colour: swapped().get(colour, colour) for colour in (PAPER, INK, BLUE, VERMILLION, GREEN)}
    assert contrast("#000000", "#ffffff") == 21
    assert contrast(shown[INK], shown[PAPER]) >= 4.5
    assert all(contrast(shown[colour], shown[PAPER]) >= 3 for colour in (BLUE, VERMILLION, GREEN))
