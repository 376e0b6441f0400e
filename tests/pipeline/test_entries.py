"""A pretraining and rows in this process, on 24 random images: what an entry asks for reaches the training and its state."""

import importlib.util
import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from made import save_model
from splits import OFF, make_split, put
from tiny import PARAMS, ROOT
from trainings import raw
from vitscale.data.arrays import write_features
from vitscale.models import store
from vitscale.models.store import ModelConfig
from vitscale.pipeline import entry as module
from vitscale.pipeline.stage import Stage

ROW = PARAMS["rows"]["vit-digits"]
PROBE = ROW | {"protocol": "linear_probe", "augment": "none", "start": "vit-scratch"}
CHANGES = {
    "lr": 0.01,
    "seed": 5,
    "precision": "float32",
    "augment": PARAMS["augment"] | {"none": OFF},
    "recipes": {"vit": PARAMS["recipes"]["vit"] | {"batch_size": 8, "beta2": 0.97, "label_smoothing": 0.1}},
    "features": {"vit-scratch": {}},
    "pretrain": {
        "vit-digits": PARAMS["pretrain"]["vit-digits"]
        | {"fraction": 0.5, "seed": 3, "lr_scale": 0.25, "epochs": 2, "sizes": [16, 24]}
    },
    "rows": {
        "vit-digits": ROW
        | {"start": "vit-scratch", "fraction": 0.25, "seed": 2, "lr_scale": 2.0, "epochs": 3},
        "probe": PROBE | {"fraction": 0.75, "epochs": 2},
        "on-features": PROBE | {"inputs": "features/vit-scratch", "sizes": []},
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A pipeline's folder, to be worked in: a copy of the code, prepared data, features and an untrained model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("VITSCALE_DEVICE", "cpu")
    monkeypatch.setenv("VITSCALE_THREADS", "1")
    threads = torch.get_num_threads()
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "root.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS | CHANGES))
    torch.manual_seed(0)
    config = ModelConfig.untrained(PARAMS["models"]["vit"])
    save_model(Path("models/start/vit-scratch"), config.to_json(), store.build(config).state_dict())
    for name, counts in (("train", [12, 12]), ("validation", [3, 5])):
        split = make_split(counts, seed=len(name))
        put(Path("data/prepared/digits") / name, split)
        features = np.random.default_rng(0).normal(size=(len(split), 16)).astype(np.float32)
        write_features(Path("data/features/vit-scratch/digits") / name, features, split)
    for place in ("data/prepared", "data/features/vit-scratch"):
        statistics = {"mean": [0.3, 0.4, 0.5], "std": [0.2, 0.2, 0.2]}
        (tmp_path / place / "digits/statistics.json").write_text(json.dumps(statistics))
    yield tmp_path
    torch.set_num_threads(threads)


def perform(name: str, key: str) -> None:
    """Do what a stage's script does, in this process."""
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    script, path = importlib.util.module_from_spec(spec), list(sys.path)
    spec.loader.exec_module(script)
    sys.path[:] = path
    stage = Stage(name, key)
    script.main(stage)
    stage.finish()


@pytest.fixture
def trained(monkeypatch):
    """Each training with its validation images and its result, whose weights no model comes to by itself."""
    given, fit = [], module.fit

    def noted(training, validation, *others):
        result = fit(training, validation, *others)
        result = replace(result, state={name: value + 1 for name, value in result.state.items()})
        given.append((training, validation, result))
        return result

    monkeypatch.setattr(module, "fit", noted)
    return given


@pytest.mark.parametrize(
    ("stage", "key", "images", "seed", "lr"),
    [
        ("pretrain", "vit-digits", 12, 8, 0.0025),
        ("finetune", "vit-digits", 6, 7, 0.02),
        ("finetune", "probe", 18, 5, 0.01),
        ("finetune", "on-features", 24, 5, 0.01),
    ],
)
def test_an_entry_is_obeyed(folder, trained, stage, key, images, seed, lr):
    """An entry's share of the images, seed, rate, sizes, epochs, recipe, policy or protocol is passed over, for a pretraining say."""
    perform(stage, key)
    [(training, validation, _)] = trained
    entry = CHANGES["pretrain" if stage == "pretrain" else "rows"][key]
    plan = asdict(training.plan)
    for name in ("fraction", "sizes", "epochs"):
        assert plan[name] == entry[name]
    assert (plan["seed"], plan["frozen_backbone"]) == (seed, "probe" in entry.get("protocol", ""))
    assert plan["lr"] == pytest.approx(lr)
    assert plan["policy"] == CHANGES["augment"][entry["augment"]]
    assert plan["recipe"] == CHANGES["recipes"]["vit"] | {"momentum": 0.0, "accumulate": 1}
    assert len(training.batches.indices) == images and len(training.batches.split) == 24
    assert validation.labels.tolist() == 3 * [0] + 5 * [1]
    history = json.loads((folder / f"metrics/history/{stage}/{key}.json").read_text())
    assert history["train_images"] == images and len(history["epochs"]) == entry["epochs"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_precision_is_obeyed(folder, trained, precision):
    """A training is in another precision than params.yaml says."""
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | CHANGES | {"precision": precision}))
    perform("finetune", "vit-digits")
    assert trained[0][0].compute.precision == precision


@pytest.mark.parametrize("key", ["vit-digits", "on-features"])
def test_the_model_is_that_of_the_result(folder, trained, key):
    """The model has the weights of the last epoch instead of those of the best, or a probe's head is the untrained one."""
    before = load_file(folder / "models/start/vit-scratch/model.safetensors")
    perform("finetune", key)
    after = load_file(folder / f"models/finetuned/{key}/model.safetensors")
    result = trained[0][2].state
    if key == "on-features":  # the head alone, whose backbone joins it again
        assert set(result) == {"head.weight", "head.bias"}
        result = result | before
    assert raw(after) == raw(result)


def flip(path: Path) -> None:
    """Change the last byte of a file: a pixel, a label, a weight."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DECIDING = {
    "a training image": lambda folder: flip(folder / "data/prepared/digits/train/images.npy"),
    "a validation image": lambda folder: flip(folder / "data/prepared/digits/validation/images.npy"),
    "the start": lambda folder: flip(folder / "models/start/vit-scratch/model.safetensors"),
    "code": lambda folder: (folder / "src/vitscale/training/optimizers.py").write_text("# another\n"),
    **{
        name: lambda folder, change=change: (folder / "params.yaml").write_text(
            yaml.safe_dump(PARAMS | CHANGES | change)
        )
        for name, change in {
            "lr": {"lr": 0.02},
            "the seed": {"seed": 6},
            "the recipe": {"recipes": {"vit": CHANGES["recipes"]["vit"] | {"weight_decay": 0.1}}},
            "the entry": {"rows": {"vit-digits": CHANGES["rows"]["vit-digits"] | {"fraction": 0.5}}},
        }.items()
    },
}


@pytest.mark.parametrize("change", DECIDING)
def test_a_state_belongs_to_what_decided_it(folder, capsys, change):
    """A training takes the state of one on other data, from another start, by other code or parameters, and ends with it."""
    perform("finetune", "vit-digits")
    shutil.rmtree(folder / "models/finetuned")
    capsys.readouterr()
    perform("finetune", "vit-digits")
    said = capsys.readouterr().out
    assert "nothing left to train" in said and "epoch 1/3" not in said
    DECIDING[change](folder)
    perform("finetune", "vit-digits")
    said = capsys.readouterr().out
    assert "nothing left to train" not in said and "epoch 1/3" in said


def test_a_state_belongs_to_its_machine(folder, capsys, monkeypatch):
    """A training goes on from a state that another number of threads, or a compiled model, came to: its bytes would be neither's."""
    recipe = CHANGES["recipes"]["vit"] | {"compile": True}
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | CHANGES | {"recipes": {"vit": recipe}}))
    monkeypatch.setattr("vitscale.training.loop.can_compile", lambda device: False)
    for compiled, threads in ((False, "1"), (True, "1"), (False, "2")):
        monkeypatch.setattr(module, "can_compile", lambda device, compiled=compiled: compiled)
        monkeypatch.setenv("VITSCALE_THREADS", threads)
        for again in (False, True):
            perform("finetune", "vit-digits")
            assert ("nothing left to train" in capsys.readouterr().out) == again


def test_each_seed_is_a_training(folder, trained, capsys):
    """The second seed of a row takes the first one's state, and counts as another training that it isn't."""
    row = CHANGES["rows"]["vit-digits"] | {"seed": [2, 4]}
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | CHANGES | {"rows": {"vit-digits": row}}))
    perform("finetune", "vit-digits")
    assert "nothing left to train" not in capsys.readouterr().out
    assert [training.plan.seed for training, *_ in trained] == [7, 9]
    assert raw(trained[0][2].state) != raw(trained[1][2].state)
