"""The schema of params.yaml: what it lets through, and the one line that it says for what it doesn't."""

import copy
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.pipeline.consistency import check

ROOT = Path(__file__).parents[1]
MAIN, EXAMPLE = read_yaml(ROOT / "params.yaml"), read_yaml(ROOT / "examples/digits/params.yaml")
DELETE = object()
BASE = yaml.safe_load("""
lr: 0.001
seed: 0
split_seed: 0
precision: auto
target: cifar10
download:
  cifar10: {source: cifar10, sha256: {train: null, test: null}}
  cifar100: {source: cifar100, sha256: {train: null, test: null}}
prepare: {cifar10: {validation: 0.05}, cifar100: {validation: 0.05}}
augment:
  light: {crop_padding: 4, flip: true, trivial_augment: false, erasing: 0.0, mixup: 0.0, cutmix: 0.0}
  strong: {crop_padding: 4, flip: true, trivial_augment: true, erasing: 0.25, mixup: 0.2, cutmix: 1.0}
models:
  vit: {architecture: vit, image_size: 32, patch_size: 4, dim: 128, depth: 6, heads: 4, mlp_dim: 512, pool: mean,
        positions: learned, dropout: 0.0, stochastic_depth: 0.0, seed: 0}
  resnet18: {architecture: resnet18, image_size: 32, stem: cifar, seed: 0}
recipes:
  vit: {optimizer: adamw, beta2: 0.99, batch_size: 64, weight_decay: 0.05, warmup_epochs: 1, label_smoothing: 0.1,
        clip_norm: 1.0, ema_decay: 0.0, compile: false}
  resnet18: {optimizer: sgd, momentum: 0.9, batch_size: 128, weight_decay: 0.0005, warmup_epochs: 0.3,
             label_smoothing: 0.1, clip_norm: 0.0, ema_decay: 0.0, compile: false}
pretrain:
  vit-cifar100: {model: vit, data: cifar100, fraction: 1.0, seed: 0, recipe: vit, augment: light, sizes: [16, 32], epochs: 9, lr_scale: 1.0}
  resnet18-cifar100: {model: resnet18, data: cifar100, fraction: 1.0, seed: 0, recipe: resnet18, augment: light, sizes: [16, 32], epochs: 2, lr_scale: 9.0}
weights: {}
features: {}
rows:
  vit-cifar100: {start: vit-cifar100, protocol: full, inputs: prepared, fraction: 1.0, seed: 0, recipe: vit, augment: light, sizes: [16, 32], epochs: 4, lr_scale: 1.0}
  resnet18-cifar100: {start: resnet18-cifar100, protocol: full, inputs: prepared, fraction: 1.0, seed: 0, recipe: resnet18, augment: light, sizes: [16, 32], epochs: 2, lr_scale: 9.0}
  resnet18-cifar100-probe: {start: resnet18-cifar100, protocol: linear_probe, inputs: prepared, fraction: 1.0, seed: 0, recipe: resnet18, augment: light, sizes: [32], epochs: 1,
                            lr_scale: 9.0}
  vit-scratch: {start: vit-scratch, protocol: full, inputs: prepared, fraction: 1.0, seed: 0, recipe: vit, augment: light, sizes: [16, 32], epochs: 4, lr_scale: 1.0}
  resnet18-scratch: {start: resnet18-scratch, protocol: full, inputs: prepared, fraction: 1.0, seed: 0, recipe: resnet18, augment: light, sizes: [16, 32], epochs: 2, lr_scale: 9.0}
published:
  vit-cifar100: {accuracy: 0.65, protocol: full, images: 50000}
scaling: {}
""")  # not the study's own, which may change without a test having to


def parent_of(content: dict, path: tuple) -> dict | list:
    for part in path[:-1]:
        content = content[part]
    return content


def changed(path: str | tuple, value, content: dict = BASE) -> dict:
    """Return a copy of the parameters with one value set (or taken out); the path's parts are joined by dots."""
    content = copy.deepcopy(content)
    path = tuple(path.split(".")) if isinstance(path, str) else path
    parent = parent_of(content, path)
    if value is DELETE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return content


def faults(content: dict) -> list[str]:
    """Return what `check` says, line by line; nothing where it lets the parameters through."""
    before = copy.deepcopy(content)
    try:
        check(content)
    except UserError as error:
        return str(error).splitlines()
    finally:
        assert content == before, "check changed the parameters"
    return []


def the_fault(content: dict) -> str:
    """Return the one line that `check` says, less its beginning."""
    found = faults(content)
    assert len(found) == 1, found
    assert found[0].startswith("params.yaml: ")
    return found[0].removeprefix("params.yaml: ")


@pytest.mark.parametrize("content", [MAIN, EXAMPLE, BASE], ids=["main", "example", "base"])
def test_our_own_parameters_are_good(content):
    """A params.yaml of this repository is rejected."""
    assert faults(content) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("lr", 1),
        ("lr", 1e-05),
        ("seed", 2**63 - 1),
        ("precision", "bfloat16"),
        ("models.vit.pool", "class"),
        ("models.vit.positions", "sincos"),
        ("models.vit.dropout", 0.5),
        ("models.vit.dropout", 0),
        ("recipes.vit.ema_decay", 0.999),
        ("recipes.vit.compile", True),
        ("pretrain.vit-cifar100.fraction", 0.1),
        ("augment.light.erasing", 1.0),
        ("prepare.cifar10.validation", 0.5),
        ("download.cifar10.sha256", {"train": None, "test": None}),
        (
            "download.my_images",
            {"source": "imagefolder", "image_size": 64, "sha256": {"train": None, "test": None}},
        ),
        ("rows.vit-cifar100.start", "resnet18-cifar100"),
        ("published", {}),
        ("rows", {}),
    ],
)
def test_other_good_values_are_let_through(path, value):
    """A value that makes sense is rejected."""
    assert faults(changed(path, value)) == []


BAD_VALUES = [  # key, value, what the line must say is allowed
    # types
    ("lr", "1e-3", "number"),
    ("lr", None, "number"),
    ("lr", True, "number"),
    ("lr", [1e-3], "number"),
    ("seed", 1.5, "integer"),
    ("seed", True, "integer"),
    ("seed", "0", "integer"),
    ("seed", 1.0, "integer"),
    ("pretrain.vit-cifar100.epochs", True, "integer"),
    ("pretrain.vit-cifar100.epochs", 9.0, "integer"),
    ("rows.vit-scratch.epochs", 1.5, "integer"),
    ("rows.vit-scratch.epochs", "4", "integer"),
    ("rows.vit-scratch.epochs", None, "integer"),
    ("recipes.vit.batch_size", 64.0, "integer"),
    ("recipes.vit.compile", 1, "boolean"),
    ("recipes.vit.compile", "false", "boolean"),
    ("augment.light.flip", 0.5, "boolean"),
    ("augment.light.crop_padding", 4.0, "integer"),
    ("models.vit.dim", True, "integer"),
    ("target", 10, "string"),
    ("models", None, "dictionary"),
    ("models", [], "dictionary"),
    ("rows", "all", "dictionary"),
    ("augment.light", None, "dictionary|augment"),
    ("pretrain.vit-cifar100.model", None, "string"),
    # ranges
    ("lr", 0, "greater than 0"),
    ("lr", 0.0, "greater than 0"),
    ("lr", -1, "greater than 0"),
    ("lr", math.inf, "finite"),
    ("lr", -math.inf, "finite|greater than 0"),
    ("lr", math.nan, "than|finite"),
    ("seed", -1, "greater than or equal to 0"),
    ("seed", 2**63, "less than 9223372036854775808"),
    ("split_seed", -1, "greater than or equal to 0"),
    ("prepare.cifar10.validation", 0, "greater than 0"),
    ("prepare.cifar10.validation", 1, "less than 1"),
    ("prepare.cifar10.validation", -0.1, "greater than 0"),
    ("prepare.cifar10.validation", math.nan, "than|finite"),
    ("pretrain.vit-cifar100.fraction", 0, "greater than 0"),
    ("pretrain.vit-cifar100.fraction", 0.0, "greater than 0"),
    ("pretrain.vit-cifar100.fraction", 1.5, "less than or equal to 1"),
    ("pretrain.vit-cifar100.fraction", math.nan, "than|finite"),
    ("pretrain.vit-cifar100.epochs", 0, "greater than or equal to 1"),
    ("rows.vit-scratch.epochs", 0, "greater than or equal to 1"),
    ("rows.vit-scratch.epochs", -3, "greater than or equal to 1"),
    ("rows.vit-scratch.lr_scale", 0, "greater than 0"),
    ("rows.vit-scratch.lr_scale", math.inf, "finite"),
    ("models.vit.dropout", 1, "less than 1"),
    ("models.vit.dropout", 1.0, "less than 1"),
    ("models.vit.dropout", -0.1, "greater than or equal to 0"),
    ("models.vit.dropout", math.nan, "than|finite"),
    ("models.vit.stochastic_depth", 1.0, "less than 1"),
    ("models.vit.depth", 0, "greater than or equal to 1"),
    ("models.vit.patch_size", 0, "greater than or equal to 1"),
    ("models.vit.heads", 0, "greater than or equal to 1"),
    ("models.resnet18.image_size", 0, "greater than or equal to 1"),
    ("recipes.vit.beta2", 1.0, "less than 1"),
    ("recipes.vit.batch_size", 0, "greater than or equal to 1"),
    ("recipes.vit.weight_decay", -0.1, "greater than or equal to 0"),
    ("recipes.vit.weight_decay", math.inf, "finite"),
    ("recipes.vit.warmup_epochs", -1, "greater than or equal to 0"),
    ("recipes.vit.label_smoothing", 1.0, "less than 1"),
    ("recipes.vit.clip_norm", -1.0, "greater than or equal to 0"),
    ("recipes.vit.clip_norm", math.nan, "than|finite"),
    ("recipes.vit.ema_decay", 1.0, "less than 1"),
    ("recipes.resnet18.momentum", 1.0, "less than 1"),
    ("augment.strong.erasing", 1.1, "less than or equal to 1"),
    ("augment.strong.mixup", -0.2, "greater than or equal to 0"),
    ("augment.strong.cutmix", math.inf, "finite"),
    ("augment.light.crop_padding", -1, "greater than or equal to 0"),
    ("published.vit-cifar100.accuracy", 65.0, "less than or equal to 1"),
    ("published.vit-cifar100.accuracy", 0.0, "greater than 0"),
    ("rows.vit-scratch.sizes", [], "at least one"),
    ("pretrain.vit-cifar100.sizes", [], "at least one"),
    ("rows.vit-scratch.inputs", "raw", "prepared"),
    ("rows.vit-scratch.inputs", "features/../raw", "prepared"),
    ("rows.vit-scratch.sizes", 16, "list"),
    ("rows.vit-scratch.sizes", [8.0], "integer"),
    ("rows.vit-scratch.sizes", [True], "integer"),
    ("rows.vit-scratch.sizes", [0, 32], "greater than or equal to 1"),
    ("rows.vit-scratch.sizes", [16, 16, 24, 24, 32], "5 sizes need as many epochs, there are 4"),
    ("pretrain.resnet18-cifar100.sizes", [16, 24, 32], "3 sizes need as many epochs, there are 2"),
    # choices
    ("precision", "float16", "'auto', 'bfloat16' or 'float32'"),
    ("models.vit.pool", "max", "'class' or 'mean'"),
    ("models.vit.positions", "rope", "'learned' or 'sincos'"),
    ("models.resnet18.stem", "patch", "'cifar' or 'imagenet'"),
    ("rows.vit-scratch.protocol", "probe", "'full' or 'linear_probe'"),
    ("published.vit-cifar100.protocol", "half", "'full' or 'linear_probe'"),
    ("download.cifar10.source", "mnist", "cifar10, cifar100, digits, imagefolder"),
    ("models.vit.architecture", "vgg", "vit, resnet18"),
    ("recipes.vit.optimizer", "lion", "adamw, muon, sgd"),
    ("recipes.vit.optimizer", None, "adamw, muon, sgd"),
    # fingerprints
    ("download.cifar10.sha256.train", "abc", r"\[0-9a-f\]\{64\}"),
    ("download.cifar10.sha256.train", "A" * 64, r"\[0-9a-f\]\{64\}"),
    ("download.cifar10.sha256.test", "a" * 65, r"\[0-9a-f\]\{64\}"),
    ("download.cifar10.sha256.test", "a" * 64 + "\n", r"\[0-9a-f\]\{64\}"),
    ("download.cifar10.sha256.test", 0, "string"),
    ("download.cifar10.sha256", None, "dictionary|fingerprints"),
]


@pytest.mark.parametrize(
    ("key", "value", "allowed"), BAD_VALUES, ids=[f"{key}={value!r:.20}" for key, value, _ in BAD_VALUES]
)
def test_a_bad_value_is_one_line(key, value, allowed):
    """A value of the wrong type or out of range gets through, or the line doesn't name its key and what is allowed."""
    found = the_fault(changed(key, value))
    assert re.match(rf"{re.escape(key)}(\.\d+)?: ", found)  # of a list, the place too
    assert re.search(allowed, found, re.IGNORECASE), found


@pytest.mark.parametrize(
    "key",
    [
        "learning_rate",
        "models.vit.width",
        "models.resnet18.dropout",
        "recipes.vit.momentum",
        "recipes.resnet18.beta2",
        "rows.vit-scratch.dropout",
        "rows.vit-scratch.data",
        "pretrain.vit-cifar100.protocol",
        "augment.light.rotate",
        "download.cifar10.url",
        "download.cifar10.classes",
        "download.cifar10.image_size",
        "download.cifar10.sha256.validation",
        "prepare.cifar10.seed",
        "published.vit-cifar100.url",
    ],
)
def test_an_unknown_key_is_one_line(key):
    """A key that nothing reads (a typing error, mostly) is passed over."""
    assert the_fault(changed(key, 0.5)) == f"{key}: no such parameter"


REFERENCES = [  # key, value, the section whose names are allowed
    (
        "rows.vit-cifar100.start",
        "nope",
        ["vit-scratch", "resnet18-scratch", "vit-cifar100", "resnet18-cifar100"],
    ),
    (
        "rows.vit-cifar100.start",
        "vit",
        ["vit-scratch", "resnet18-scratch", "vit-cifar100", "resnet18-cifar100"],
    ),
    ("pretrain.vit-cifar100.model", "nope", ["vit", "resnet18"]),
    ("pretrain.vit-cifar100.data", "nope", ["cifar10", "cifar100"]),
    ("pretrain.vit-cifar100.recipe", "nope", ["vit", "resnet18"]),
    ("rows.vit-cifar100.recipe", "nope", ["vit", "resnet18"]),
    ("pretrain.vit-cifar100.augment", "nope", ["light", "strong"]),
    ("rows.vit-cifar100.augment", "nope", ["light", "strong"]),
    ("target", "nope", ["cifar10", "cifar100"]),
]


@pytest.mark.parametrize(
    ("key", "value", "choices"), REFERENCES, ids=[f"{key}={value}" for key, value, _ in REFERENCES]
)
def test_a_name_that_isnt_there_is_one_line(key, value, choices):
    """An entry names another that doesn't exist, which only the stage would find out, or the line doesn't say what does."""
    found = the_fault(changed(key, value))
    assert found.startswith(f"{key}: ") and value in found and found.endswith(", ".join(choices)), found


def test_data_is_prepared_only_where_it_is_downloaded():
    """A data set is to be prepared that nothing downloads."""
    found = the_fault(changed("prepare.nope", {"validation": 0.1}))
    assert found.startswith("prepare.nope: ") and found.endswith("cifar10, cifar100")


def test_downloaded_data_is_usable_only_where_it_is_prepared():
    """An entry trains on data that is downloaded but not prepared."""
    content = changed("prepare.cifar100", DELETE)
    found = faults(content)
    assert len(found) == 2
    assert all(
        re.search(r"pretrain\.\S+-cifar100\.data: there is no prepare\.cifar100", line) for line in found
    )
    found = the_fault(changed("prepare.cifar10", DELETE))
    assert found.startswith("target: there is no prepare.cifar10")


def test_an_empty_section_is_said():
    """A name in a section without entries leaves the list of choices blank."""
    content = changed("augment", {})
    assert faults(content) and all(line.endswith("no entry") for line in faults(content))


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"patch_size": 5}, "patch_size", ["5", "32"]),
        ({"patch_size": 64}, "patch_size", ["64", "32"]),
        ({"heads": 3}, "heads", ["3", "128"]),
        ({"dim": 130}, "heads", ["4", "130"]),
        ({"dim": 6, "heads": 2, "positions": "sincos"}, "dim", ["6", "multiple of 4", "sincos"]),
    ],
)
def test_a_vit_whose_numbers_dont_fit_is_one_line(values, key, words):
    """A ViT that can't be built gets through, to fail in a stage with a traceback."""
    found = the_fault(changed("models.vit", BASE["models"]["vit"] | values))
    assert found.startswith(f"models.vit.{key}: ") and all(word in found for word in words), found
    assert (
        faults(changed("models.vit", BASE["models"]["vit"] | {"dim": 6, "heads": 2})) == []
    )  # learned ones fit


def test_sizes_that_the_patches_dont_divide_are_one_line_each():
    """A ViT gets images that its patches don't cover, or a ResNet, which has none, is rejected."""
    for key in ("pretrain.vit-cifar100", "rows.vit-cifar100", "rows.vit-scratch"):
        assert (
            the_fault(changed(f"{key}.sizes", [16, 30, 32]))
            == f"{key}.sizes: the patch_size 4 of models.vit doesn't divide 30"
        )
        assert len(faults(changed(f"{key}.sizes", [15, 30]))) == 2
    assert faults(changed("rows.resnet18-scratch.sizes", [15, 30])) == []
    assert faults(changed("models.vit.image_size", 64)) == []  # images are resized to it


FROM_HUB = {
    "source": "huggingface",
    "name": "facebook/deit-tiny-patch16-224",
    "revision": "b" * 40,
    "sha256": None,
    "data": "imagenet1k",
    "license": "Apache-2.0",
}
FROM_TORCHVISION = {
    "source": "torchvision",
    "name": "ResNet18_Weights.IMAGENET1K_V1",
    "sha256": "f37072fd",
    "data": "imagenet1k",
    "license": "BSD-3-Clause",
}
OFF = {
    "crop_padding": 0,
    "flip": False,
    "trivial_augment": False,
    "erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}
PROBE = BASE["rows"]["resnet18-cifar100-probe"] | {
    "inputs": "features/resnet18-cifar100",
    "augment": "none",
    "sizes": [],
}


def probing(**changes) -> dict:
    """Return the parameters with weights, features of two starts, and a probe on the features of one."""
    return BASE | {
        "augment": BASE["augment"] | {"none": OFF},
        "weights": {"deit": FROM_HUB, "torch": FROM_TORCHVISION},
        "features": {"resnet18-cifar100": {}, "deit": {}},
        "rows": BASE["rows"] | {"probe": PROBE | changes},
    }


def test_weights_and_features_are_good():
    """A start from elsewhere, its features or a probe on some are rejected."""
    for changes in (
        {},
        {"start": "deit", "inputs": "features/deit"},
        {"start": "torch", "inputs": "prepared", "sizes": [160]},
    ):
        assert faults(probing(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"inputs": "features/deit"}, "inputs", "features/resnet18-cifar100"),
        ({"protocol": "full"}, "inputs", "prepared"),
        ({"start": "torch", "inputs": "features/torch"}, "inputs", "features has no entry torch"),
        ({"augment": "light"}, "augment", "everything off"),
        ({"sizes": [32]}, "sizes", "give []"),
        ({"inputs": "prepared"}, "sizes", "at least one"),
    ],
)
def test_a_probe_that_doesnt_fit_its_features_is_one_line(changes, key, words):
    """A probe takes another start's features, or augmentation or sizes that features don't have are passed over."""
    found = the_fault(probing(**changes))
    assert found.startswith(f"rows.probe.{key}: ") and words in found


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("weights.deit.revision", "main", r"\[0-9a-f\]\{40\}"),
        ("weights.deit.name", "../deit", "pattern"),
        ("weights.deit.name", "a/b/c", "pattern"),
        ("weights.torch.sha256", "f370", r"\{8,64\}"),
        ("weights.torch.sha256", None, "string"),
        ("weights.torch.name", "VGG11_Weights.DEFAULT", "ResNet18"),
        ("weights.deit.source", "zip", "huggingface, torchvision"),
        ("weights.deit.source", DELETE, "huggingface, torchvision"),
        ("weights.vit-scratch", FROM_HUB, "another"),
        ("weights.vit-cifar100", FROM_HUB, "another"),
        ("features.nope", {}, "no start.nope"),
    ],
)
def test_weights_that_dont_fit_are_one_line(key, value, words):
    """Weights without a pin, of an unknown kind or under a name that is taken get through."""
    found = the_fault(changed(key, value, probing()))
    assert found.startswith(f"{key}: ") and re.search(words, found), found


@pytest.mark.parametrize(
    "section", ["download", "prepare", "augment", "models", "recipes", "pretrain", "rows", "published"]
)
@pytest.mark.parametrize("name", ["a.b", "a b", "a/b", "", "a@b", "é"])
def test_a_name_that_breaks_paths_is_one_line(section, name):
    """A name with a dot (which DVC takes for a path into params.yaml), a slash or a blank gets through."""
    content = copy.deepcopy(BASE)
    content[section][name] = next(iter(content[section].values()))
    assert the_fault(content) == f"{section}.{name}: a name may hold letters, digits, _ and - only"
    content[section]["a\n"] = content[section].pop(name)
    assert faults(content)


def test_a_number_as_a_name_is_rejected():
    """YAML reads an unquoted name such as 10 as a number, which then isn't found."""
    content = copy.deepcopy(BASE)
    content["models"][10] = content["models"]["vit"]
    assert the_fault(content).startswith("models.10")
    content = copy.deepcopy(BASE)
    content[10] = 1
    assert the_fault(content).startswith("10")


def test_a_pretraining_cant_take_the_name_of_untrained_weights():
    """A pretrained start hides the untrained weights of the same name."""
    found = the_fault(changed("pretrain.vit-scratch", BASE["pretrain"]["vit-cifar100"]))
    assert found.startswith("pretrain.vit-scratch: ") and "models.vit" in found


@pytest.mark.parametrize("classes", [[0, 10], [-1, 3], [0, 1.0], ["0", 1], [True, 2], [5], [], None, 5])
def test_digits_are_0_to_9(classes):
    """A class that isn't a digit, or a single one, gets through."""
    found = the_fault(changed("download.digits-5to9.classes", classes, EXAMPLE))
    assert found.startswith("download.digits-5to9.classes")


def test_digit_10_is_named():
    """The line doesn't say which of the listed classes is wrong."""
    found = the_fault(changed("download.digits-5to9.classes", [5, 6, 10], EXAMPLE))
    assert (
        found.startswith("download.digits-5to9.classes.2: ")
        and "less than or equal to 9" in found
        and "10" in found
    )


def test_a_digit_twice_is_rejected():
    """A class listed twice gets two labels for the same images."""
    assert the_fault(changed("download.digits-5to9.classes", [5, 6, 5], EXAMPLE)).startswith(
        "download.digits-5to9.classes"
    )


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("download.cifar10.source", DELETE, ("cifar10", "cifar100", "digits", "imagefolder")),
        ("models.vit.architecture", DELETE, ("vit", "resnet18")),
        ("recipes.vit.optimizer", DELETE, ("adamw", "muon", "sgd")),
    ],
)
def test_a_missing_kind_says_which_there_are(key, value, allowed):
    """An entry without its kind is rejected without a word on the kinds there are."""
    found = the_fault(changed(key, value))
    assert found.startswith(f"{key}: ") and all(name in found for name in allowed), found


def leaves(content: dict, above: tuple = ()):
    """Yield the path of every value that is no mapping."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name)


@pytest.mark.parametrize("content", [MAIN, EXAMPLE, BASE], ids=["main", "example", "base"])
def test_every_parameter_must_be_given(content):
    """A parameter is optional: leaving it out gets through, or ends in another line than the one that names it."""
    paths = [
        path for path in leaves(content) if path[0] != "features" or len(path) == 1
    ]  # its entries are empty
    assert len(paths) > 80
    for path in paths:
        found = the_fault(changed(path, DELETE, content))
        assert found.startswith(f"{'.'.join(path)}: "), found


@pytest.mark.parametrize("section", BASE)
def test_every_section_must_be_given(section):
    """A whole section is optional."""
    assert the_fault(changed(section, DELETE)) == f"{section}: missing; every parameter must be given"


@pytest.mark.parametrize("content", [MAIN, EXAMPLE, BASE], ids=["main", "example", "base"])
def test_no_parameter_takes_a_mapping_or_a_list_of_lists(content):
    """A value of an absurd type gets through somewhere, or isn't said in one line that names the key."""
    for path in leaves(content):
        for value in ({"a": 1}, [[1]]):
            if path in (("published",), ("weights",), ("features",), ("scaling",)):
                continue
            found = the_fault(changed(path, value, content))
            assert found.startswith(".".join(path)) and "\n" not in found


def test_each_fault_has_its_own_line():
    """Of several faults only the first is said, so that they have to be mended one by one."""
    content = changed("lr", 0, changed("seed", "x", changed("models.vit.width", 1)))
    assert sorted(line.split(": ")[1] for line in faults(content)) == ["lr", "models.vit.width", "seed"]


# Reading YAML


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a text and reads it as YAML."""

    def read(text: str | bytes) -> dict:
        path = tmp_path / "params.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_yaml(path)

    return read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-05", 1e-05),
        ("1e-4", 1e-4),
        ("1.0e-3", 1e-3),
        ("1E5", 1e5),
        ("1e5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("0.1", 0.1),
        ("-1.5", -1.5),
        ("-1e-3", -1e-3),
        ("+.5e+2", 50.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("5.0e-4", 5e-4),
    ],
)
def test_floats(text, value, read):
    """A number as YAML 1.2 and DVC write it is read as a string, or as another number."""
    found = read(f"a: {text}")["a"]
    assert type(found) is float and found == value


@pytest.mark.parametrize(
    "text",
    [
        "10",
        "-3",
        "0",
        "0x1F",
        "0o17",
        "017",
        "1_000",
        "true",
        "no",
        "~",
        "abc",
        "'1e-05'",
        '"1e-05"',
        "1e",
        "e5",
        "1.5.2",
        "1-2",
        ".",
        "-",
        "cifar10",
        "[1, 2]",
        "{b: 1}",
        "4 px",
        "1:30",
    ],
)
def test_everything_else_is_read_as_by_pyyaml(text, read):
    """The loader changes what isn't a float: integers, booleans, quoted numbers or names."""
    try:
        wanted = yaml.safe_load(f"a: {text}")
    except yaml.YAMLError:
        with pytest.raises(UserError):
            read(f"a: {text}")
        return
    found = read(f"a: {text}")
    assert found == wanted and type(found["a"]) is type(wanted["a"])


def test_types_of_our_own_numbers(read):
    """An integer becomes a float, a quoted number a number, or .nan something else."""
    found = read("a: 10\nb: '1e-05'\nc: 1e-05\nd: .nan\ne: 0x10")
    assert (type(found["a"]), found["b"], found["c"], found["e"]) == (int, "1e-05", 1e-05, 16) and math.isnan(
        found["d"]
    )


def test_the_loader_stays_ours():
    """Other users of PyYAML in the process, such as DVC, get our floats too."""
    assert yaml.safe_load("a: 1e-05") == {"a": "1e-05"}


BROKEN = {
    "unclosed bracket": "a: [1, 2",
    "tab": "a:\n\t- 1",
    "colon": "a: b: c",
    "indentation": "a: 1\n  b: 2",
    "a python object": "a: !!python/object/apply:os.getcwd []",
    "a list": "- 1\n- 2",
    "a word": "hello",
    "empty": "",
    "a control character": "a: \x00",
    "not UTF-8": b"a: \xff\xfe",
    "a date that there isn't": "a: 2024-13-45",
    "an unknown alias": "a: *b",
    "two documents": "a: 1\n---\nb: 2",
    "a key that is a list": "? [1]\n: 2",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_line(text, read, tmp_path):
    """A file that isn't a YAML mapping is read, or ends in a traceback or in more than one line, without its name."""
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "params.yaml"))) as caught:
        read(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_one_line(tmp_path):
    """A missing file, or a folder of its name, ends in a traceback, or without its name."""
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match=re.escape(str(path))) as caught:
            read_yaml(path)
        assert len(str(caught.value).splitlines()) == 1


# The command


def command(*arguments: str) -> subprocess.CompletedProcess:
    """Run `vitscale check` in the checkout's root, with the checkout's own code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-m", "vitscale", "check", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "path"), [([], "params.yaml"), (["examples/digits"], "examples/digits/params.yaml")]
)
def test_the_command_says_good(arguments, path):
    """`vitscale check` doesn't run in a fresh checkout, or rejects what is in it."""
    done = command(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: good\n", "")


def test_the_command_fails_with_the_faults(tmp_path):
    """The command ends well (code 0), with a traceback, or without the faults, where params.yaml is wrong."""
    content = changed("lr", -1.0, changed("rows.vit-scratch.epochs", 0))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    done = command(str(tmp_path))
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.splitlines() == [f"error: {fault}" for fault in faults(content)]
        and len(faults(content)) == 2
    )
    done = command(str(tmp_path / "nowhere"))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "nowhere" in done.stderr
