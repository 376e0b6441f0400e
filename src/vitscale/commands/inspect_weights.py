"""Say whether weights that others trained fit our models, and print their entry for params.yaml.

NAME is a repository of the hub, with @REVISION where it shall not be its main branch's, or one of
torchvision's sets of weights (ViT_B_32_Weights.IMAGENET1K_V1). VITSCALE_MIRROR is looked in first. Of the hub
its small files and the header of model.safetensors are fetched, not the weights; a pytorch_model.bin has no
such header, and only the stage can tell whether it fits. What is printed goes under `weights`. Where the
weights don't fit: a line that says why, and exit code 1.
"""

import argparse
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from vitscale.base.config import parse_yaml
from vitscale.base.errors import UserError, one_line
from vitscale.base.files import MOST_OF_JSON
from vitscale.models import checkpoints, pretrained, timm_config, torchvision_weights
from vitscale.models.store import ModelConfig, build, count_parameters, on_meta
from vitscale.models.vit import VitConfig
from vitscale.pipeline.schema import COMMIT, HUB_NAME, TorchvisionName

UNKNOWN_REVISION = "0" * 40


@dataclass(frozen=True)
class Inspected:
    """An entry of `weights`, what the start will be, and remarks; `seen`: its tensors' shapes have been."""

    entry: dict[str, Any]
    config: ModelConfig
    remarks: list[str]
    seen: bool = True


def described(config: ModelConfig) -> str:
    """Return a model's kind, size and head, in words."""
    with torch.device("meta"):
        count = count_parameters(build(config))
    kind = "ResNet-18"
    if isinstance(architecture := config.architecture, VitConfig):
        kind = "distilled ViT" if architecture.distilled else "ViT"
    head = f"{len(config.classes):,} classes" if config.classes else "no head"
    return f"{kind}, {count / 1e6:.1f}M parameters, {architecture.image_size} px, {head}"


def as_yaml(key: str, entry: dict[str, Any]) -> str:
    """Return an entry as params.yaml has it, under its section."""

    def word(value: Any) -> str:
        if value is None:
            return "null"
        plain = (
            re.fullmatch(r"[\w./-]+( [\w./-]+)*", value)
            and parse_yaml(f"a: {value}".encode(), "")["a"] == value
        )
        return value if plain else json.dumps(value, ensure_ascii=False)

    return "\n".join([f"  {word(key)}:", *(f"    {name}: {word(value)}" for name, value in entry.items())])


def of_torchvision(name: str) -> Inspected:
    """Say what is known of a set of torchvision's weights; nothing is fetched."""
    if name not in (known := get_args(TorchvisionName)):
        raise UserError(
            f"{name} is none of torchvision's weights that our models can express: {', '.join(known)}"
        )
    weights = torchvision_weights.weights_of(name)
    content, theirs = torchvision_weights.config_of(name)
    state = torchvision_weights.our_state(content, dict(theirs.state_dict()))
    entry = {
        "source": "torchvision",
        "name": name,
        "sha256": re.findall(r"-([0-9a-f]{8,})\.pth$", weights.url)[0],
        "data": "swag-imagenet1k" if "SWAG" in name else "imagenet1k",
        "license": weights.meta.get("license", "BSD-3-Clause"),
    }
    return Inspected(entry, pretrained.checked(content, state), [])


def of_mirror(folder: Path, name: str, revision: str | None) -> Inspected:
    """Say what is known of a mirror's copy of a repository."""
    with tempfile.TemporaryDirectory() as links:
        found = pretrained.gather(folder, Path(links))
        content, state = pretrained.shapes_of(Path(links))
    remarks = [f"from {folder}, which doesn't say data and license: fill them in"]
    if not re.fullmatch(COMMIT, revision or ""):
        revision = None
        remarks.append("nor the revision: in place of the zeros put its commit, to fetch it from the hub too")
    entry = entry_of(name, revision or UNKNOWN_REVISION, found)
    return Inspected(entry, pretrained.checked(content, state), remarks)


def entry_of(name: str, revision: str, sha256: str | None, **others: str) -> dict[str, Any]:
    """Return an entry for a repository of the hub."""
    pins = {"revision": revision, "hub_sha256": None, "sha256": sha256}
    return {"source": "huggingface", "name": name, **pins, "data": "unknown", "license": "unknown"} | others


def of_hub(name: str, revision: str | None) -> Inspected:
    """Say what is known of a repository of the hub, without its weights."""
    from huggingface_hub import HfApi, hf_hub_download

    api = HfApi()
    info = api.model_info(name, revision=revision, files_metadata=True)
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
    small: dict[str, dict[str, Any]] = {}
    for file in pretrained.HUB_FILES:
        if sizes.get(file, 0) > MOST_OF_JSON:
            raise ValueError(
                f"has a {file} of {sizes[file]} bytes, more than the {MOST_OF_JSON} that we read"
            )
        if file in sizes:
            small[file] = checkpoints.read_json(Path(hf_hub_download(name, file, revision=info.sha)))
    if pretrained.CONFIG not in small:
        raise ValueError(f"has no {pretrained.CONFIG}; take other weights")
    config, processor = small[pretrained.CONFIG], small.get(pretrained.PROCESSOR)
    safe, pickled = pretrained.WEIGHT_FILES
    remarks = []
    if safe in sizes:
        header = api.parse_safetensors_file_metadata(name, safe, revision=info.sha)
        state = on_meta((each, of.shape, of.dtype) for each, of in header.tensors.items())
        model = pretrained.checked(*pretrained.convert(config, processor, state))
    elif pickled in sizes:
        if timm_config.is_timm(config):
            raise ValueError(f"has no {safe}, which we want of timm's; take other weights")
        content, _ = pretrained.transformers_config(config, processor)
        names = config.get("id2label") if "Classification" in str(config.get("architectures")) else None
        model = ModelConfig.from_json(
            content | {"classes": list(names.values()) if isinstance(names, dict) else []}
        )
        remarks.append(f"by its config alone: {pickled} shows its tensors once it is fetched")
    else:
        raise ValueError(f"has neither {safe} nor {pickled}; take other weights")
    card = info.card_data
    seen = [re.sub(r"[^A-Za-z0-9_-]+", "-", str(each)) for each in (card.datasets if card else None) or []]
    data, licence = "-".join(seen) or "unknown", str((card.license if card else None) or "unknown")
    missing = [each for each, value in (("data", data), ("license", licence)) if value == "unknown"]
    if missing:
        remarks.append(f"its card doesn't say {' and '.join(missing)}: fill them in")
    entry = entry_of(name, str(info.sha), None, data=data, license=licence)
    return Inspected(entry, model, remarks, safe in sizes)


def inspect(wanted: str) -> str:
    """Return the entry for a name, with what it is as comments. Raises UserError where it doesn't fit."""
    name, _, revision = wanted.partition("@")
    try:
        if "_Weights." in name and "/" not in name:
            if revision:
                raise UserError(f"{wanted}: torchvision's weights have no revision; leave out @{revision}")
            found = of_torchvision(name)
        else:
            if not re.fullmatch(HUB_NAME, name):
                kinds = "a repository of the hub (owner/name) nor torchvision's weights (X_Weights.Y)"
                raise UserError(f"{name} is the name of neither {kinds}")
            folder = pretrained.mirrored(name)
            found = of_mirror(folder, name, revision or None) if folder else of_hub(name, revision or None)
        what = described(found.config)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{name} {one_line(error)}") from error
    except Exception as error:  # whatever the hub's client, its HTTP library, safetensors or pickle raise
        reason = pretrained.hub_reason(name, revision, error)
        way_out = f"try again, or set VITSCALE_MIRROR to a folder that has {name}/"
        raise UserError(f"{name} can't be looked at ({reason}); {way_out}") from error
    last = name.rsplit("/", 1)[-1] if "/" in name else name.replace("_Weights", "").lower()
    key = re.sub(r"[^A-Za-z0-9_-]+", "-", last)
    lines = [f"{name} {'fits' if found.seen else 'may fit'}: {what}", *found.remarks]
    return "\n".join([*(f"  # {line}" for line in lines), as_yaml(key, found.entry)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", metavar="NAME[@REVISION]")


def main(arguments: argparse.Namespace) -> None:
    """Run the command. Raises UserError where the weights can't be had or don't fit."""
    print(inspect(arguments.name))
