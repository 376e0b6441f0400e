"""The wide pipeline: the tiny one with an entry in every section, so that every kind of stage and parameter stands in it."""

from tiny import OFF, PARAMS, outputs, run
from vitscale.base.digests import digest
from vitscale.data.sources import Download, bring

ROW = "metrics/rows/vit-digits.json"


def wide_params(wide_mirror, hub, scratch):
    """Return the tiny parameters with an entry in every section."""
    photos = {
        "source": "cifar10",
        "sha256": bring("photos", Download(source="cifar10", sha256={}), scratch, scratch / "kept"),
    }
    vit, row = PARAMS["recipes"]["vit"], PARAMS["rows"]["vit-digits"]
    sgd = {name: value for name, value in vit.items() if name != "beta2"} | {
        "optimizer": "sgd",
        "momentum": 0.9,
    }
    probe = {
        "start": "hub",
        "protocol": "linear_probe",
        "inputs": "features/hub",
        "recipe": "sgd",
        "augment": "none",
        "sizes": [],
    }
    return PARAMS | {
        "download": PARAMS["download"] | {"photos": photos},
        "prepare": PARAMS["prepare"] | {"photos": {"validation": 0.25}},
        "augment": PARAMS["augment"] | {"none": OFF},
        "models": PARAMS["models"]
        | {"resnet18": {"architecture": "resnet18", "image_size": 32, "stem": "imagenet", "seed": 0}},
        "recipes": PARAMS["recipes"] | {"sgd": sgd},
        "weights": {"hub": hub},
        "features": {"hub": {}},
        "rows": PARAMS["rows"] | {"hub-probe": row | probe},
        "published": {"hub-probe": {"accuracy": 0.87, "protocol": "linear_probe", "images": 1000}},
    }


def committed(folder):
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "run", cwd=folder)
    return folder


def state(folder):
    """Return the digest of every output, of dvc.lock and of params.yaml."""
    return outputs(folder) | {name: digest(folder / name) for name in ("dvc.lock", "params.yaml")}


# What runs where only the learning rate is another one.
TRAINING = [
    "compare",
    "evaluate@hub-probe",
    "evaluate@vit-digits",
    "finetune@hub-probe",
    "finetune@vit-digits",
    "pretrain@vit-digits",
]
