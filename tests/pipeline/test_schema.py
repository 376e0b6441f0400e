"""The schema of params.yaml: what it lets through, and the one line that it says for what it doesn't."""

import copy
import math
import re

import pytest

from schemas import BASE, DELETE, EXAMPLE, MAIN, changed, faults, leaves, the_fault
from vitscale.base.errors import brief


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
        ("recipes.vit.accumulate", 4),
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
    ("recipes.vit.accumulate", 2.0, "integer"),
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
    ("lr", math.inf, "less than or equal to 1"),
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
    ("rows.vit-scratch.lr_scale", math.inf, "less than or equal to 1"),
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
    ("recipes.vit.accumulate", 0, "greater than or equal to 1"),
    ("recipes.vit.weight_decay", -0.1, "greater than or equal to 0"),
    ("recipes.vit.weight_decay", math.inf, "less than or equal to 1"),
    ("recipes.vit.warmup_epochs", -1, "greater than or equal to 0"),
    ("recipes.vit.label_smoothing", 1.0, "less than 1"),
    ("recipes.vit.clip_norm", -1.0, "greater than or equal to 0"),
    ("recipes.vit.clip_norm", math.nan, "than|finite"),
    ("recipes.vit.ema_decay", 1.0, "less than 1"),
    ("recipes.resnet18.momentum", 1.0, "less than 1"),
    ("augment.strong.erasing", 1.1, "less than or equal to 1"),
    ("augment.strong.mixup", -0.2, "greater than or equal to 0"),
    ("augment.strong.cutmix", math.inf, "less than or equal to 1"),
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
    # more than any machine has
    ("rows.vit-scratch.epochs", 10**30, "less than or equal to 100000"),
    ("rows.vit-scratch.epochs", 10**5000, "thousands of digits"),
    ("models.vit.dim", 10**30, "less than or equal to 16384"),
    ("models.vit.depth", 10**6, "less than or equal to 1000"),
    ("recipes.vit.batch_size", 10**9, "less than or equal to 131072"),
    ("lr", 10**5000, "thousands of digits"),
    ("seed", 10**5000, "less than 9223372036854775808"),
    ("rows.vit-scratch.seed", list(range(1001)), "at most 1000"),
    ("rows.vit-scratch.sizes", [32] * 1001, "at most 1000"),
    ("features", {f"f{i}": {} for i in range(1001)}, "1001 entries, more than 1000"),
    # choices
    ("precision", "float8", "'auto', 'bfloat16', 'float16' or 'float32'"),
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
    ("key", "value", "allowed"),
    BAD_VALUES,
    ids=[f"{key}={brief(value)[:20]}" for key, value, _ in BAD_VALUES],
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


@pytest.mark.parametrize(
    "section", ["download", "prepare", "augment", "models", "recipes", "pretrain", "rows", "published"]
)
@pytest.mark.parametrize("name", ["a.b", "a b", "a/b", "", "a@b", "é", "-x", "a" * 101])
def test_a_name_that_breaks_paths_is_one_line(section, name):
    """A name with a dot (which DVC takes for a path into params.yaml), a slash or a blank gets through."""
    content = copy.deepcopy(BASE)
    content[section][name] = next(iter(content[section].values()))
    assert the_fault(content).startswith(f"{section}.{name:.100}: a name holds letters, digits, _ and - only")
    content[section]["a\n"] = content[section].pop(name)
    assert faults(content)


def test_a_number_as_a_name_is_rejected():
    """YAML reads an unquoted name such as 10 as a number, which then isn't found."""
    content = copy.deepcopy(BASE)
    content["models"][10] = content["models"]["vit"]
    assert the_fault(content) == "models: a name must be a string; put 10 in quotes"
    content = copy.deepcopy(BASE)
    content[10] = 1
    assert the_fault(content) == "its sections: a name must be a string; put 10 in quotes"


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


@pytest.mark.parametrize("content", [MAIN, EXAMPLE, BASE], ids=["main", "example", "base"])
def test_every_parameter_must_be_given(content):
    """A parameter is optional: leaving it out gets through, or ends in another line than the one that names it."""
    # The entries of features are empty; a ViT may do without a stem.
    needed = {path for path in leaves(content) if path[-1] != "stem_channels"}
    paths = sorted(path for path in needed if path[0] != "features" or len(path) == 1)
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
