"""Weights that others trained: fetched, checked and turned into starts.

An entry of params.yaml's `weights` names them by its `source`:

    torchvision   `name` one of torchvision's sets of weights, `sha256` of its file or the first digits of it
    huggingface   `name` a repository of the hub with a ViT, DeiT or ResNet-18 as transformers or timm have
                  them, `revision` its commit. Digests over its files (`base.digests`): `sha256` is held
                  against a mirror's copy, which has no commit; `hub_sha256`, where given, against the hub's

`VITSCALE_MIRROR` is looked in first: for torchvision's file by its own name, for a folder `<name>/` with what
the hub has.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from vitscale.base.digests import digest
from vitscale.base.entries import Weights
from vitscale.base.errors import UserError, one_line
from vitscale.base.fetch import fetch as fetch_file
from vitscale.base.limits import CLASSES
from vitscale.models import checkpoints, hub_config, timm_config, torchvision_weights
from vitscale.models.hub_names import TIMM_VIT, TRANSFORMERS_VIT, resnet_state, vit_state
from vitscale.models.store import INPUT, ModelConfig, check_tensors

CONFIG, PROCESSOR = HUB_FILES = ("config.json", "preprocessor_config.json")  # timm has the first alone
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # in our order

# What a source gives: our config.json, our state.
Model = tuple[dict[str, Any], dict[str, Tensor]]
Found = tuple[dict[str, Any], dict[str, Tensor], str]  # and the digest of the very files that both came from


def convert(config: dict[str, Any], processor: dict[str, Any] | None, state: dict[str, Tensor]) -> Model:
    """Return our config.json and our tensors for those of a repository; on the meta device they stay there.

    Raises ValueError, with what the repository has, where our models can't express it.
    """
    timm = timm_config.is_timm(config)
    if timm:
        content, qkv_bias = timm_config.our_config(
            config, {name: list(each.shape) for name, each in state.items()}
        )
    else:
        content, qkv_bias = transformers_config(config, processor)
    library = "timm" if timm else "transformers"
    try:
        if content["architecture"] == "resnet18":
            ours = resnet_state(state, library)
        else:
            ours = vit_state(state, TIMM_VIT if timm else TRANSFORMERS_VIT, library, qkv_bias)
        count = len(ours["head.weight"]) if "head.weight" in ours else 0
    except (RuntimeError, IndexError, TypeError) as error:
        raise ValueError(
            f"has tensors of shapes that no model of ours has ({error}); take other weights"
        ) from error
    if count > CLASSES:
        raise ValueError(f"has a head of {count} classes, more than the {CLASSES} that we take")
    if not count and "Classification" in str(config.get("architectures")):
        raise ValueError(
            "has no classifier, though its config.json says so in architectures; take other weights"
        )
    names = (timm_config if timm else hub_config).class_names(config, count) if count else []
    content |= {"classes": names}
    # What it wants of its input comes last, as ever: the same weights shall give the same bytes.
    order = [*(name for name in content if name not in INPUT), *INPUT]
    return {name: content[name] for name in order}, ours


def transformers_config(
    config: dict[str, Any], processor: dict[str, Any] | None
) -> tuple[dict[str, Any], bool]:
    """Return our config.json for transformers' two files, but for the classes, and whether qkv has biases.

    Raises ValueError where ours wouldn't give their answers.
    """
    content, qkv_bias = hub_config.model_config(config)
    if processor is None:
        raise ValueError(f"has no {PROCESSOR}; take other weights, or put one beside them in VITSCALE_MIRROR")
    taken = hub_config.processor_config(processor, config["model_type"])
    side = content.setdefault("image_size", taken["image_size"])
    if taken["image_size"] != side:
        raise hub_config.refuse("size", taken["image_size"], f"the image_size of its {CONFIG}, {side}")
    return content | taken, qkv_bias


def checked(content: dict[str, Any], state: dict[str, Tensor]) -> ModelConfig:
    """Return the config of a start. Raises ValueError where the two don't fit, or values aren't finite."""
    try:
        if content["mean"] is None or content["std"] is None:
            raise ValueError("the channels' mean or std is missing")
        config = ModelConfig.from_json(content)
        check_tensors(config, state)
    except (ValueError, LookupError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"is no model of ours ({one_line(error)}); take other weights") from error
    return config


def read(folder: Path) -> Model:
    """Return our config.json and our tensors for a repository's files.

    Shapes are held against config.json before the values are read. Raises ValueError where our models can't
    express it, and what reading a damaged file raises.
    """
    checked(*shapes_of(folder))
    return convert(*_small_files(folder), checkpoints.values(weights_in(folder)))


def shapes_of(folder: Path) -> Model:
    """Return what `read` does, with tensors on the meta device, and raise the same."""
    return convert(*_small_files(folder), checkpoints.shapes(weights_in(folder)))


def _small_files(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return a repository's config and, where it has one, its images' processor."""
    has_processor = (folder / PROCESSOR).exists()
    return checkpoints.read_json(folder / CONFIG), (
        checkpoints.read_json(folder / PROCESSOR) if has_processor else None
    )


def weights_in(folder: Path) -> Path:
    """Return the file of a repository's weights."""
    return folder / next((name for name in WEIGHT_FILES if (folder / name).exists()), WEIGHT_FILES[0])


def _check(found: str, pin: str | None, key: str, what: str) -> None:
    if pin is None:
        raise UserError(f"{key} is not given; to pin {what}, paste {found}")
    if not found.startswith(pin):
        raise UserError(
            f"{what} is not what params.yaml names: {key} is {pin}, found {found}; fetch it again, or mend "
            "the key"
        )


def mirrored(name: str) -> Path | None:
    """Return a file or folder of VITSCALE_MIRROR, or None where it has none."""
    mirror = os.environ.get("VITSCALE_MIRROR")
    if not mirror:
        return None
    if not (Path(mirror) / name).exists():
        print(f"{mirror} has no {name}", file=sys.stderr)
        return None
    return Path(mirror) / name


def from_torchvision(key: str, entry: Weights) -> Found:
    """Return config, state and digest of a start from torchvision's weights."""
    url = torchvision_weights.weights_of(entry.name).url
    name = url.rsplit("/", 1)[-1]
    path = mirrored(name) or fetch_file(name, [url], size=None, sha256=entry.sha256)
    found = digest(path)
    _check(found, entry.sha256, f"{key}.sha256", str(path))
    try:
        content, state = torchvision_weights.read(path, entry.name)
    except ValueError as error:
        raise UserError(f"{path} doesn't hold {entry.name} ({error})") from error
    return content, state, found


def gather(source: Path, folder: Path) -> str:
    """Put links to a repository's files, and to nothing else of it, into a folder; return their digest."""
    for name in (*HUB_FILES, weights_in(source).name):
        if name != PROCESSOR or (source / name).exists():
            file = (source / name).resolve(strict=True)
            if not file.is_file():
                raise ValueError(f"has a {name} that is no file")
            (folder / name).symlink_to(file)
    return digest(folder)


def _cached(entry: Weights) -> Path:
    """Fetch a repository's files into the hub's own cache; return their folder there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def download(file: str) -> Path:
        return Path(hf_hub_download(entry.name, file, revision=entry.revision))

    print(f"fetching {entry.name} at {entry.revision} from the hub", flush=True)
    config = download(CONFIG)
    if not timm_config.is_timm(checkpoints.read_json(config)):
        download(PROCESSOR)
    safe, pickled = WEIGHT_FILES
    try:
        download(safe)
    except EntryNotFoundError as error:
        try:
            download(pickled)
        except EntryNotFoundError:
            raise error from None
    return config.parent


def _hub_files(folder: Path, key: str, entry: Weights) -> str:
    """Put a repository's files, and nothing else of it, into a folder; return their digest.

    From the mirror, pinned by `sha256`, or from the hub, pinned by `revision` and, where given, `hub_sha256`.
    """
    copy = mirrored(entry.name)
    source = copy or _cached(entry)
    found = gather(source, folder)
    if copy is not None:
        _check(found, entry.sha256, f"{key}.sha256", str(copy))
    elif entry.hub_sha256 is not None:
        _check(found, entry.hub_sha256, f"{key}.hub_sha256", f"{entry.name} at {entry.revision}")
    return found


def hub_reason(name: str, revision: str | None, error: Exception) -> str:
    """Return why a repository can't be had, in words, for what the hub's client or a damaged file raised."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError):  # of which the first cause says why
        while error.__cause__ is not None:
            error = error.__cause__  # type: ignore[assignment]
    if isinstance(error, GatedRepoError):
        return f"it is gated: accept its terms on https://huggingface.co/{name}, then `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository, or a private one, which needs `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision}"
    if isinstance(error, RemoteEntryNotFoundError):
        return f"it has no {str(error.response.url).rsplit('/', 1)[-1]}"
    return one_line(error).split(". ")[0]


def from_hugging_face(key: str, entry: Weights) -> Found:
    """Return config, state and digest of a start from a repository of the hub; no code of it is run."""
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            found = _hub_files(folder, key, entry)
            return *read(folder), found
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{key}: {entry.name} {one_line(error)}") from error
        except Exception as error:  # whatever the hub's client, its HTTP library, safetensors or pickle raise
            reason = hub_reason(entry.name, entry.revision, error)
            raise UserError(
                f"{key}: {entry.name} can't be loaded ({reason}); try again, or set VITSCALE_MIRROR to a "
                f"folder that has {entry.name}/ with {', '.join(HUB_FILES)} and {WEIGHT_FILES[0]}"
            ) from error


def fetch(key: str, entry: Weights) -> tuple[ModelConfig, dict[str, Tensor], str]:
    """Return config and state of the start that `weights.<key>` names, and the digest of its files.

    Raises UserError where it can't be had whole, or isn't a model of ours.
    """
    source = {"torchvision": from_torchvision, "huggingface": from_hugging_face}[entry.source]
    content, state, found = source(f"weights.{key}", entry)
    try:
        return checked(content, state), state, found
    except ValueError as error:
        raise UserError(f"weights.{key}: {entry.name} {one_line(error)}") from error
