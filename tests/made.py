"""The library's objects from the mappings that tests write down, as params.yaml and config.json hold them."""

from pathlib import Path

import torch
from torch import Tensor

from vitscale.base.entries import Pretraining, Published, Row
from vitscale.models import store
from vitscale.models.preprocessing import Preprocessing
from vitscale.models.store import Classifier, ModelConfig
from vitscale.results.study import Study
from vitscale.results.tables import figures_in
from vitscale.runtime.device import Compute

CPU = Compute(torch.device("cpu"))


def build(config: dict) -> Classifier:
    return store.build(ModelConfig.from_json(config))


def save_model(folder: Path, config: dict, state: dict[str, Tensor]) -> None:
    store.save_model(folder, ModelConfig.from_json(config), state)


def count_macs(config: dict) -> int:
    return store.count_macs(ModelConfig.from_json(config))


def preprocessing(config: dict) -> Preprocessing:
    return ModelConfig.from_json(config).preprocessing


TRAINING = {
    "fraction": 1.0,
    "seed": 0,
    "recipe": "vit",
    "augment": "light",
    "sizes": [32],
    "epochs": 1,
    "lr_scale": 1.0,
}


def study(rows: dict, pretrain: dict, folder: Path, **others) -> Study:
    """Return a study of such entries, what they leave out filled in; `folder` has rows/ and history/."""
    return Study(
        target=others.get("target", "things"),
        rows={name: Row(**TRAINING | {"inputs": "prepared"} | row) for name, row in rows.items()},
        pretrain={name: Pretraining(**TRAINING | entry) for name, entry in pretrain.items()},
        published={
            name: Published(**{"images": 0} | entry) for name, entry in others.get("published", {}).items()
        },
        weights=others.get("weights", {}),
        models=others.get("models", {}),
        figures=figures_in(folder),
    )
