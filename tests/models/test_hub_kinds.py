"""transformers' ViT, DeiT and ResNet-18 in the files of the hub: our answers are theirs, on photographs."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from made import CPU
from published import (
    DEIT_PROCESSOR,
    LABELS,
    RESNET_PROCESSOR,
    SIDE,
    VIT,
    VIT_KEYS,
    VIT_PROCESSOR,
    change_json,
    inputs_of,
    photographs,
    publish,
    rename,
    started,
)
from vitscale.base.errors import UserError
from vitscale.models.store import load_model, save_model
from vitscale.training.inference import predict

RESNET = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
IN21K, RESNET_18 = "google/vit-in21k", "microsoft/resnet-18"
DISTILLED = "facebook/deit-distilled"


def test_a_backbone_without_head(mirror, tmp_path):
    """The paper's own in21k weights are refused, or start as something else than transformers' features."""
    theirs = ViTModel(ViTConfig(**VIT))
    entry = publish(mirror, IN21K, theirs, VIT_PROCESSOR, VIT_KEYS)
    ours = started(mirror, entry)
    assert ours.config.classes == [] and ours.config.interpolation == "bilinear"
    with torch.no_grad():
        wanted = theirs(inputs_of(ours)).last_hidden_state[:, 0]
        assert wanted.std() > 0.1
        assert torch.allclose(ours(inputs_of(ours)), wanted, atol=1e-4)
    save_model(tmp_path / "start", ours.config, ours.state_dict())
    tuned = load_model(tmp_path / "start", classes=["a", "b"])
    assert tuned.head.weight.shape == (2, 16) and not load_model(tmp_path / "start").config.classes


def of_today(name):
    """Return transformers 5's name in memory for one in its files."""
    for old, new in (
        ("encoder.layer.", "layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ):
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize(
    "change",
    [of_today, "vit.{}".format, lambda name: f"vit.{of_today(name)}"],
    ids=["today", "prefix", "both"],
)
def test_names_of_all_ages(mirror, change):
    """A file with transformers' names of another year, or with another prefix, is refused."""
    theirs = ViTModel(ViTConfig(**VIT))
    entry = publish(mirror, IN21K, theirs, VIT_PROCESSOR)
    wanted = started(mirror, entry).state_dict()
    rename(mirror / IN21K, change)
    found = started(mirror, entry).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@torch.no_grad()
def test_a_classifier_on_real_images(mirror):
    """From the file of an image on, our class probabilities aren't transformers'."""
    theirs = ViTForImageClassification(ViTConfig(**VIT, **LABELS))
    entry = publish(mirror, "google/vit", theirs, VIT_PROCESSOR, VIT_KEYS)
    ours, images = started(mirror, entry), list(photographs(48).numpy())
    pixels = AutoImageProcessor.from_pretrained(mirror / "google/vit")(images, return_tensors="pt")
    wanted = theirs(**pixels).logits.softmax(1)
    assert ours.config.classes == ["crane", "gull", "crane"] and wanted.std() > 0.01
    assert (predict(ours, images, CPU).softmax(1) - wanted).abs().max() < 1e-4
    assert torch.allclose(ours(pixels["pixel_values"]), theirs(**pixels).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "width"),
    [(DeiTModel, 32), (DeiTForImageClassification, 3), (DeiTForImageClassificationWithTeacher, 3)],
    ids=lambda value: getattr(value, "__name__", value),
)
@torch.no_grad()
def test_deit(mirror, tmp_path, kind, width):
    """DeiT's distillation token is dropped, or its heads are put together otherwise than by their mean."""
    theirs = kind(DeiTConfig(**VIT, **({} if kind is DeiTModel else LABELS)))
    entry = publish(mirror, DISTILLED, theirs, DEIT_PROCESSOR, VIT_KEYS)
    ours = started(mirror, entry)
    answer = theirs(inputs_of(ours))
    wanted = answer.last_hidden_state[:, :2].flatten(1) if kind is DeiTModel else answer.logits
    assert wanted.shape[1] == width and wanted.std() > 0.1
    save_model(tmp_path / "start", ours.config, ours.state_dict())
    for each in (ours, load_model(tmp_path / "start").eval()):
        assert torch.allclose(each(inputs_of(ours)), wanted, atol=1e-4)
    assert ours.config.to_json()["distilled"] and ours.config.mean == DEIT_PROCESSOR["image_mean"]


@torch.no_grad()
def test_without_qkv_biases(mirror):
    """A model without these biases is refused, or has others than none."""
    theirs = ViTForImageClassification(ViTConfig(**VIT, **LABELS, qkv_bias=False))
    ours = started(mirror, publish(mirror, "some/vit", theirs, VIT_PROCESSOR))
    assert torch.allclose(ours(inputs_of(ours)), theirs(inputs_of(ours)).logits, atol=1e-4)


@pytest.mark.parametrize("head", [True, False])
@torch.no_grad()
def test_resnet_18(mirror, head):
    """microsoft/resnet-18 is refused, or gives other answers than transformers'."""
    config = ResNetConfig(**RESNET, **(LABELS if head else {}))
    theirs = (ResNetForImageClassification if head else ResNetModel)(config)
    ours = started(mirror, publish(mirror, RESNET_18, theirs, RESNET_PROCESSOR))
    answer = theirs(inputs_of(ours))
    wanted = answer.logits if head else answer.pooler_output.flatten(1)
    assert ours.config.architecture.image_size == 64 and wanted.std() > 0.1
    assert torch.allclose(ours(inputs_of(ours)), wanted, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer_type": "bottleneck"}, "has layer_type bottleneck"),
        ({"depths": [3, 4, 6, 3]}, r"has depths \[3, 4, 6, 3\]"),
        ({"downsample_in_first_stage": True}, "has downsample_in_first_stage True"),
        ({"model_type": "swin"}, "has model_type swin; our models want vit or deit or resnet"),
        ({"model_type": ["vit"]}, "has model_type"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_resnet_is_refused_by_name(mirror, change, words):
    """ResNet-34, or a model of another kind, is taken, or the line doesn't say what ours lacks."""
    theirs = ResNetForImageClassification(ResNetConfig(**RESNET, **LABELS))
    entry = publish(mirror, RESNET_18, theirs, RESNET_PROCESSOR)
    change_json(mirror / RESNET_18 / "config.json", **change)
    with pytest.raises(UserError, match=f"^weights.start: {RESNET_18} {words}"):
        started(mirror, entry)


@pytest.mark.parametrize("left_out", ["layer_type", "depths", "hidden_sizes"])
def test_a_key_left_out_is_transformers_own_default(mirror, left_out):
    """A file that leaves out what makes it a ResNet-50 is taken for ResNet-18."""
    entry = publish(mirror, RESNET_18, ResNetForImageClassification(ResNetConfig(**RESNET)), RESNET_PROCESSOR)
    path = mirror / RESNET_18 / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != left_out}))
    with pytest.raises(UserError, match=f"has {left_out} "):
        started(mirror, entry)


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("vit.layers.0.layer_scale1.lambda1", "LayerScale"),
        ("vit.embeddings.register_tokens", "register tokens"),
        ("vit.layers.0.attention.q_norm.weight", "normalised queries and keys"),
        ("vit.layers.0.mlp.gate_proj.weight", "a gated MLP"),
        ("vit.something", "missing or left over: vit.something"),
    ],
)
def test_what_no_model_of_ours_has_is_named(mirror, name, feature):
    """Tensors without a place in our models are dropped, or the line doesn't say what they are."""
    theirs = ViTForImageClassification(ViTConfig(**VIT, **LABELS))
    entry = publish(mirror, "some/vit", theirs, VIT_PROCESSOR)
    path = mirror / "some/vit/model.safetensors"
    save_file(load_file(path) | {name: torch.ones(16)}, path)
    with pytest.raises(UserError, match=f"^weights.start: some/vit has .*{re.escape(feature)}"):
        started(mirror, entry)


def test_a_classifier_without_its_head_is_refused(mirror):
    """A file that says it classifies, and has lost its classifier, is taken for a backbone."""
    theirs = ViTForImageClassification(ViTConfig(**VIT, **LABELS))
    entry = publish(mirror, "some/vit", theirs, VIT_PROCESSOR)
    backbone = ViTModel(ViTConfig(**VIT), add_pooling_layer=False)
    config = (mirror / "some/vit/config.json").read_text()
    publish(mirror, "some/vit", backbone, VIT_PROCESSOR)
    (mirror / "some/vit/config.json").write_text(config)
    with pytest.raises(UserError, match="has no classifier"):
        started(mirror, entry)


@pytest.mark.parametrize(
    "steps",
    [
        {
            "image_processor_type": "DeiTImageProcessor",
            "crop_size": {"height": SIDE, "width": SIDE},
            "do_rescale": True,
        },
        {
            "image_processor_type": "DeiTImageProcessorFast",
            "do_center_crop": False,
            "size": {"height": SIDE, "width": SIDE},
        },
        {"image_processor_type": "ViTFeatureExtractor", "do_center_crop": False, "size": SIDE},
        {
            "image_processor_type": "ConvNextImageProcessor",
            "do_center_crop": None,
            "size": {"shortest_edge": SIDE},
        },
    ],
    ids=["dictionaries", "no crop", "ViT's", "ConvNeXt's"],
)
def test_steps_in_the_words_of_other_years(mirror, steps):
    """A published file of another age or class, whose images end at the model's size, is refused."""
    entry = publish(mirror, DISTILLED, DeiTModel(DeiTConfig(**VIT)), DEIT_PROCESSOR | steps)
    assert started(mirror, entry).config.preprocessing.image_size == SIDE


@pytest.mark.parametrize(
    "size",
    [None, "32", 32.0, [32, 32], {"height": 32}, {"height": [1], "width": [1]}, {"shortest_edge": 32}],
    ids=str,
)
def test_sizes_that_are_none(mirror, size):
    """A size that isn't one is taken, or ends in a traceback."""
    processor = VIT_PROCESSOR | {"size": size}
    entry = publish(mirror, "some/vit", ViTModel(ViTConfig(**VIT)), processor)
    with pytest.raises(UserError, match="^weights.start: some/vit has size "):
        started(mirror, entry)


def test_a_deit_whose_crop_is_another_size_is_refused(mirror):
    """What DeiT's crop leaves isn't held against the model's size."""
    entry = publish(mirror, DISTILLED, DeiTModel(DeiTConfig(**VIT)), DEIT_PROCESSOR | {"crop_size": 64})
    with pytest.raises(UserError, match="has size 64; .* image_size .*32"):
        started(mirror, entry)
