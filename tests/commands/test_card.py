"""What the Hugging Face hub reads of a model card, by the hub's own parser."""

import copy

import pytest
from huggingface_hub import ModelCard

from exported import CHOSEN, ROWS, SCORES
from tiny import PARAMS
from vitscale.commands.card import card
from vitscale.models.store import ModelConfig
from vitscale.pipeline.consistency import KINDS

FIGURES = SCORES | CHOSEN | {"parameters": 1_200_000}
WEIGHTS = {"source": "huggingface", "name": "someone/a-vit", "revision": "0" * 40, "hub_sha256": None, "sha256": None, "data": "imagenet1k", "license": "Apache-2.0"}  # fmt: skip


def read(in_transformers=True, source="digits", start="vit-scratch", weights=None):
    params = copy.deepcopy(PARAMS)
    params["rows"]["vit-digits"]["start"] = start
    params["download"]["digits"] = {"source": source, "image_size": 64, "classes": None, "sha256": None}
    params["weights"] = {"hub": WEIGHTS | (weights or {})}
    return ModelCard(card("vit-digits", params, FIGURES, ModelConfig.from_json(ROWS["vit"]), in_transformers))


def test_the_hub_reads_it():
    """Catches a card whose metadata the hub passes over: accuracy, data, licence, library or task."""
    found = read(source="cifar10").data
    assert (found.license, found.pipeline_tag, found.library_name) == (
        "other",
        "image-classification",
        "transformers",
    )
    assert (found.datasets, found.metrics, found.base_model) == (["uoft-cs/cifar10"], ["accuracy"], None)
    assert found.model_name == "vit-digits"
    (result,) = found.eval_results
    assert (result.task_type, result.dataset_type, result.dataset_name) == (
        "image-classification",
        "uoft-cs/cifar10",
        "digits",
    )
    assert (result.dataset_split, result.metric_type, result.metric_value) == (
        "test",
        "accuracy",
        SCORES["accuracy"],
    )
    assert read(in_transformers=False).data.library_name is None


@pytest.mark.parametrize(
    ("source", "base"), [("huggingface", "someone/a-vit"), ("torchvision", None)], ids=["hub", "torchvision"]
)
def test_where_the_weights_come_from(source, base):
    """Catches weights of the hub's that its page doesn't link to, and a link for those that aren't its own."""
    assert read(start="hub", weights={"source": source}).data.base_model == base


@pytest.mark.parametrize("source", KINDS["download"])
def test_every_source_has_a_licence(source):
    """Catches a source of data whose rows can't be exported, in a traceback."""
    assert "## Licences of data and weights\n\n- " in read(source=source).content
