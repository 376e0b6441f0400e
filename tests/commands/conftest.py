"""Finished rows, for the commands that read them."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images

from exported import CHOSEN, ROWS, SCORES
from made import build, save_model
from tiny import PARAMS
from vitscale.base.files import write_json
from vitscale.models.store import count_parameters


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A pipeline's folder whose rows are random models of each architecture."""
    folder = tmp_path_factory.mktemp("finished")
    rows = {name: PARAMS["rows"]["vit-digits"] | {"start": "vit-scratch"} for name in ROWS} | {
        "not-run": PARAMS["rows"]["vit-digits"]
    }
    rows["vit"] = rows["vit"] | {"start": "hub"}
    rows["resnet18"] = rows["resnet18"] | {"start": "vit-digits", "protocol": "linear_probe"}
    weights = {
        "hub": {
            "source": "huggingface",
            "name": "someone/a-vit",
            "revision": "0" * 40,
            "hub_sha256": None,
            "sha256": None,
            "data": "imagenet1k",
            "license": "Apache-2.0",
        }
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"rows": rows, "weights": weights}))
    draws = torch.Generator().manual_seed(1)
    for name, config in ROWS.items():
        model = build(config)
        state = {
            key: value
            if not value.is_floating_point()
            else 1 + torch.rand(value.shape, generator=draws)
            if "running_var" in key
            else torch.randn(value.shape, generator=draws)
            * (0.5 if value.ndim < 2 else 2 / value[0].numel() ** 0.5)
            for key, value in model.state_dict().items()
        }
        save_model(folder / "models/finetuned" / name, config, state)
        write_json(folder / "models/finetuned" / name / "training.json", CHOSEN)
        write_json(folder / f"metrics/history/finetune/{name}.json", CHOSEN | {"epochs": []})
        write_json(folder / f"metrics/rows/{name}.json", SCORES | {"parameters": count_parameters(model)})
    return folder


@pytest.fixture(scope="module")
def photographs():
    """Real photographs in several sizes, and a square the size of the model."""
    china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    return [
        china,
        flower,
        china.crop((0, 0, 200, 400)),
        flower.resize((32, 32)),
        china.resize((48, 48)),
        flower.resize((20, 16)),
        Image.fromarray(255 - np.array(flower)),
    ]
