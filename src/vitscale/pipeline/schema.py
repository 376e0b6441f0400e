"""The schema of params.yaml: which keys there are, and which values each may have.

`consistency.check` holds a file against it.

It has no defaults, but for two keys that may be left out, and changes nothing: it only rejects. So an edit
here can't change a result, and no stage lists this file among its `deps`.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

# Names become parts of file names, which may have 255 bytes; and arguments, where a - in front is an option.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}"
HUB_NAME = r"^[\w-][\w.-]*/[\w-][\w.-]*$"
COMMIT = r"^[0-9a-f]{40}$"

Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _unique(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("no value may stand twice")
    return values


def _seeds(value: object) -> object:
    each = value if isinstance(value, list) else [value]
    good = all(type(seed) is int and 0 <= seed < 2**63 for seed in each)
    if not good or not each or len(set(each)) < len(each):
        raise ValueError("must be a whole number from 0 on, or a list of different ones")
    return value


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Fingerprints(Entry):
    """Null where it isn't pinned yet: the download then prints the value to paste."""

    train: Sha256 | None
    test: Sha256 | None


class Cifar(Entry):
    source: Literal["cifar10", "cifar100"]
    sha256: Fingerprints


class Digits(Entry):
    source: Literal["digits"]
    classes: Annotated[list[Annotated[int, Field(ge=0, le=9)]], Field(min_length=2), AfterValidator(_unique)]
    sha256: Fingerprints


class TinyImageNet(Entry):
    source: Literal["tinyimagenet"]
    image_size: Count
    sha256: Fingerprints


class ImageFolder(Entry):
    source: Literal["imagefolder"]
    image_size: Count
    labels: str | None = None  # may be left out: most have none
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
    accumulate: Count = 1  # may be left out: most batches fit into memory whole


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
    name: Annotated[str, StringConstraints(pattern=HUB_NAME)]
    revision: Annotated[str, StringConstraints(pattern=COMMIT)]
    hub_sha256: Sha256 | None
    sha256: Sha256 | None
    data: Name
    license: str


# Those of torchvision's that our models can express: its DEFAULT, which moves, is none.
TorchvisionName = Literal[
    "ResNet18_Weights.IMAGENET1K_V1",
    "ViT_B_16_Weights.IMAGENET1K_V1",
    "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",
    "ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1",
    "ViT_B_32_Weights.IMAGENET1K_V1",
    "ViT_L_16_Weights.IMAGENET1K_V1",
    "ViT_L_16_Weights.IMAGENET1K_SWAG_E2E_V1",
    "ViT_L_16_Weights.IMAGENET1K_SWAG_LINEAR_V1",
    "ViT_L_32_Weights.IMAGENET1K_V1",
    "ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1",
    "ViT_H_14_Weights.IMAGENET1K_SWAG_LINEAR_V1",
]


class Torchvision(Entry):
    source: Literal["torchvision"]
    name: TorchvisionName
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
    data: Name
    license: str


class Named(Entry):
    """An entry that says no more than its name."""


class Training(Entry):
    fraction: Share
    recipe: Name
    augment: Name
    sizes: list[Count]
    epochs: Count
    lr_scale: Positive


class Pretrain(Training):
    seed: Seed
    model: Name
    data: Name


class Row(Training):
    seed: Annotated[object, AfterValidator(_seeds)]  # several: a training each
    start: Name
    protocol: Literal["full", "linear_probe"]
    inputs: Annotated[str, StringConstraints(pattern=f"^(prepared|features/{NAME})$")]


class Published(Entry):
    accuracy: Share
    protocol: Literal["full", "linear_probe"]
    images: Count


class Params(Entry):
    lr: Positive
    seed: Seed
    split_seed: Seed
    precision: Literal["auto", "bfloat16", "float16", "float32"]
    target: Name
    download: dict[
        Name, Annotated[Cifar | Digits | ImageFolder | TinyImageNet, Field(discriminator="source")]
    ]
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
