"""Which values a model's config.json may have: nothing in it is believed."""

import math
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from typing import Any

from vitscale.base import limits
from vitscale.base.errors import CONTROLS, brief

Rule = tuple[Callable[[Any], bool], str]  # a test, and words for what passes it


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _one_of(*words: str) -> Rule:
    return lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}"


def _channels(test: Callable[[float], bool], words: str) -> Rule:
    def passes(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 3 and all(_number(v) and test(v) for v in value)

    return lambda value: value is None or passes(value), f"three numbers {words}"


def _count(most: int) -> Rule:
    return lambda value: type(value) is int and 1 <= value <= most, f"a whole number from 1 to {most}"


LONGEST = 1000  # characters of a class's name; those of ImageNet-21k, which are lists of words, are shorter
RATE: Rule = (lambda value: _number(value) and 0 <= value < 1, "a number from 0 to below 1")
RULES: dict[str, Rule] = {
    **dict.fromkeys(("image_size", "patch_size"), _count(limits.SIDE)),
    **dict.fromkeys(("dim", "heads"), _count(limits.DIM)),
    "mlp_dim": _count(limits.MLP_DIM),
    "depth": _count(limits.DEPTH),
    **dict.fromkeys(("dropout", "stochastic_depth"), RATE),
    "pool": _one_of("class", "mean"),
    "positions": _one_of("learned", "sincos"),
    "stem_channels": (
        lambda value: (
            isinstance(value, list) and len(value) <= limits.STEM and all(map(_count(limits.DIM)[0], value))
        ),
        f"a list of at most {limits.STEM} whole numbers from 1 to {limits.DIM}",
    ),
    "layer_norm_eps": (lambda value: _number(value) and 0 < value < 1, "a number between 0 and 1"),
    "distilled": (lambda value: type(value) is bool, "true or false"),
    "stem": _one_of("cifar", "imagenet"),
    # Two may have the same name: ImageNet has two kinds of crane.
    "classes": (
        lambda value: (
            isinstance(value, list)
            and len(value) <= limits.CLASSES
            and all(isinstance(each, str) and 0 < len(each) <= LONGEST for each in value)
            and not any(map(CONTROLS.search, value))
        ),
        f"a list of at most {limits.CLASSES} names of 1 to {LONGEST} characters, none of them a control",
    ),
    "interpolation": _one_of("bilinear", "bicubic"),
    "mean": _channels(lambda value: 0 <= value <= 1, "from 0 to 1"),
    "std": _channels(lambda value: value > 1e-6, "above 0.000001"),
}


def check_values(content: Any, architectures: dict[str, type], others: Iterable[str]) -> None:
    """Raise ValueError with the first value of a config.json that no model can have.

    `architectures` are the dataclasses of their parameters; `others` are the keys beside those.
    """

    def hold(name: str, passes: bool, words: str) -> None:
        if not passes:
            raise ValueError(f"{name} is {brief(content[name])}, not {words}")

    if not isinstance(content, dict) or "architecture" not in content:
        raise ValueError("architecture is missing")
    rules = RULES | {"architecture": _one_of(*architectures)}
    passes, words = rules["architecture"]
    hold("architecture", passes(content["architecture"]), words)
    parameters = fields(architectures[content["architecture"]])
    known = {"architecture", *others, *(each.name for each in parameters)}
    optional = {each.name for each in parameters if each.default is not MISSING}
    if odd := sorted((known ^ set(content)) - (optional - set(content))):
        raise ValueError(
            f"{brief(odd[0])[1:-1]} is {'missing' if odd[0] in known else 'no key of a config.json'}"
        )
    for name, value in content.items():
        hold(name, rules[name][0](value), rules[name][1])
    hold(
        "std",
        (content["mean"] is None) == (content["std"] is None),
        "given where mean is, null where it is null",
    )
    if content["architecture"] == "vit":
        if fault := limits.vit_fault(**content):
            raise ValueError(fault)
        for name, whole in (("patch_size", "image_size"), ("heads", "dim")):
            hold(name, content[whole] % content[name] == 0, f"a divisor of the {whole} {content[whole]}")
        hold(
            "pool", content["pool"] == "class" or not content.get("distilled"), "class, which distilled needs"
        )
        hold("dim", content["positions"] == "learned" or content["dim"] % 4 == 0, "a multiple of 4")
