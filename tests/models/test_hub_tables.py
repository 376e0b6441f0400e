"""The tables of what a model of transformers says of itself, held against transformers' own classes."""

import dataclasses
import inspect
import json
import re

import pytest
from transformers import DeiTConfig, ResNetConfig, ViTConfig
from transformers.models.convnext.image_processing_convnext import ConvNextImageProcessor
from transformers.models.deit import modeling_deit
from transformers.models.deit.image_processing_deit import DeiTImageProcessor
from transformers.models.resnet import modeling_resnet
from transformers.models.vit import modeling_vit
from transformers.models.vit.image_processing_vit import ViTImageProcessor

from vitscale.models import hub_config

KINDS = {
    "vit": (ViTConfig, modeling_vit, {"head_dim"}),  # which is refused
    "deit": (DeiTConfig, modeling_deit, {"head_dim"}),
    "resnet": (ResNetConfig, modeling_resnet, set()),
}
PROCESSORS = (ViTImageProcessor, DeiTImageProcessor, ConvNextImageProcessor)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_stands_in_a_table(kind):
    """A version of transformers has a field that nobody has judged, or its model reads one that is none."""
    config, modeling, odd = KINDS[kind]
    fields = {each.name for each in dataclasses.fields(config)} | config().to_dict().keys()
    assert fields <= hub_config.KEYS[kind]
    reads = re.findall(r'(?<!\w)config(?:\.|, ")(\w+)', inspect.getsource(modeling))
    assert "hidden_act" in reads
    # The attention's way of computing is no part of a file.
    assert set(reads) - hub_config.KEYS[kind] - {"_attn_implementation"} == odd


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda each: each.__name__)
def test_every_step_stands_in_a_table(processor):
    """A version of transformers has a step that nobody has judged, or takes one otherwise where a file is silent."""
    assert set(processor.valid_kwargs.__annotations__) <= hub_config.PROCESSOR_KEYS
    steps = processor().to_dict()
    assert steps.keys() <= hub_config.PROCESSOR_KEYS
    ours = hub_config.PROCESSORS[processor.__name__]
    assert list(steps["image_mean"]) == list(steps["image_std"]) == [0.5, 0.5, 0.5]
    assert all(steps.get(name, each[0]) == each[0] for name, each in hub_config.PROCESSOR_WANTED.items())
    for name, value in ours.items():
        square = {"height": value, "width": value}
        assert steps[name] == (square if name in ("size", "crop_size") and type(value) is int else value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_leaves_out(kind):
    """A key that a file leaves out has another value for transformers than for us."""
    theirs, ours = json.loads(KINDS[kind][0]().to_json_string(use_diff=False)), hub_config.DEFAULTS[kind]
    for name, allowed in hub_config.WANTED[kind].items():
        assert theirs[name] == ours.get(name, allowed[0]), name
    assert {name: theirs[name] for name in ours} == ours
    assert hub_config.HONOURED[kind].keys() - ours.keys() == {"id2label"}
