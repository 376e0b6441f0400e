"""A pipeline's folder with two finished rows of random weights, for the demo: made in a second, nothing is trained."""

import shutil

import numpy as np
import yaml

from exported import ROWS
from made import save_model
from networks import randomised
from tiny import PARAMS, ROOT
from vitscale.base.files import write_metrics
from vitscale.data.arrays import SplitWriter
from vitscale.results.metrics import confusion
from vitscale.results.tables import by_class, write_csv

CLASSES = ["cat", "dog", "${7*7} {{8}}", "<b>x</b>"]  # as they might hurt a page
SCORED, HERE = 60, 40  # test images
MODELS = {"vit": "vit", "resnet18": "resnet18-cifar"}


def labels():
    return np.random.default_rng(1).integers(0, len(CLASSES), SCORED)


def answers():
    """Return what each row predicts of all test images (SCORED,), in their own order."""
    draws = np.random.default_rng(2)
    return {
        row: np.where(draws.random(SCORED) < right, labels(), draws.integers(0, len(CLASSES), SCORED))
        for row, right in {"vit": 0.6, "resnet18": 0.7}.items()
    }


def write_images(folder, count):
    images = np.random.default_rng(3).integers(0, 256, (SCORED, 32, 32, 3), dtype=np.uint8)
    writer = SplitWriter(folder, count, 32, CLASSES)
    writer.add(images[:count], labels()[:count])
    writer.close()


def playground(folder):
    """Make the folder; it has the first HERE of the SCORED test images, as a clone without the data has."""
    resnet = {"architecture": "resnet18", "image_size": 32, "stem": "cifar", "seed": 0}
    start = PARAMS["rows"]["vit-digits"]
    params = PARAMS | {
        "target": "things",
        "download": {"things": {"source": "imagefolder", "image_size": 32, "sha256": {}}},
        "models": PARAMS["models"] | {"resnet18": resnet},
        "rows": {row: start | {"start": f"{row}-scratch"} for row in MODELS},
    }
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    write_images(folder / "models/released/test-images", HERE)
    for row, name in MODELS.items():
        config = ROWS[name] | {"classes": CLASSES}
        save_model(folder / "models/finetuned" / row, config, randomised(config).state_dict())
        predicted = answers()[row]
        accuracy = float((predicted == labels()).mean())
        figures = {"accuracy": accuracy, "ci95_low": accuracy - 0.1, "ci95_high": accuracy + 0.1}
        write_metrics(folder / f"metrics/rows/{row}.json", figures | by_class(labels(), predicted, CLASSES))
        counts = confusion(labels(), predicted, len(CLASSES))
        write_csv(
            folder / f"metrics/confusion/{row}.csv",
            ["actual", "predicted", "count"],
            [[a, p, counts[i, j]] for i, a in enumerate(CLASSES) for j, p in enumerate(CLASSES)],
        )
    write_csv(
        folder / "metrics/curves.csv",
        ["stage", "entry", "epoch", "lr", "train_loss", "validation_loss", "validation_accuracy"],
        [["finetune", row, epoch, 0.1, 1.0, 1.0, epoch / 10] for row in MODELS for epoch in (1, 2, 3)],
    )
    return folder
