"""Entries of params.yaml that don't fit the rest: names that aren't there, sizes, probes, weights."""

import re

import pytest

from schemas import BASE, DELETE, changed, faults, the_fault
from tiny import OFF

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
        ({"stem_channels": [32, 64]}, "", ["2 stem_channels", "patches of 2, not 4"]),
        ({"stem_channels": [64, 0]}, "stem_channels.1", ["1", "0"]),
    ],
)
def test_a_vit_whose_numbers_dont_fit_is_one_line(values, key, words):
    """A ViT that can't be built gets through, to fail in a stage with a traceback."""
    found = the_fault(changed("models.vit", BASE["models"]["vit"] | values))
    assert found.startswith(f"models.vit{'.' * bool(key)}{key}: ") and all(word in found for word in words), (
        found
    )
    assert (
        faults(changed("models.vit", BASE["models"]["vit"] | {"dim": 6, "heads": 2})) == []
    )  # learned ones fit
    assert faults(changed("models.vit", BASE["models"]["vit"] | {"stem_channels": [32, 64, 64]})) == []


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
    "hub_sha256": None,
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
        ("weights.deit.hub_sha256", "b" * 40, r"\[0-9a-f\]\{64\}"),
        ("weights.deit.hub_sha256", DELETE, "hub_sha256"),
        ("weights.torch.hub_sha256", None, "hub_sha256"),
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


def test_a_pretraining_cant_take_the_name_of_untrained_weights():
    """A pretrained start hides the untrained weights of the same name."""
    found = the_fault(changed("pretrain.vit-scratch", BASE["pretrain"]["vit-cifar100"]))
    assert found.startswith("pretrain.vit-scratch: ") and "models.vit" in found


@pytest.mark.parametrize("accumulate", [3, 128])
def test_a_batch_in_unequal_parts_is_one_line(accumulate):
    """A batch that can't be parted equally gets through, to fail in a stage after its data set has been read."""
    found = the_fault(changed("recipes.vit.accumulate", accumulate))
    assert found == f"recipes.vit.accumulate: {accumulate} doesn't divide batch_size 64"
    assert faults(changed("recipes.vit.accumulate", 64)) == []
