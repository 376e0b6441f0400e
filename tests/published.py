"""Small models of others, written as the hub has them: their libraries' own files, cut down to published keys."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images

from vitscale.base.digests import digest
from vitscale.base.entries import Weights
from vitscale.models.pretrained import fetch
from vitscale.models.store import Classifier, build

SIDE = 32
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "image_size": SIDE,
    "patch_size": 8,
    "initializer_range": 0.5,
}
# What google/vit-base-patch16-224-in21k's config.json has, and the older ones of facebook.
VIT_KEYS = {
    "_name_or_path", "architectures", "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob",
    "hidden_size", "image_size", "initializer_range", "intermediate_size", "layer_norm_eps", "model_type",
    "num_attention_heads", "num_channels", "num_hidden_layers", "patch_size", "qkv_bias", "transformers_version",
    "id2label", "label2id",
}  # fmt: skip
LABELS = {"id2label": {0: "crane", 1: "gull", 2: "crane"}, "label2id": {"crane": 2, "gull": 1}}
VIT_PROCESSOR = {
    "do_normalize": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": SIDE,
}  # fmt: skip
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
DEIT_PROCESSOR = VIT_PROCESSOR | IMAGENET | {
    "crop_size": SIDE, "do_center_crop": True, "feature_extractor_type": "DeiTFeatureExtractor",
    "resample": 3, "size": SIDE * 8 // 7,
}  # fmt: skip
RESNET_PROCESSOR = VIT_PROCESSOR | IMAGENET | {
    "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor", "resample": 3, "size": 64,
}  # fmt: skip


def photographs(side: int) -> torch.Tensor:
    """Return squares of scikit-learn's two photographs, uint8 (6, side, side, 3)."""
    found = []
    for photograph in load_sample_images().images:
        for left in (0, 100, 213):
            square = Image.fromarray(photograph[:, left : left + 427]).resize((side, side))
            found.append(torch.from_numpy(np.array(square)))
    return torch.stack(found)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter and buffer a random value, so that none hides behind a 0 or a 1."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=draws)
            if name.endswith("running_var"):
                value.copy_(1 + noise.abs())
            elif value.ndim > 1:
                value.copy_(noise / value[0].numel() ** 0.5)
            else:
                value.copy_((1 if name.endswith("weight") else 0) + 0.3 * noise)
    return model.eval()


def entry_of(mirror: Path, name: str) -> dict:
    return {
        "source": "huggingface",
        "name": name,
        "revision": "0" * 40,
        "hub_sha256": None,
        "sha256": digest(mirror / name),
        "data": "photographs",
        "license": "Apache-2.0",
    }


def change_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def publish(mirror: Path, name: str, model, processor: dict, keys: set[str] | None = None) -> dict:
    """Save a model of transformers, its config cut down to `keys`; return its entry of `weights`."""
    folder = mirror / name
    randomise(model).save_pretrained(folder)
    if keys is not None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key in keys}))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return entry_of(mirror, name)


def publish_timm(mirror: Path, name: str, architecture: str, **arguments) -> tuple[dict, torch.nn.Module]:
    """Save a random model of timm as timm's own do; return its entry of `weights`, and the model."""
    import timm
    from timm.models import save_for_hf

    model = randomise(timm.create_model(architecture, **arguments))
    save_for_hf(model, mirror / name, safe_serialization=True)
    return entry_of(mirror, name), model


def rename(folder: Path, change) -> None:
    """Give the tensors of a folder's safetensors the names that `change` returns."""
    state = {change(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def started(mirror: Path, entry: dict) -> Classifier:
    """Return our model for an entry of what lies in the mirror now."""
    pin = {"sha256": digest(mirror / entry["name"])}
    config, state, _ = fetch("start", Weights(**entry | pin))
    model = build(config)
    model.load_state_dict(state)
    return model.eval()


def inputs_of(model: Classifier) -> torch.Tensor:
    """Return photographs as a model of ours wants them."""
    wanted = model.config.preprocessing
    return wanted.to_input(photographs(wanted.image_size).float())
