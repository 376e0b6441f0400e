"""Weights that others trained: fetched, checked and turned into starts.

An entry of params.yaml's `weights` names them by its `source`:

    torchvision   `name` one of torchvision's sets of weights, `sha256` of its file or the first digits of it
    huggingface   `name` a repository of the hub with a ViT or DeiT, `revision` its commit; `sha256` of the weights' file is
                  held against a mirror's copy, which has no commit

`VITSCALE_MIRROR` is looked in first: for torchvision's file by its own name, for a folder `<name>/` with what the hub has.
"""

import os
import pickle
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from vitscale.files import UserError, digest

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # what transformers looks for, in its order


def vit_names(prefix: str, depth: int) -> dict[str, list[str]]:
    """Return the names that transformers has for the tensors of our ViT; our `qkv` is three of its tensors."""
    names = {"class_token": ["embeddings.cls_token"], "positions": ["embeddings.position_embeddings"]}
    modules = {"patch_embedding": ["embeddings.patch_embeddings.projection"], "norm": ["layernorm"]}
    for i in range(depth):
        block, layer = f"blocks.{i}", f"layers.{i}"
        modules |= {f"{block}.norm1": [f"{layer}.layernorm_before"], f"{block}.norm2": [f"{layer}.layernorm_after"],
                    f"{block}.attention.qkv": [f"{layer}.attention.{each}_proj" for each in "qkv"],
                    f"{block}.attention.out": [f"{layer}.attention.o_proj"],
                    f"{block}.mlp.0": [f"{layer}.mlp.fc1"], f"{block}.mlp.2": [f"{layer}.mlp.fc2"]}
    names |= {f"{ours}.{kind}": [f"{each}.{kind}" for each in theirs]
              for ours, theirs in modules.items() for kind in ("weight", "bias")}
    names = {f"backbone.{ours}": [f"{prefix}.{each}" for each in theirs] for ours, theirs in names.items()}
    return names | {f"head.{kind}": [f"classifier.{kind}"] for kind in ("weight", "bias")}


def torchvision_vit_names(depth: int) -> dict[str, list[str]]:
    """Return the names that torchvision has for the tensors of our ViT."""
    names = {"class_token": "class_token", "positions": "encoder.pos_embedding"}
    modules = {"patch_embedding": "conv_proj", "norm": "encoder.ln"}
    for i in range(depth):
        block, layer = f"blocks.{i}", f"encoder.layers.encoder_layer_{i}"
        modules |= {f"{block}.norm1": f"{layer}.ln_1", f"{block}.norm2": f"{layer}.ln_2",
                    f"{block}.attention.out": f"{layer}.self_attention.out_proj",
                    f"{block}.mlp.0": f"{layer}.mlp.0", f"{block}.mlp.2": f"{layer}.mlp.3"}
        names |= {f"{block}.attention.qkv.{kind}": f"{layer}.self_attention.in_proj_{kind}" for kind in ("weight", "bias")}
    names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in modules.items() for kind in ("weight", "bias")}
    names = {f"backbone.{ours}": [theirs] for ours, theirs in names.items()}
    return names | {f"head.{kind}": [f"heads.head.{kind}"] for kind in ("weight", "bias")}


def to_ours(theirs: dict[str, Tensor], names: dict[str, list[str]]) -> dict[str, Tensor]:
    """Return a state under our names. Raises UserError where a tensor is missing or left over."""
    wanted = {each for parts in names.values() for each in parts}
    if wanted != set(theirs):
        odd = ", ".join(sorted(wanted ^ set(theirs))[:3])
        raise UserError(f"these weights are not those of a ViT as we build it: missing or left over are {odd} …")
    ours = {name: torch.cat([theirs[each] for each in parts]) for name, parts in names.items()}
    kernel = "backbone.patch_embedding.weight"  # theirs (dim, channel, row, column), ours (dim, row * column * channel)
    return ours | ({kernel: ours[kernel].permute(0, 2, 3, 1).flatten(1)} if kernel in ours else {})


def _checked(path: Path, sha256: str | None, key: str) -> Path:
    found = digest(path)
    if sha256 is None:
        raise UserError(f"{key}.sha256 is not given; to pin {path}, paste {found}")
    if not found.startswith(sha256):
        raise UserError(f"{path} is not the file of params.yaml: {key}.sha256 is {sha256}, found {found}")
    return path


def _mirrored(name: str) -> Path | None:
    mirror = os.environ.get("VITSCALE_MIRROR")
    if not mirror:
        return None
    if not (Path(mirror) / name).exists():
        print(f"{mirror} has no {name}", file=sys.stderr)
        return None
    return Path(mirror) / name


def from_torchvision(key: str, entry: dict) -> tuple[dict, dict[str, Tensor]]:
    """Return config and state of a start from torchvision's weights."""
    from torchvision.models import get_model, get_weight

    weights = get_weight(entry["name"])
    name = weights.url.rsplit("/", 1)[-1]
    with tempfile.TemporaryDirectory() as folder:
        path = _mirrored(name)
        if path is None:
            path = Path(folder) / name
            print(f"fetching {weights.url}", flush=True)
            try:
                torch.hub.download_url_to_file(weights.url, str(path), progress=sys.stderr.isatty())
            except OSError as error:
                raise UserError(f"{weights.url} can't be fetched ({error}); try again, or set VITSCALE_MIRROR to a folder "
                                f"that has {name}") from error
        model = get_model(entry["name"].split("_Weights")[0])
        try:  # `weights_only`: a pickle that could run code is refused
            model.load_state_dict(torch.load(_checked(path, entry["sha256"], key), map_location="cpu", weights_only=True))
        except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
            raise UserError(f"{path} doesn't hold {entry['name']} ({' '.join(str(error).split())[:300]})") from error
    transform, state = weights.transforms(), model.state_dict()
    config = {"image_size": transform.crop_size[0]}
    if entry["name"].startswith("ResNet18"):
        config |= {"architecture": "resnet18", "stem": "imagenet"}
        state = {name.replace("fc.", "head.") if name.startswith("fc.") else f"backbone.{name}": tensor
                 for name, tensor in state.items()}
    else:
        layers = model.encoder.layers
        config |= {"architecture": "vit", "patch_size": model.patch_size, "dim": model.hidden_dim, "depth": len(layers),
                   "heads": layers[0].num_heads, "mlp_dim": model.mlp_dim, "pool": "class", "positions": "learned",
                   "dropout": 0.0, "stochastic_depth": 0.0}
        state = to_ours(state, torchvision_vit_names(len(layers)))
    return config | {"classes": weights.meta["categories"], "interpolation": transform.interpolation.value,
                     "mean": transform.mean, "std": transform.std}, state


def from_hugging_face(key: str, entry: dict) -> tuple[dict, dict[str, Tensor]]:
    """Return config and state of a start from a repository of the hub; no code of it is run."""
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # else transformers asks the hub to convert a pickle
    from huggingface_hub.utils import logging as hub_logging
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    folder = _mirrored(entry["name"])
    if folder is not None:
        files = [folder / name for name in WEIGHT_FILES if (folder / name).exists()]
        if not files:
            raise UserError(f"{folder} has none of {', '.join(WEIGHT_FILES)}; copy it again")
        _checked(files[0], entry["sha256"], key)
    if folder is None:
        print(f"fetching {entry['name']} at {entry['revision']} from the hub", flush=True)
    where = {"pretrained_model_name_or_path": folder or entry["name"]} | ({} if folder else {"revision": entry["revision"]})
    try:
        model, found = AutoModelForImageClassification.from_pretrained(**where, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(**where)
    except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise UserError(f"{entry['name']} can't be loaded from {folder or 'the hub'} ({reason}); try again, or set VITSCALE_MIRROR "
                        f"to a folder that has {entry['name']}/ with config.json, preprocessor_config.json and {WEIGHT_FILES[0]}") from error
    odd = sorted(map(str, set().union(*(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")))))
    if odd:
        raise UserError(f"{entry['name']} doesn't fill the model that it describes; missing, left over or of another shape: {', '.join(odd)}")
    theirs = model.config
    if theirs.model_type not in ("vit", "deit") or theirs.hidden_act != "gelu":
        raise UserError(f"{key}: {entry['name']} is a {theirs.model_type} with {getattr(theirs, 'hidden_act', '?')}; a ViT or DeiT "
                        "with gelu is wanted")
    config = {"architecture": "vit", "image_size": theirs.image_size, "patch_size": theirs.patch_size,
              "dim": theirs.hidden_size, "depth": theirs.num_hidden_layers, "heads": theirs.num_attention_heads,
              "mlp_dim": theirs.intermediate_size, "pool": "class", "positions": "learned", "dropout": 0.0,
              "stochastic_depth": 0.0, "classes": [theirs.id2label[i] for i in range(len(theirs.id2label))],
              "interpolation": Image.Resampling(processor.resample).name.lower(),
              "mean": list(processor.image_mean), "std": list(processor.image_std)}
    return config, to_ours(model.state_dict(), vit_names(theirs.model_type, theirs.num_hidden_layers))


def fetch(key: str, entry: dict) -> tuple[dict, dict[str, Tensor]]:
    """Return config and state of the start that `weights.<key>` names. Raises UserError where it can't be had whole."""
    source = {"torchvision": from_torchvision, "huggingface": from_hugging_face}[entry["source"]]
    return source(f"weights.{key}", entry)
