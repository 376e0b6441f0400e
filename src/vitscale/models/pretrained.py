"""Weights that others trained: fetched, checked and turned into starts.

An entry of params.yaml's `weights` names them by its `source`:

    torchvision   `name` one of torchvision's sets of weights, `sha256` of its file or the first digits of it
    huggingface   `name` a repository of the hub with a ViT (as DeiT without distillation is stored),
                  `revision` its commit. Digests over its files (`base.digests`): `sha256` is held against a
                  mirror's copy, which has no commit, and `hub_sha256`, where given, against the hub's

`VITSCALE_MIRROR` is looked in first: for torchvision's file by its own name, for a folder `<name>/` with what
the hub has.
"""

import http.client
import json
import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitscale.base.digests import digest
from vitscale.base.entries import Weights
from vitscale.base.errors import UserError
from vitscale.models.hub_config import our_config
from vitscale.models.store import ModelConfig, check_tensors
from vitscale.models.vit import VitConfig

SHARED = {
    "architecture": "vit",
    "pool": "class",
    "positions": "learned",
    "dropout": 0.0,
    "stochastic_depth": 0.0,
}  # by both libraries' ViTs
HUB_FILES = ("config.json", "preprocessor_config.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # what transformers looks for, in its order

# A source's answer: our config.json, our state, the digest of the very files that both came from.
Found = tuple[dict[str, Any], dict[str, Tensor], str]


# A ViT's tensors under our names and theirs. `*` is weight and bias, `N` a block's number; where they have
# several tensors for one of ours, ours is theirs in turn.
TRANSFORMERS_VIT = {
    "backbone.class_token": "vit.embeddings.cls_token",
    "backbone.positions": "vit.embeddings.position_embeddings",
    "backbone.patch_embedding.*": "vit.embeddings.patch_embeddings.projection.*",
    "backbone.blocks.N.norm1.*": "vit.layers.N.layernorm_before.*",
    "backbone.blocks.N.attention.qkv.*": " ".join(f"vit.layers.N.attention.{part}_proj.*" for part in "qkv"),
    "backbone.blocks.N.attention.out.*": "vit.layers.N.attention.o_proj.*",
    "backbone.blocks.N.norm2.*": "vit.layers.N.layernorm_after.*",
    "backbone.blocks.N.mlp.0.*": "vit.layers.N.mlp.fc1.*",
    "backbone.blocks.N.mlp.2.*": "vit.layers.N.mlp.fc2.*",
    "backbone.norm.*": "vit.layernorm.*",
    "head.*": "classifier.*",
}
TORCHVISION_VIT = {
    "backbone.class_token": "class_token",
    "backbone.positions": "encoder.pos_embedding",
    "backbone.patch_embedding.*": "conv_proj.*",
    "backbone.blocks.N.norm1.*": "encoder.layers.encoder_layer_N.ln_1.*",
    "backbone.blocks.N.attention.qkv.*": "encoder.layers.encoder_layer_N.self_attention.in_proj_*",
    "backbone.blocks.N.attention.out.*": "encoder.layers.encoder_layer_N.self_attention.out_proj.*",
    "backbone.blocks.N.norm2.*": "encoder.layers.encoder_layer_N.ln_2.*",
    "backbone.blocks.N.mlp.0.*": "encoder.layers.encoder_layer_N.mlp.0.*",
    "backbone.blocks.N.mlp.2.*": "encoder.layers.encoder_layer_N.mlp.3.*",
    "backbone.norm.*": "encoder.ln.*",
    "head.*": "heads.head.*",
}


def vit_names(table: dict[str, str], depth: int) -> dict[str, list[str]]:
    """Return one of the tables above, written out for a ViT of `depth` blocks.

    Their names for each of ours.
    """
    return {
        ours.replace("N", str(block)).replace("*", kind): theirs.replace("N", str(block))
        .replace("*", kind)
        .split()
        for ours, theirs in table.items()
        for block in (range(depth) if "N" in ours else [0])
        for kind in (("weight", "bias") if "*" in ours else [""])
    }


def to_ours(theirs: dict[str, Tensor], names: dict[str, list[str]], key: str) -> dict[str, Tensor]:
    """Return a state under our names. Raises UserError where a tensor is missing or left over."""
    odd = sorted({each for parts in names.values() for each in parts} ^ set(theirs))
    if odd:
        raise UserError(
            f"{key}: these weights aren't those of a ViT as we build it; missing or left over: "
            f"{', '.join(odd[:3])}"
        )
    ours = {name: torch.cat([theirs[each] for each in parts]) for name, parts in names.items()}
    # Theirs is (dim, channel, row, column), ours (dim, row * column * channel).
    kernel = "backbone.patch_embedding.weight"
    return ours | {kernel: ours[kernel].permute(0, 2, 3, 1).flatten(1)}


def _check(found: str, pin: str | None, key: str, what: str) -> None:
    if pin is None:
        raise UserError(f"{key} is not given; to pin {what}, paste {found}")
    if not found.startswith(pin):
        raise UserError(
            f"{what} is not what params.yaml names: {key} is {pin}, found {found}; fetch it again, or mend "
            "the key"
        )


def _mirrored(name: str) -> Path | None:
    mirror = os.environ.get("VITSCALE_MIRROR")
    if not mirror:
        return None
    if not (Path(mirror) / name).exists():
        print(f"{mirror} has no {name}", file=sys.stderr)
        return None
    return Path(mirror) / name


def from_torchvision(key: str, entry: Weights) -> Found:
    """Return config, state and digest of a start from torchvision's weights."""
    from torchvision.models import get_model, get_weight

    weights = get_weight(entry.name)
    name = weights.url.rsplit("/", 1)[-1]
    with tempfile.TemporaryDirectory() as folder:
        mirrored = _mirrored(name)
        path = mirrored or Path(folder) / name
        if mirrored is None:
            print(f"fetching {weights.url}", flush=True)
            try:
                torch.hub.download_url_to_file(weights.url, str(path), progress=sys.stderr.isatty())
            except (OSError, http.client.HTTPException) as error:
                raise UserError(
                    f"{weights.url} can't be fetched ({error}); try again, or set VITSCALE_MIRROR to a "
                    f"folder that has {name}"
                ) from error
        found = digest(path)
        _check(found, entry.sha256, f"{key}.sha256", str(path) if path == mirrored else weights.url)
        model = get_model(entry.name.split("_Weights")[0])
        try:  # `weights_only`: a pickle that could run code is refused
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
            raise UserError(
                f"{path} doesn't hold {entry.name} ({' '.join(str(error).split())[:300]})"
            ) from error
    transform, state = weights.transforms(), model.state_dict()
    config: dict[str, Any] = {"image_size": transform.crop_size[0]}
    if entry.name.startswith("ResNet18"):
        config |= {"architecture": "resnet18", "stem": "imagenet"}
        state = {
            name.replace("fc.", "head.") if name.startswith("fc.") else f"backbone.{name}": tensor
            for name, tensor in state.items()
        }
    else:
        layers = model.encoder.layers
        config |= SHARED | {
            "patch_size": model.patch_size,
            "dim": model.hidden_dim,
            "depth": len(layers),
            "heads": layers[0].num_heads,
            "mlp_dim": model.mlp_dim,
        }
        if model.encoder.ln.eps != VitConfig.layer_norm_eps:
            config["layer_norm_eps"] = model.encoder.ln.eps
        state = to_ours(state, vit_names(TORCHVISION_VIT, len(layers)), key)
    config |= {
        "classes": weights.meta["categories"],
        "interpolation": transform.interpolation.value,
        "mean": transform.mean,
        "std": transform.std,
    }
    return config, state, found


def _hub_files(folder: Path, key: str, entry: Weights) -> str:
    """Put a repository's files, and nothing else of it, into a folder; return their digest.

    From the mirror, pinned by `sha256`, or from the hub, pinned by `revision` and, where given, `hub_sha256`.
    """
    from huggingface_hub import snapshot_download

    mirrored = _mirrored(entry.name)
    if mirrored is None:
        print(f"fetching {entry.name} at {entry.revision} from the hub", flush=True)
        source = Path(
            snapshot_download(entry.name, revision=entry.revision, allow_patterns=[*HUB_FILES, *WEIGHT_FILES])
        )
    else:
        source = mirrored
    for name in (
        *HUB_FILES,
        next((name for name in WEIGHT_FILES if (source / name).exists()), WEIGHT_FILES[0]),
    ):
        shutil.copyfile(source / name, folder / name)
    found = digest(folder)
    if mirrored is not None:
        _check(found, entry.sha256, f"{key}.sha256", str(mirrored))
    elif entry.hub_sha256 is not None:
        _check(found, entry.hub_sha256, f"{key}.hub_sha256", f"{entry.name} at {entry.revision}")
    return found


def from_hugging_face(key: str, entry: Weights) -> Found:
    """Return config, state and digest of a start from a repository of the hub; no code of it is run."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            found = _hub_files(folder, key, entry)
            model, filled = AutoModelForImageClassification.from_pretrained(
                folder, output_loading_info=True, trust_remote_code=False
            )
            processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
            keys = {name: set(json.loads((folder / name).read_text())) for name in HUB_FILES}
        except UserError:
            raise
        except (
            Exception
        ) as error:  # whatever the hub's client, its HTTP library, pickle or a strict config raise
            reason = " ".join(str(error).split()).split(". ")[0]
            raise UserError(
                f"{key}: {entry.name} can't be loaded ({reason}); try again, or set VITSCALE_MIRROR to a "
                f"folder that has {entry.name}/ with {', '.join(HUB_FILES)} and {WEIGHT_FILES[0]}"
            ) from error
    try:
        config = SHARED | our_config(model.config, processor, keys, f"{key}: {entry.name}")
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{key}: {entry.name} has a config or preprocessing that our ViT can't take ({error!r})"
        ) from error
    odd = sorted(
        map(
            str,
            set().union(*(filled[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))),
        )
    )
    if odd:
        raise UserError(
            f"{key}: {entry.name} doesn't fill the model that it describes; missing, left over or of another "
            f"shape: {', '.join(odd)}"
        )
    names = vit_names(TRANSFORMERS_VIT, model.config.num_hidden_layers)
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    return config, to_ours(state, names, key), found


def fetch(key: str, entry: Weights) -> tuple[ModelConfig, dict[str, Tensor], str]:
    """Return config and state of the start that `weights.<key>` names, and the digest of its files.

    Raises UserError where it can't be had whole, or isn't a model of ours.
    """
    source = {"torchvision": from_torchvision, "huggingface": from_hugging_face}[entry.source]
    content, state, found = source(f"weights.{key}", entry)
    try:
        config = ModelConfig.from_json(content)
        check_tensors(config, state)
    except ValueError as error:
        raise UserError(
            f"weights.{key}: {entry.name} is no model of ours ({error}); take other weights"
        ) from error
    return config, state, found
