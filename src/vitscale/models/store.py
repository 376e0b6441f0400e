"""Models in memory, a backbone under a linear head, and on disk.

A backbone under a linear head, and the folder from which `build` makes it again.

The folder has `model.safetensors` and `config.json`: the architecture's parameters as params.yaml has them,
the names of its `classes` (none: no head), and what it wants of its input: `interpolation` for images of
another size, `mean` and `std` of the channels, null until a training sets them from its data. Other files
beside them are notes. `load_model` believes neither of the two: a value out of its range, a weight that is no
number and a tensor of another shape than config.json asks for are refused before anything is built. What no
tensor shows (`heads`, say) is seen by its range alone.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitscale.base.errors import UserError, one_line
from vitscale.base.files import AGAIN, hold_file, read_json, write_bytes, write_json
from vitscale.models import resnet
from vitscale.models.preprocessing import Preprocessing
from vitscale.models.resnet import ResNet18Config, resnet18
from vitscale.models.values import check_values
from vitscale.models.vit import VisionTransformer, VitConfig

ARCHITECTURES: dict[str, type[VitConfig] | type[ResNet18Config]] = {
    "vit": VitConfig,
    "resnet18": ResNet18Config,
}
# By safetensors' names, and what becomes of them: an I64 is a counter of batches. Others, such as 8-bit ones,
# need scales that stand elsewhere.
DTYPES = dict.fromkeys(("F64", "F32", "F16", "BF16"), torch.float32) | {"I64": torch.int64}
MOST_OF_HEADER = 2 << 20  # bytes; a ViT of 1000 blocks takes 1.5 MB
INPUT = ("classes", "interpolation", "mean", "std")  # beside the architecture's parameters


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What config.json says of a model.

    `order` is that of its keys, kept so that a copy has the same bytes.
    """

    architecture: VitConfig | ResNet18Config
    classes: list[str]
    interpolation: str
    mean: list[float] | None
    std: list[float] | None
    order: list[str] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, content: dict) -> "ModelConfig":
        """Return the config in a config.json's mapping.

        Raises ValueError where a key is missing or unknown, or a value is none that a model can have.
        """
        check_values(content, ARCHITECTURES, INPUT)
        options = {name: value for name, value in content.items() if name not in ("architecture", *INPUT)}
        return cls(
            architecture=ARCHITECTURES[content["architecture"]](**options),
            order=list(content),
            **{name: content[name] for name in INPUT},
        )

    @classmethod
    def untrained(cls, entry: dict) -> "ModelConfig":
        """Return the config of an untrained model without a head, from its entry of `models`."""
        options = {name: value for name, value in entry.items() if name != "seed"}
        return cls.from_json(
            options | {"classes": [], "interpolation": "bilinear", "mean": None, "std": None}
        )

    def to_json(self) -> dict:
        """Return the mapping that config.json holds."""
        kind = next(name for name, each in ARCHITECTURES.items() if isinstance(self.architecture, each))
        values = {
            "architecture": kind,
            **asdict(self.architecture),
            **{name: getattr(self, name) for name in INPUT},
        }
        return {name: values[name] for name in self.order}

    @property
    def preprocessing(self) -> Preprocessing:
        """What the model wants of its input. Raises ValueError for one that has no statistics yet."""
        if self.mean is None or self.std is None:
            raise ValueError(
                "an untrained model has no channel statistics before `with_statistics` gives it some"
            )
        return Preprocessing(
            image_size=self.architecture.image_size,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
        )

    def with_statistics(self, folder: Path) -> "ModelConfig":
        """Return the config with a prepared data set's `mean` and `std`, unless it has some.

        Trained models keep their own. Raises UserError where nothing can be standardised by the data set's.
        """
        if self.mean is not None:
            return self
        path = folder / "statistics.json"
        statistics = read_json(path, dict, AGAIN)
        try:
            values = {"mean": list(statistics["mean"]), "std": list(statistics["std"])}
            return ModelConfig.from_json(self.to_json() | values)
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path} has no usable channel statistics ({one_line(error)}); {AGAIN}"
            ) from error


class Classifier(nn.Module):
    """A backbone and, with classes to tell apart, a linear head.

    Images (batch, 3, s, s) to logits (batch, classes).

    A new head is zero (Dosovitskiy et al. 2021, section 3.2), so it needs no seed. `config` says what the
    model is.
    """

    def __init__(self, backbone: nn.Module, features: int, config: ModelConfig):
        super().__init__()
        self.backbone, self.features, self.config = backbone, features, config
        self.head = nn.Linear(features, len(config.classes)) if config.classes else nn.Identity()
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, or the features where there is no head."""
        return self.head(self.backbone(images))

    def head_alone(self) -> "Classifier":
        """Return a new head for the backbone's features (batch, d), to be trained without it."""
        return Classifier(nn.Identity(), self.features, self.config)


def build(config: ModelConfig) -> Classifier:
    """Return the model that a config describes, with fresh weights from torch's global random state."""
    if isinstance(config.architecture, VitConfig):
        features = config.architecture.dim * (1 + config.architecture.distilled)
        return Classifier(VisionTransformer(config.architecture), features, config)
    return Classifier(resnet18(config.architecture), resnet.FEATURES, config)


def save_model(folder: Path, config: ModelConfig, state: dict[str, Tensor]) -> None:
    """Write a model's folder; the same weights give the same bytes."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    write_bytes(folder / "model.safetensors", save(tensors))
    write_json(folder / "config.json", config.to_json())


def check_tensors(config: ModelConfig, state: dict[str, Tensor]) -> None:
    """Raise ValueError unless the tensors are those of the config's model, and finite; nothing is built.

    Tensors on the meta device, of which only shapes are known, may have any values.
    """
    architecture, stored = config.architecture, dict[str, Any]()
    if isinstance(architecture, VitConfig) and "backbone.norm.weight" in state:
        tokens = state["backbone.class_token"].shape[1] if "backbone.class_token" in state else 0
        width, channels = state["backbone.patch_embedding.weight"].shape[1], list[int]()
        while (kernel := f"backbone.stem.{2 * len(channels)}.0.weight") in state:
            channels.append(len(state[kernel]))
        patch = 2 ** (len(channels) - 1) if channels else math.isqrt(width // 3)
        stored = {
            "dim": len(state["backbone.norm.weight"]),
            "depth": len({name.split(".")[2] for name in state if name.startswith("backbone.blocks.")}),
            "mlp_dim": len(state["backbone.blocks.0.mlp.0.weight"]),
            "patch_size": patch,
            "stem_channels": channels,
            "pool": "class" if tokens else "mean",
            "distilled": tokens == 2,
            "positions": "learned" if "backbone.positions" in state else "sincos",
        }
        if "backbone.positions" in state:
            stored["image_size"] = patch * math.isqrt(state["backbone.positions"].shape[1] - tokens)
    for name, value in stored.items():
        if (given := getattr(architecture, name)) != value and (value or given):
            raise ValueError(f"{name} is {given!r}, its weights have {value!r}")
    with torch.device("meta"):
        wanted = build(config).state_dict()
    for name in sorted(wanted.keys() | state.keys()):
        asked, found = (
            f"{tuple(each[name].shape)} {each[name].dtype}" if name in each else "none"
            for each in (wanted, state)
        )
        if asked != found:
            raise ValueError(f"the tensor {name} is {found}, the config asks for {asked}")
        if not (state[name].is_meta or state[name].isfinite().all()):
            raise ValueError(f"the tensor {name} has values that are no finite numbers")


def on_meta(tensors: Iterable[tuple[str, Iterable[int], str]]) -> dict[str, Tensor]:
    """Return tensors without values, by name, of such shapes and of safetensors' types.

    Raises ValueError where a shape or a type is none that we take.
    """
    found = {}
    for name, shape, dtype in tensors:
        if dtype not in DTYPES:
            raise ValueError(f"has {name} of type {dtype}; we take {', '.join(DTYPES)}")
        try:
            found[name] = torch.empty(list(shape), dtype=DTYPES[dtype], device="meta")
        except (RuntimeError, TypeError, OverflowError):
            raise ValueError(f"has {name} of a shape that no tensor can have") from None
    return found


def header(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of safetensors on the meta device, those of floating point as float32.

    Raises ValueError or SafetensorError where it is damaged or says what can't be.
    """
    with open(path, "rb") as content:
        size = int.from_bytes(content.read(8), "little")
    if size > MOST_OF_HEADER:
        raise ValueError(f"has a {path.name} whose header has {size} bytes, more than {MOST_OF_HEADER}")
    with safe_open(path, "pt") as file:  # it holds the header against the file's own size
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return on_meta((name, each.get_shape(), each.get_dtype()) for name, each in slices.items())


def load_model(folder: Path, classes: list[str] | None = None, statistics: Path | None = None) -> Classifier:
    """Return a folder's model; with `classes` its head is left behind for a new one.

    `statistics` is the prepared data set whose channel statistics it takes where it has none.
    Raises UserError where the folder's files are damaged, have values that no model has, or don't belong
    together.
    """
    content, weights = read_json(folder / "config.json", dict, AGAIN), folder / "model.safetensors"
    try:
        config = ModelConfig.from_json(content)
        hold_file(weights)
        check_tensors(config, header(weights))  # before memory is taken for the values
        state = load(weights.read_bytes())
        check_tensors(config, state)
        if classes is not None:
            config = replace(config, classes=classes)
            state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
        model = build(config)
        model.load_state_dict(state, strict=False)  # all but a new head, as `check_tensors` has seen
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} holds no usable model ({one_line(error)}); {AGAIN}") from error
    if statistics:
        model.config = config.with_statistics(statistics)
    return model


def trained_models(folder: Path) -> list[Path]:
    """Return the folders of a row's models: its own, or one below it for each of its seeds."""
    numbers = {path: path.name.removeprefix("seed-") for path in folder.glob("seed-*")}
    seeds = [path for path, number in numbers.items() if number.isascii() and number.isdecimal()]
    return sorted(seeds, key=lambda path: int(numbers[path])) or [folder]


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(config: ModelConfig) -> int:
    """Return the multiply-accumulates of one image's forward pass (products of matrices and convolutions)."""
    size = config.architecture.image_size
    with torch.device("meta"):
        model = build(config).eval()
        image = torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() // 2
