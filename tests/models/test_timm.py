"""timm's models in the files that timm writes for the hub: our answers are theirs, on photographs."""

import re

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer

from published import change_json, inputs_of, publish_timm, started
from vitscale.base.errors import UserError
from vitscale.models import timm_config

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_classes": 5}
NAME = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"


@pytest.mark.parametrize(
    ("architecture", "arguments", "expected"),
    [
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", SMALL, {"heads": 3, "mean": [0.5] * 3}),
        ("vit_tiny_patch16_224.augreg_in21k", SMALL | {"num_classes": 0}, {"classes": []}),
        ("vit_small_patch16_224.augreg_in1k", SMALL | {"num_heads": 4, "mlp_ratio": 2}, {"heads": 4}),
        ("vit_base_patch16_224_miil.in21k_ft_in1k", SMALL, {"interpolation": "bilinear", "heads": 12}),
        ("vit_base_patch16_gap_224", SMALL, {"pool": "mean", "heads": 16}),
        ("deit_tiny_patch16_224.fb_in1k", SMALL, {"interpolation": "bicubic"}),
        ("deit_tiny_distilled_patch16_224.fb_in1k", SMALL, {"distilled": True}),
        ("deit_tiny_distilled_patch16_224.fb_in1k", SMALL | {"num_classes": 0}, {"distilled": True}),
        ("resnet18.a1_in1k", {"num_classes": 5}, {"image_size": 224, "stem": "imagenet"}),
        ("resnet18.tv_in1k", {"num_classes": 0}, {"classes": []}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@torch.no_grad()
def test_timm(mirror, architecture, arguments, expected):
    """timm's checkpoint is refused, or gives other answers than timm's own model."""
    entry, theirs = publish_timm(mirror, f"timm/{architecture}", architecture, **arguments)
    ours = started(mirror, entry)
    wanted, found = theirs(inputs_of(ours)), ours(inputs_of(ours))
    if "distilled" in expected and not ours.config.classes:  # timm's features are the mean of ours
        found = found.unflatten(1, (2, -1)).mean(1)
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, atol=1e-4 * max(1, wanted.abs().max().item()))
    assert ours.config.to_json() | expected == ours.config.to_json()
    assert ours.config.classes == [str(i) for i in range(arguments["num_classes"])]


@torch.no_grad()
def test_at_its_real_size(mirror):
    """A size that the small models don't have is refused."""
    entry, theirs = publish_timm(mirror, NAME, "vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    ours = started(mirror, entry)
    images = inputs_of(ours)[:2]
    assert torch.allclose(ours(images), theirs(images), atol=1e-4)
    assert len(ours.config.classes) == 1000 and ours.config.interpolation == "bicubic"


def test_older_files_and_names_of_classes(mirror):
    """timm's files of before its model_args are refused, or its names of classes are left out."""
    entry, _ = publish_timm(mirror, NAME, "vit_tiny_patch16_224", **SMALL)
    path = mirror / NAME / "config.json"
    change_json(path, model_args=None, label_names=["a", "b", "c", "d", "e"])
    assert started(mirror, entry).config.classes == list("abcde")
    change_json(path, label_names={str(i): f"n{i}" for i in range(5)})
    assert started(mirror, entry).config.classes == ["n0", "n1", "n2", "n3", "n4"]
    change_json(path, label_names=["a"])
    with pytest.raises(UserError, match="label_names that don't name the 5 classes"):
        started(mirror, entry)


@pytest.mark.parametrize(
    ("architecture", "arguments", "words"),
    [
        ("deit3_small_patch16_224", SMALL, "architecture deit3_small_patch16_224"),
        ("vit_small_patch14_reg4_dinov2", SMALL, "architecture vit_small_patch14_reg4_dinov2"),
        ("vit_base_patch32_clip_224", SMALL, "architecture vit_base_patch32_clip_224"),
        ("vit_medium_patch16_gap_240", SMALL, "architecture vit_medium_patch16_gap_240"),
        ("resnet18d", {"num_classes": 5}, "architecture resnet18d"),
        ("vit_tiny_patch16_224", SMALL | {"init_values": 1e-5}, "init_values in its model_args"),
        ("vit_tiny_patch16_224", SMALL | {"global_pool": "avg"}, "global_pool avg; our models want token"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_ours_cant_express_is_refused(mirror, architecture, arguments, words):
    """A model that computes something else than ours is taken, or the line doesn't say what ours lacks."""
    entry, _ = publish_timm(mirror, "timm/other", architecture, **arguments)
    with pytest.raises(UserError, match=f"^weights.start: timm/other has {re.escape(words)}"):
        started(mirror, entry)


def test_tensors_of_another_model_are_named(mirror):
    """LayerScale in the file of a model whose name has none is dropped."""
    entry, _ = publish_timm(mirror, NAME, "vit_tiny_patch16_224", **SMALL)
    path = mirror / NAME / "model.safetensors"
    save_file(load_file(path) | {"blocks.0.ls1.gamma": torch.ones(48)}, path)
    with pytest.raises(
        UserError, match=r"has LayerScale, which our models don't have \(blocks.0.ls1.gamma\)"
    ):
        started(mirror, entry)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"interpolation": "nearest"}, "interpolation nearest"),
        ({"input_size": [3, 32, 48]}, "input_size"),
        ({"input_size": [3, 64, 64]}, "image_size is 64, its weights have 32"),
        ({"label_offset": 1}, "label_offset 1"),
        ({"mean": None}, "mean or std is missing"),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow in its pretrained_cfg"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_which_steps_are_refused(mirror, change, words):
    """A model whose images take other steps than ours is taken."""
    import json

    entry, _ = publish_timm(mirror, NAME, "vit_tiny_patch16_224", **SMALL)
    path = mirror / NAME / "config.json"
    change_json(path, pretrained_cfg=json.loads(path.read_text())["pretrained_cfg"] | change)
    with pytest.raises(UserError, match=f"^weights.start: {re.escape(NAME)} .*{words}"):
        started(mirror, entry)


def test_what_the_names_stand_for():
    """A pattern of names covers a model of timm's with other parts than ours, or another number of heads."""
    held = set()
    for name in timm.list_models():
        heads = [each for pattern, each in timm_config.ARCHITECTURES.items() if re.fullmatch(pattern, name)]
        if not heads:
            continue
        assert len(heads) == 1, name
        with torch.device("meta"):
            model = timm.create_model(name)
        held.add(name)
        if name == "resnet18":
            assert isinstance(model, ResNet) and model.num_features == 512
            continue
        assert isinstance(model, VisionTransformer)
        block = model.blocks[0]
        assert block.attn.num_heads == heads[0] and block.attn.scale == block.attn.head_dim**-0.5
        assert (block.attn.qkv.bias is None) == ("_miil" in name)
        assert type(block.mlp.act) is torch.nn.GELU or "GELU" in repr(block.mlp.act)
        assert {each.eps for each in model.modules() if isinstance(each, torch.nn.LayerNorm)} == {1e-6}
        assert (model.global_pool, model.has_class_token) == (
            ("avg", False) if "_gap_" in name else ("token", True)
        )
        assert not model.no_embed_class and model.num_reg_tokens == 0
        assert "Identity" in repr(model.fc_norm) and "Identity" in repr(model.norm_pre)
    assert {"vit_tiny_patch16_224", "vit_huge_patch14_gap_224", "deit_base_distilled_patch16_384"} <= held
