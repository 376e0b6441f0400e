"""The tiny pipeline: the real dvc.yaml, stages and library on 200-odd digits, one row, one epoch."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from vitscale.base.config import read_yaml
from vitscale.base.digests import digest

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = [
    ".",
    *sorted(path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/*/dvc.yaml")),
]
SHA256 = {
    "train": "c99d844cd9c456483813b37517a8a0415c8e2f4a35e8472f9a0a02cbcff0ebe7",
    "test": "fd015064c963d0bb363aaa0a5e0e0431acc2a733d3dce94d6d3a0f034ecd870c",
}
# A policy that does nothing, as its mapping in params.yaml.
OFF = {
    "crop_padding": 0,
    "flip": False,
    "trivial_augment": False,
    "erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}
PARAMS = {
    "lr": 1e-3,
    "seed": 0,
    "split_seed": 0,
    "precision": "auto",
    "target": "digits",
    "download": {"digits": {"source": "digits", "classes": [0, 1], "sha256": SHA256}},
    "prepare": {"digits": {"validation": 0.2}},
    "augment": {
        "light": {
            "crop_padding": 2,
            "flip": False,
            "trivial_augment": False,
            "erasing": 0.0,
            "mixup": 0.0,
            "cutmix": 0.0,
        },
        "strong": {
            "crop_padding": 2,
            "flip": True,
            "trivial_augment": True,
            "erasing": 0.5,
            "mixup": 0.2,
            "cutmix": 1.0,
        },
    },
    "models": {
        "vit": {
            "architecture": "vit",
            "image_size": 32,
            "patch_size": 8,
            "dim": 16,
            "depth": 1,
            "heads": 2,
            "mlp_dim": 32,
            "pool": "mean",
            "positions": "learned",
            "dropout": 0.1,
            "stochastic_depth": 0.0,
            "seed": 0,
        }
    },
    "recipes": {
        "vit": {
            "optimizer": "adamw",
            "beta2": 0.99,
            "batch_size": 32,
            "weight_decay": 0.05,
            "warmup_epochs": 0,
            "label_smoothing": 0.0,
            "clip_norm": 1.0,
            "ema_decay": 0.0,
            "compile": False,
        }
    },
    "pretrain": {
        "vit-digits": {
            "model": "vit",
            "data": "digits",
            "fraction": 0.5,
            "seed": 0,
            "recipe": "vit",
            "augment": "strong",
            "sizes": [16],
            "epochs": 1,
            "lr_scale": 1.0,
        }
    },
    "weights": {},
    "features": {},
    "rows": {
        "vit-digits": {
            "start": "vit-digits",
            "protocol": "full",
            "inputs": "prepared",
            "fraction": 1.0,
            "seed": 0,
            "recipe": "vit",
            "augment": "light",
            "epochs": 1,
            "sizes": [32],
            "lr_scale": 1.0,
        }
    },
    "published": {},
    "scaling": {},
}


def run(*command: str, cwd: Path, check: bool = True, **options) -> subprocess.CompletedProcess:
    result = subprocess.run(command, cwd=cwd, text=True, capture_output=True, **options)
    assert not check or result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result


def checkout(folder: Path) -> Path:
    """Copy what git would give a person: code, dvc.yaml and the settings, as a repository of its own."""
    folder.mkdir(parents=True)
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "root.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    run("git", "init", "-q", "-b", "main", cwd=folder)
    run("dvc", "init", "-q", cwd=folder)
    return folder


def tiny(folder: Path, **changes) -> Path:
    """Return a fresh repository with the tiny parameters; `changes` replaces dotted keys (written with __)."""
    checkout(folder)
    write_params(folder, **changes)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "tiny", cwd=folder)
    return folder


def undisturbed(tmp_path_factory, forks, **changes):
    """Return a repository whose tiny pipeline has run once, without a checkpoint that a test could find."""
    with pytest.MonkeyPatch.context() as patch:
        forks.put_first(patch)
        patch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path_factory.mktemp("checkpoints")))
        folder = tiny(tmp_path_factory.mktemp("undisturbed") / "repo", **changes)
        run("dvc", "repro", "-q", cwd=folder)
    return folder


def write_params(folder: Path, **changes) -> None:
    path = folder / "params.yaml"
    params = read_yaml(path) if path.exists() else yaml.safe_load(yaml.safe_dump(PARAMS))
    for dotted, value in changes.items():
        *parents, leaf = dotted.replace("vit_digits", "vit-digits").split("__")
        entry = params
        for parent in parents:
            entry = entry[parent]
        entry[leaf] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def stages_run(text: str) -> list[str]:
    """Return the stages that DVC says it runs, but for `check`: it runs wherever a parameter has changed."""
    labels = [line.split("'")[1] for line in text.splitlines() if line.startswith("Running stage")]
    return [label for label in labels if label != "check"]


def outputs(folder: Path) -> dict[str, str]:
    """Return the digest of every output file."""
    places = [folder / name for name in ("data", "models", "metrics", "plots")]
    files = [
        file
        for place in places
        for file in sorted(place.rglob("*"))
        if file.is_file() and file.name != ".gitignore"
    ]
    return {file.relative_to(folder).as_posix(): digest(file) for file in files}


def hub_entry(mirror: Path, name: str = "someone/tiny-vit", image_size: int = 32) -> dict:
    """Write a random ViT into a mirror as transformers saves one for the hub; return its entry of `weights`."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = mirror / name
    torch.manual_seed(0)
    labels = {i: f"class {i}" for i in range(3)}
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=image_size,
            patch_size=8,
            initializer_range=0.5,
            id2label=labels,
            label2id={label: i for i, label in labels.items()},
        )
    )
    model.save_pretrained(folder)
    ViTImageProcessor(
        size={"height": image_size, "width": image_size},
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.3, 0.25],
        resample=3,
    ).save_pretrained(folder)
    return {
        "source": "huggingface",
        "name": name,
        "revision": "0" * 40,
        "hub_sha256": None,
        "sha256": digest(folder),
        "data": "photographs",
        "license": "Apache-2.0",
    }
