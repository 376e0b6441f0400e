"""The schema of params.yaml, checked whole whenever any stage runs, and by

    python -m vitscale.params [FOLDER]      (in the checkout's root; FOLDER holds a params.yaml, default: this one)

It has no defaults and changes nothing: it only rejects, with one line for each key that is wrong. So an edit here can't
change a result, and no stage lists this file among its `deps`.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from vitscale.files import UserError, read_yaml

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


KINDS = {"download": ["cifar10", "cifar100", "digits", "imagefolder"], "weights": ["huggingface", "torchvision"],
         "models": ["vit", "resnet18"], "recipes": ["adamw", "muon", "sgd"]}


def _unique(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("no value may stand twice")
    return values


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Fingerprints(Entry):
    """Null where it isn't known yet: the download then prints the value to paste."""

    train: Sha256 | None
    test: Sha256 | None


class Cifar(Entry):
    source: Literal["cifar10", "cifar100"]
    sha256: Fingerprints


class Digits(Entry):
    source: Literal["digits"]
    classes: Annotated[list[Annotated[int, Field(ge=0, le=9)]], Field(min_length=2), AfterValidator(_unique)]
    sha256: Fingerprints


class ImageFolder(Entry):
    source: Literal["imagefolder"]
    image_size: Count
    sha256: Fingerprints


class Prepare(Entry):
    validation: Annotated[float, Field(gt=0, lt=1)]


class Augment(Entry):
    crop_padding: Annotated[int, Field(ge=0)]
    flip: bool
    trivial_augment: bool
    erasing: Annotated[float, Field(ge=0, le=1)]
    mixup: NotNegative
    cutmix: NotNegative


class Model(Entry):
    seed: Seed


class Vit(Model):
    architecture: Literal["vit"]
    image_size: Count
    patch_size: Count
    dim: Count
    depth: Count
    heads: Count
    mlp_dim: Count
    pool: Literal["class", "mean"]
    positions: Literal["learned", "sincos"]
    dropout: Rate
    stochastic_depth: Rate


class ResNet18(Model):
    architecture: Literal["resnet18"]
    image_size: Count
    stem: Literal["cifar", "imagenet"]


class Recipe(Entry):
    batch_size: Count
    weight_decay: NotNegative
    warmup_epochs: NotNegative
    label_smoothing: Rate
    clip_norm: NotNegative
    ema_decay: Rate
    compile: bool


class AdamW(Recipe):
    optimizer: Literal["adamw"]
    beta2: Rate


class Muon(Recipe):
    optimizer: Literal["muon"]
    momentum: Rate
    beta2: Rate


class Sgd(Recipe):
    optimizer: Literal["sgd"]
    momentum: Rate


class HuggingFace(Entry):
    source: Literal["huggingface"]
    name: Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$")]
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    sha256: Sha256 | None
    data: Name
    license: str


class Torchvision(Entry):
    source: Literal["torchvision"]
    name: Literal["ResNet18_Weights.IMAGENET1K_V1", "ViT_B_16_Weights.IMAGENET1K_V1"]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
    data: Name
    license: str


class Named(Entry):
    """An entry that says no more than its name."""


class Training(Entry):
    fraction: Share
    seed: Seed
    recipe: Name
    augment: Name
    sizes: list[Count]
    epochs: Count
    lr_scale: Positive


class Pretrain(Training):
    model: Name
    data: Name


class Row(Training):
    start: Name
    protocol: Literal["full", "linear_probe"]
    inputs: Annotated[str, StringConstraints(pattern=r"^(prepared|features/[A-Za-z0-9_-]+)$")]


class Published(Entry):
    accuracy: Share
    protocol: Literal["full", "linear_probe"]
    images: Count


class Params(Entry):
    lr: Positive
    seed: Seed
    split_seed: Seed
    precision: Literal["auto", "bfloat16", "float32"]
    target: Name
    download: dict[Name, Annotated[Cifar | Digits | ImageFolder, Field(discriminator="source")]]
    prepare: dict[Name, Prepare]
    augment: dict[Name, Augment]
    models: dict[Name, Annotated[Vit | ResNet18, Field(discriminator="architecture")]]
    recipes: dict[Name, Annotated[AdamW | Muon | Sgd, Field(discriminator="optimizer")]]
    pretrain: dict[Name, Pretrain]
    weights: dict[Name, Annotated[HuggingFace | Torchvision, Field(discriminator="source")]]
    features: dict[Name, Named]
    rows: dict[Name, Row]
    published: dict[Name, Published]
    scaling: dict[Name, Named]


def _mismatches(params: Params):
    """Yield a line for everything that is well-formed but doesn't fit the rest."""

    def names(key: str, name: str, section: str, choices):
        if name not in choices:
            yield f"{key}: there is no {section}.{name}; {section} has {', '.join(choices) or 'no entry'}"

    def fits(key: str, name: str | None, entry: Training):
        model = params.models.get(name)
        on_features = isinstance(entry, Row) and entry.inputs != "prepared"
        if on_features and entry.sizes:
            yield f"{key}.sizes: features have no size; give []"
        if not on_features and not entry.sizes:
            yield f"{key}.sizes: give at least one"
        if len(entry.sizes) > entry.epochs:
            yield f"{key}.sizes: {len(entry.sizes)} sizes need as many epochs, there are {entry.epochs}"
        if model and model.architecture == "vit" and model.image_size % model.patch_size == 0:  # else that is said already
            for size in entry.sizes:
                if size % model.patch_size:
                    yield f"{key}.sizes: the patch_size {model.patch_size} of models.{name} doesn't divide {size}"

    for name, entry in params.prepare.items():
        yield from names(f"prepare.{name}", name, "download", params.download)
    yield from names("target", params.target, "prepare", params.prepare)
    for name, model in params.models.items():
        if model.architecture == "vit":
            if model.image_size % model.patch_size:
                yield f"models.{name}.patch_size: {model.patch_size} doesn't divide image_size {model.image_size}"
            if model.dim % model.heads:
                yield f"models.{name}.heads: {model.heads} doesn't divide dim {model.dim}"
            if model.positions == "sincos" and model.dim % 4:
                yield f"models.{name}.dim: {model.dim} is no multiple of 4, which sincos positions need"
    starts = {f"{model}-scratch": model for model in params.models}
    for name, entry in params.pretrain.items():
        if name in starts:
            yield f"pretrain.{name}: the name is taken by the untrained weights of models.{starts[name]}; choose another"
        yield from names(f"pretrain.{name}.model", entry.model, "models", params.models)
        yield from names(f"pretrain.{name}.data", entry.data, "prepare", params.prepare)
        yield from fits(f"pretrain.{name}", entry.model, entry)
        starts.setdefault(name, entry.model)
    for name in params.weights:
        if name in starts:
            yield f"weights.{name}: the name is taken by another start; choose another"
        starts.setdefault(name, None)
    for name in params.features:
        yield from names(f"features.{name}", name, "start", starts)
    for name, entry in params.rows.items():
        if entry.start not in starts:
            yield f"rows.{name}.start: there is no {entry.start}; there are {', '.join(starts)}"
        if entry.inputs != "prepared":
            if entry.protocol != "linear_probe" or entry.inputs != f"features/{entry.start}":
                yield f"rows.{name}.inputs: prepared, or for a linear_probe features/{entry.start} (is: {entry.inputs!r})"
            elif entry.start not in params.features:
                yield f"rows.{name}.inputs: features has no entry {entry.start}"
            policy = params.augment.get(entry.augment)
            if policy and any(policy.model_dump().values()):
                yield f"rows.{name}.augment: features can't be augmented; name a policy with everything off"
        yield from fits(f"rows.{name}", starts.get(entry.start), entry)
    for section, entries in (("pretrain", params.pretrain), ("rows", params.rows)):
        for name, entry in entries.items():
            yield from names(f"{section}.{name}.recipe", entry.recipe, "recipes", params.recipes)
            yield from names(f"{section}.{name}.augment", entry.augment, "augment", params.augment)


def _line(error: dict) -> str:
    """Say a pydantic error as `key: what is allowed (is: what stands there)`."""
    key = [str(part) for part in error["loc"]]
    if len(key) > 2 and key[2] in KINDS.get(key[0], []):  # pydantic names the chosen kind of an entry between its name and its field
        del key[2]
    match error["type"]:
        case "extra_forbidden":
            return f"{'.'.join(key)}: no such parameter"
        case "missing":
            return f"{'.'.join(key)}: missing; every parameter must be given"
        case "string_pattern_mismatch" if "[key]" in key:
            return f"{'.'.join(key[:-1])}: a name may hold letters, digits, _ and - only"
        case "union_tag_invalid" | "union_tag_not_found":
            kind = error["ctx"]["discriminator"].strip("'")
            return f"{'.'.join(key)}.{kind}: must be one of {', '.join(KINDS[key[0]])}"
    return f"{'.'.join(key)}: {error['msg'][0].lower()}{error['msg'][1:]} (is: {error['input']!r})"


def check(content: dict) -> None:
    """Raise UserError, one line a fault, unless the mapping is a whole and consistent set of parameters."""
    try:
        faults = list(_mismatches(Params.model_validate(content)))
    except ValidationError as error:
        faults = [_line(fault) for fault in error.errors()]
    if faults:
        raise UserError("\n".join(f"params.yaml: {fault}" for fault in faults))


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "params.yaml"
    try:
        check(read_yaml(path))
    except UserError as error:
        sys.exit(str(error))
    print(f"{path}: good")


if __name__ == "__main__":
    main()
