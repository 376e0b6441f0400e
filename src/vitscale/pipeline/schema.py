"""The schema of params.yaml: which keys there are, and which values each may have.

`consistency.check` holds a file against it.

It has no defaults, but for three keys that may be left out, and changes nothing: it only rejects. So an edit
here can't change a result, and no stage lists this file among its `deps`.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from vitscale.base import limits

# Names become parts of file names, which may have 255 bytes; and arguments, where a - in front is an option.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}"
HUB_NAME = r"^[\w-][\w.-]*/[\w-][\w.-]*$"
COMMIT = r"^[0-9a-f]{40}$"

Kind = TypeVar("Kind")
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# What stands in tables and names licenses, and a path: as long as Linux takes them.
Words = Annotated[str, StringConstraints(max_length=255)]
File = Annotated[str, StringConstraints(max_length=4096)]

# Each number has an upper bound: generous for what anybody trains, and such that what it asks for ends. Those
# of models stand in `base.limits`, since a config.json is held against them too.
MANY = 1000  # entries of a section (each is a stage, and DVC takes minutes for as many), seeds, sizes
Share = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # the sum of two is a seed of torch's
Side = Annotated[int, Field(ge=1, le=limits.SIDE)]
Dim = Annotated[int, Field(ge=1, le=limits.DIM)]  # of heads too, which divide it
MlpDim = Annotated[int, Field(ge=1, le=limits.MLP_DIM)]
Depth = Annotated[int, Field(ge=1, le=limits.DEPTH)]
Padding = Annotated[int, Field(ge=0, le=1024)]  # pixels; a quarter of the largest side
Alpha = Annotated[float, Field(ge=0, le=1000)]  # of a beta distribution; beyond, every draw is a half
Batch = Annotated[int, Field(ge=1, le=131_072)]  # images; ResNet-50 has been trained with 81,920
Epochs = Annotated[int, Field(ge=1, le=100_000)]  # each has its line in metrics/history: 20 MB
Warmup = Annotated[float, Field(ge=0, le=100_000)]  # epochs
Lr = Annotated[float, Field(gt=0, le=1000)]  # LARS goes up to 50
LrScale = Annotated[float, Field(gt=0, le=1e6)]  # from 1e-3, the largest rate above
Decay = Annotated[float, Field(ge=0, le=1000)]  # times a rate of 1e-3: all of a weight, at each step
Norm = Annotated[float, Field(ge=0, le=1e9)]  # of gradients; beyond, nothing is ever clipped
Images = Annotated[int, Field(ge=1, le=10**12)]  # LAION-5B has 5.9e9


def _unique(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("no value may stand twice")
    return values


def _seeds(value: object) -> object:
    each = value if isinstance(value, list) else [value]
    good = len(each) <= MANY and all(type(seed) is int and 0 <= seed < 2**63 for seed in each)
    if not good or not each or len(set(each)) < len(each):
        raise ValueError(
            f"must be a whole number from 0 to {2**63 - 1}, or a list of at most {MANY} different ones"
        )
    return value


def _not_many(value: object) -> object:
    """Refuse a section before each of its entries is looked at, which takes seconds and gigabytes."""
    if isinstance(value, dict) and len(value) > MANY:
        raise ValueError(f"{len(value)} entries, more than {MANY}")
    return value


Section = Annotated[dict[Name, Kind], Field(max_length=MANY), BeforeValidator(_not_many)]


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
    classes: Annotated[
        list[Annotated[int, Field(ge=0, le=9)]], Field(min_length=2, max_length=10), AfterValidator(_unique)
    ]
    sha256: Fingerprints


class TinyImageNet(Entry):
    source: Literal["tinyimagenet"]
    image_size: Side
    sha256: Fingerprints


class ImageFolder(Entry):
    source: Literal["imagefolder"]
    image_size: Side
    labels: File | None = None  # may be left out: most have none
    sha256: Fingerprints


class Prepare(Entry):
    validation: Annotated[float, Field(gt=0, lt=1)]


class Augment(Entry):
    crop_padding: Padding
    flip: bool
    trivial_augment: bool
    erasing: Annotated[float, Field(ge=0, le=1)]
    mixup: Alpha
    cutmix: Alpha


class Model(Entry):
    seed: Seed


class Vit(Model):
    architecture: Literal["vit"]
    image_size: Side
    patch_size: Side
    dim: Dim
    depth: Depth
    heads: Dim
    mlp_dim: MlpDim
    pool: Literal["class", "mean"]
    positions: Literal["learned", "sincos"]
    dropout: Rate
    stochastic_depth: Rate
    # May be left out: the paper's main models have none.
    stem_channels: Annotated[list[Dim], Field(max_length=limits.STEM)] = Field(default_factory=list)


class ResNet18(Model):
    architecture: Literal["resnet18"]
    image_size: Side
    stem: Literal["cifar", "imagenet"]


class Recipe(Entry):
    batch_size: Batch
    weight_decay: Decay
    warmup_epochs: Warmup
    label_smoothing: Rate
    clip_norm: Norm
    ema_decay: Rate
    compile: bool
    accumulate: Batch = 1  # may be left out: most batches fit into memory whole


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
    name: Annotated[str, StringConstraints(pattern=HUB_NAME, max_length=96)]  # the hub takes no longer ones
    revision: Annotated[str, StringConstraints(pattern=COMMIT)]
    hub_sha256: Sha256 | None
    sha256: Sha256 | None
    data: Name
    license: Words


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
    license: Words


class Named(Entry):
    """An entry that says no more than its name."""


class Training(Entry):
    fraction: Share
    recipe: Name
    augment: Name
    sizes: Annotated[list[Side], Field(max_length=MANY)]
    epochs: Epochs
    lr_scale: LrScale


class Pretrain(Training):
    seed: Seed
    model: Name
    data: Name


class Row(Training):
    seed: Annotated[object, AfterValidator(_seeds)]  # several: a training each
    start: Name
    protocol: Literal["full", "linear_probe"]
    inputs: Annotated[str, StringConstraints(pattern=f"^(prepared|features/{NAME})$", max_length=255)]


class Published(Entry):
    accuracy: Share
    protocol: Literal["full", "linear_probe"]
    images: Images


class Params(Entry):
    lr: Lr
    seed: Seed
    split_seed: Seed
    precision: Literal["auto", "bfloat16", "float16", "float32"]
    target: Name
    download: Section[Annotated[Cifar | Digits | ImageFolder | TinyImageNet, Field(discriminator="source")]]
    prepare: Section[Prepare]
    augment: Section[Augment]
    models: Section[Annotated[Vit | ResNet18, Field(discriminator="architecture")]]
    recipes: Section[Annotated[AdamW | Muon | Sgd, Field(discriminator="optimizer")]]
    pretrain: Section[Pretrain]
    weights: Section[Annotated[HuggingFace | Torchvision, Field(discriminator="source")]]
    features: Section[Named]
    rows: Section[Row]
    published: Section[Published]
    scaling: Section[Named]
