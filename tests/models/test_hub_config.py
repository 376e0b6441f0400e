"""Each field that a ViT of the hub may have: honoured, refused unless it is ours, or without a part in the answer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification

from made import build
from served import fetch
from tiny import hub_entry
from vitscale.base.digests import digest
from vitscale.base.errors import UserError
from vitscale.models import hub_config
from vitscale.models.store import load_model, save_model

# What becomes another model in both libraries alike: another value that its weights can have.
HONOURED = {
    "image_size": 16,
    "patch_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "layer_norm_eps": 0.5,
    "qkv_bias": False,
    "id2label": {"0": "crane", "1": "crane", "2": "gull"},
}
# Values that ours doesn't stand for.
REFUSED = {
    "hidden_act": "relu",
    "num_channels": 1,
    "return_dict": False,
    "problem_type": "multi_label_classification",
    "model_type": "swin",
    "head_dim": 4,
    "per_layer_config": {"0": {"layer_norm_eps": 0.5}},
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "a_field_of_tomorrow": 1,
}
# Values with which transformers gives the same logits.
NO_PART = {
    "hidden_dropout_prob": 0.5,
    "attention_probs_dropout_prob": 0.5,
    "initializer_range": 3.0,
    "encoder_stride": 4,
    "pooler_act": "relu",
    "pooler_output_size": 3,
    "output_hidden_states": True,
    "output_attentions": True,
    "chunk_size_feed_forward": 1,
    "dtype": "float16",
    "torch_dtype": "float16",
    "is_encoder_decoder": True,
    "label2id": {"a": 2, "b": 1, "c": 0},
    "num_labels": 3,
    "_num_labels": 3,
    "architectures": ["ViTModel"],
    "transformers_version": "4.0.0",
    "_name_or_path": "elsewhere",
    "name_or_path": "elsewhere",
    "_commit_hash": "0" * 40,
    "finetuning_task": "birds",
}
PROCESSOR_HONOURED = {"resample": 2, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
PROCESSOR_REFUSED = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": False,
    "do_rescale": False,
    "rescale_factor": 1 / 127.5,
    "do_normalize": False,
    "do_center_crop": True,
    "do_pad": True,
    "input_data_format": "channels_last",
    "size": {"height": 64, "width": 64},
    "resample": 0,
    "image_mean": 0.5,
    "image_std": [0.2, 0.0, 0.2],
    "a_field_of_tomorrow": 1,
}
PROCESSOR_NO_PART = {
    "crop_pct": 0.5,
    "crop_size": {"height": 8, "width": 8},
    "pad_size": {"height": 64, "width": 64},
    "default_to_square": False,
    "do_convert_rgb": True,
    "data_format": "channels_first",
    "device": "cpu",
    "return_tensors": "np",
    "disable_grouping": True,
    "image_seq_length": 7,
    "feature_extractor_type": "ViTFeatureExtractor",
    "processor_class": "ViTProcessor",
    "_processor_class": "ViTProcessor",
    "_valid_kwargs_names": [],
}
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def change_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def changed_entry(mirror: Path, file: str, **values) -> tuple[dict, Path]:
    """Return the entry of a hub's ViT with other values in a file of its, and its folder."""
    entry = hub_entry(mirror)
    folder = mirror / entry["name"]
    change_json(folder / file, **values)
    return entry | {"sha256": digest(folder)}, folder


@torch.no_grad()
def logits(folder: Path, images: torch.Tensor = IMAGES) -> torch.Tensor:
    return ViTForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()(images)[0]


def test_every_table_is_tried():
    """A field is in a table of the code, and no test here holds it against transformers."""
    assert hub_config.VIT_HONOURED.keys() == HONOURED.keys()
    assert hub_config.WANTED["vit"].keys() | {"model_type"} == REFUSED.keys() & hub_config.KEYS["vit"]
    assert NO_PART.keys() == hub_config.NO_PART["vit"]
    assert hub_config.PROCESSOR_HONOURED.keys() == PROCESSOR_HONOURED.keys()
    assert hub_config.PROCESSOR_WANTED.keys() < PROCESSOR_REFUSED.keys()
    assert PROCESSOR_NO_PART.keys() - hub_config.PROCESSOR_SIDE == hub_config.PROCESSOR_NO_PART


@pytest.mark.parametrize("name", sorted(HONOURED))
@torch.no_grad()
def test_what_is_honoured(mirror, tmp_path, name):
    """A checkpoint's own value is left aside: our logits aren't transformers', or not after a way through a folder."""
    entry, folder = changed_entry(mirror, "config.json", **{name: HONOURED[name]})
    images = IMAGES
    if name not in ("num_attention_heads", "layer_norm_eps", "id2label"):  # the others need other weights
        config = ViTConfig.from_pretrained(folder)
        torch.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)
        size = {"height": config.image_size, "width": config.image_size}
        change_json(folder / "preprocessor_config.json", size=size)
        images, entry = (
            images[:, :, : config.image_size, : config.image_size],
            entry | {"sha256": digest(folder)},
        )
    config, state = fetch("start", entry)
    save_model(tmp_path / "start", config, state)
    ours, theirs = load_model(tmp_path / "start").eval(), logits(folder, images)
    assert theirs.std() > 0.1
    assert torch.allclose(ours(images), theirs, atol=1e-5)
    if name == "id2label":
        assert config.classes == ["crane", "crane", "gull"]


@torch.no_grad()
def test_their_own_epsilon_is_kept_and_ours_not_written(mirror):
    """Catches a start with another epsilon than its weights', or ours written down."""
    for eps, wanted in ((0.5, 0.5), (1e-5, 1e-5), (1e-6, None), (1e-12, 1e-12)):
        config, _ = fetch("start", changed_entry(mirror, "config.json", layer_norm_eps=eps)[0])
        assert config.to_json().get("layer_norm_eps") == wanted
        assert config.architecture.layer_norm_eps == eps


@pytest.mark.parametrize("eps", [0, -1e-12, 1e-13, 1e-300, 1, True, "1e-12", None, float("nan")], ids=repr)
def test_an_epsilon_that_is_none(mirror, eps):
    """Catches a start whose LayerNorm divides by 0, or by nothing but rounding errors."""
    entry, _ = changed_entry(mirror, "config.json", layer_norm_eps=eps)
    with pytest.raises(UserError, match=r"^weights\.start: someone/tiny-vit .*layer_norm_eps[^\n]*$"):
        fetch("start", entry)


@pytest.mark.parametrize("eps", [1e-12, 1e-6])
@torch.no_grad()
def test_tokens_that_hardly_vary(mirror, tmp_path, eps):
    """Catches an epsilon of 1e-12 that is lost, in the model or where bfloat16 or float16 rounds it to 0.

    The tokens before the first block have a variance of at most 1e-7: LayerNorm makes them as large as any with
    an epsilon of 1e-12, and leaves them far smaller with 1e-6.
    """
    entry, folder = changed_entry(mirror, "config.json", layer_norm_eps=eps)
    theirs = ViTForImageClassification.from_pretrained(folder)
    for weights in theirs.vit.embeddings.parameters():
        weights.mul_(1e-5 / (weights.std().item() or 1))
    theirs.save_pretrained(folder)
    config, state = fetch("start", entry | {"sha256": digest(folder)})
    save_model(tmp_path / "start", config, state)
    ours = load_model(tmp_path / "start").eval()
    tokens = []
    ours.backbone.blocks[0].norm1.register_forward_hook(
        lambda _, taken, given: tokens.append((*taken, given))
    )
    assert torch.allclose(ours(IMAGES), logits(folder), atol=1e-4)
    (before, after), *_ = tokens
    assert 0 < before.var(-1).max() < 1e-7 and (after.std() > 0.5) == (eps == 1e-12)
    for dtype in (torch.bfloat16, torch.float16):
        tokens.clear()
        with torch.autocast("cpu", dtype):
            assert ours(IMAGES).isfinite().all()
        assert (tokens[0][1].float() - after).abs().max() < 0.1 * after.abs().max()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused(mirror, name):
    """A model that computes something else than ours, or something that nobody knows, is taken."""
    entry, folder = changed_entry(mirror, "config.json", **{name: REFUSED[name]})
    if name in ("hidden_act", "num_channels", "head_dim"):  # whole, so that its weights load
        config = ViTConfig.from_pretrained(folder)
        ViTForImageClassification(config).save_pretrained(folder)
        entry |= {"sha256": digest(folder)}
    with pytest.raises(UserError, match=rf"^weights\.start: someone/tiny-vit has {name} ") as caught:
        fetch("start", entry)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", sorted(NO_PART))
def test_what_has_no_part(mirror, name):
    """A field that is left aside changes transformers' logits, or one that changes nothing is refused."""
    wanted = logits(mirror / hub_entry(mirror)["name"])
    entry, folder = changed_entry(mirror, "config.json", **{name: NO_PART[name]})
    assert torch.allclose(logits(folder), wanted, atol=1e-5)
    config, state = fetch("start", entry)
    ours = build(config.to_json())
    ours.load_state_dict(state)
    with torch.no_grad():
        tolerance = 0.05 if "dtype" in name else 1e-5
        assert torch.allclose(ours.eval()(IMAGES), wanted, atol=tolerance)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


PICTURES = [
    np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((32, 32), (48, 40))
]


def pixels(folder: Path) -> torch.Tensor:
    processor = AutoImageProcessor.from_pretrained(folder)
    return torch.stack([torch.as_tensor(np.asarray(each)) for each in processor(PICTURES)["pixel_values"]])


@pytest.mark.parametrize("name", sorted([*PROCESSOR_HONOURED, *PROCESSOR_NO_PART]))
def test_which_steps_are_taken(mirror, name):
    """Our model's images aren't those that transformers makes for its own, or a note is refused."""
    before = pixels(mirror / hub_entry(mirror)["name"])
    values = PROCESSOR_HONOURED | PROCESSOR_NO_PART
    entry, folder = changed_entry(mirror, "preprocessor_config.json", **{name: values[name]})
    wanted = pixels(folder)
    assert torch.equal(wanted, before) == (name in PROCESSOR_NO_PART)
    taken = fetch("start", entry)[0].preprocessing
    found = taken.to_input(taken.stacked(PICTURES))
    assert (found - wanted).abs().max() < 2 / 255 / 0.2  # a rounded pixel


@pytest.mark.parametrize("name", sorted(PROCESSOR_REFUSED))
def test_which_steps_are_refused(mirror, name):
    """A model whose images take other steps than ours is taken."""
    value = PROCESSOR_REFUSED[name]
    entry, _ = changed_entry(mirror, "preprocessor_config.json", **{name: value})
    words = {"image_mean": "mean|float", "image_std": "std"}.get(name, name)
    with pytest.raises(UserError, match=rf"^weights\.start: someone/tiny-vit .*({words})") as caught:
        fetch("start", entry)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "size",
    [
        64,
        [32, 48],
        {"shortest_edge": 32},
        {"height": 32, "width": 48},
        {"shortest_edge": 32, "longest_edge": 64},
    ],
    ids=str,
)
def test_sizes_that_are_refused(mirror, size):
    """A model whose images keep their shape, or get another size than its own, is taken."""
    entry, _ = changed_entry(mirror, "preprocessor_config.json", size=size)
    with pytest.raises(UserError, match="someone/tiny-vit .*size"):
        fetch("start", entry)


def test_sizes_and_steps_in_other_words(mirror):
    """A size in the words of older files, or a step that is off in so many words, is refused."""
    for values in ({"size": 32}, {"do_center_crop": False, "crop_size": 8}, {"do_pad": False}):
        entry, _ = changed_entry(mirror, "preprocessor_config.json", **values)
        assert fetch("start", entry)[0].preprocessing.image_size == 32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(mirror, value):
    """A start is made of weights that aren't finite."""
    entry = hub_entry(mirror)
    folder = mirror / entry["name"]
    model = ViTForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        model.vit.layers[1].mlp.fc1.bias[3] = value
    model.save_pretrained(folder)
    with pytest.raises(
        UserError, match=r"^weights\.start: someone/tiny-vit .*backbone.blocks.1.mlp.0.bias.*finite"
    ):
        fetch("start", entry | {"sha256": digest(folder)})
