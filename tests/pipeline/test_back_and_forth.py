"""Back and forth: after a value is changed and changed back, everything comes from DVC's cache."""

import contextlib
import copy
import os
import re
import shutil

import pytest
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo

from dvcyaml import STAGES, leaves
from tiny import run
from vitscale.base.config import read_yaml
from vitscale.pipeline.graph import find
from wide import OFF, state

# By the leaf, or by its value: what it is changed to. Of the others a number is raised and a switch is flipped.
OTHER = {
    "lr": 2e-3,
    "target": "photos",
    "download.photos.source": "cifar100",
    "download.digits.classes": [0, 1, 2],
    "pretrain.vit-digits.data": "photos",
    "models.vit.image_size": 16,
    "models.resnet18.image_size": 16,
    "models.vit.patch_size": 4,
    "models.vit.dim": 32,
    "models.vit.heads": 4,
    "pretrain.vit-digits.sizes": [32],
    "rows.vit-digits.sizes": [16],
    "rows.hub-probe.sizes": [16],
    "weights.hub.source": "torchvision",
    "weights.hub.name": "other/tiny-vit",
    "weights.hub.revision": "1" * 40,
    "rows.vit-digits.start": "vit-scratch",
    "rows.hub-probe.start": "vit-digits",
    "rows.vit-digits.inputs": "features/hub",
    "auto": "float32",
    "digits": "cifar10",
    "vit": "resnet18",
    "resnet18": "vit",
    "adamw": "sgd",
    "sgd": "adamw",
    "mean": "class",
    "learned": "sincos",
    "imagenet": "cifar",
    "strong": "light",
    "light": "strong",
    "none": "light",
    "full": "linear_probe",
    "linear_probe": "full",
    "features/hub": "prepared",
    "photographs": "pictures",
    "Apache-2.0": "MIT",
}
# A value alone that no run can take: the rest of its entry would not fit, or the images or weights are not those of a hash.
REFUSED = {
    "download.digits.source",
    "download.digits.classes",
    "models.vit.architecture",
    "models.resnet18.architecture",
    "weights.hub.source",
    *(
        f"{entry}.sha256.{split}"
        for entry in ("download.digits", "download.photos")
        for split in ("train", "test")
    ),
    "weights.hub.sha256",
    *(f"augment.none.{name}" for name in OFF),
    *(f"recipes.{name}.optimizer" for name in ("vit", "sgd")),
    "rows.vit-digits.inputs",
    *(f"rows.hub-probe.{name}" for name in ("start", "protocol", "inputs", "augment", "sizes")),
}
# Between them these run every kind of stage.
HANDFUL = [
    "lr",
    "download.photos.source",
    "prepare.digits.validation",
    "models.vit.depth",
    "weights.hub.license",
    "rows.vit-digits.epochs",
    "published.hub-probe.accuracy",
    "download.digits.classes",
]


def repro(checkpoints) -> bool:
    """Do what `dvc repro` does, in this process and with no state to go on from; say whether all went well."""
    shutil.rmtree(checkpoints, ignore_errors=True)
    with Repo(".") as repo, contextlib.suppress(DvcException):
        repo.reproduce()
        return True
    return False


def with_other(params: dict, dotted: str) -> dict:
    """Return the parameters with another value at a leaf."""
    params = copy.deepcopy(params)
    path, _, leaf = dotted.rpartition(".")
    entry = find(params, path) if path else params
    value = entry[leaf]
    if dotted in OTHER:
        entry[leaf] = OTHER[dotted]
    elif isinstance(value, bool):
        entry[leaf] = not value
    elif isinstance(value, int):
        entry[leaf] = value + 1
    elif isinstance(value, float):
        entry[leaf] = value / 2 + 0.3
    elif re.fullmatch("[0-9a-f]{64}", value):
        entry[leaf] = None
    else:
        entry[leaf] = {**OTHER, "vit": "sgd", "sgd": "vit"}[value] if leaf == "recipe" else OTHER[value]
    return params


def back_and_forth(folder, changed, chosen, commands, checkpoints):
    """Change each leaf, run, change it back, run. Return a line for each, and what is wrong.

    A line has the leaf, what ran after the change, whether that was refused, and what ran after changing back.
    """
    path, first, lines, wrong = folder / "params.yaml", state(folder), [], []
    text, params = path.read_text(), read_yaml(path)
    for dotted in chosen:
        path.write_text(yaml.safe_dump(changed(params, dotted), sort_keys=False))
        good = repro(checkpoints)
        there = commands.new()
        if good and "compare" in there:
            wrong += [f"{dotted}: {left.name} stayed" for left in checkpoints.glob("*.pt*")]
        path.write_text(text)
        wrong += [] if repro(checkpoints) else [f"{dotted}: not restored"]
        back = commands.new()
        after = state(folder)
        wrong += [f"{dotted}: {each} ran again" for each in back]
        wrong += [
            f"{dotted}: {name} is another one"
            for name in {**first, **after}
            if first.get(name) != after.get(name) and not name.startswith("data/features/hub/photos")
        ]  # of another target, which nothing takes away
        lines.append((dotted, there, good, back))
    return lines, wrong


def write_table(lines) -> None:
    """Print the table, and add it to the file that VITSCALE_TABLE names."""
    table = ["| leaf | runs after the change | runs after changing back |", "|---|---|---|"]
    for dotted, there, good, back in lines:
        table.append(
            f"| `{dotted}` | {len(there)}{'' if good else ', refused'}: {', '.join(there)} | {len(back)} |"
        )
    print("\n".join(table))
    if "VITSCALE_TABLE" in os.environ:
        with open(os.environ["VITSCALE_TABLE"], "a", encoding="utf-8") as file:
            file.write("\n".join(table) + "\n\n")


def test_a_handful_of_leaves(repo, commands, checkpoints, parsed_once, monkeypatch):
    """Catches a kind of stage whose runs DVC doesn't keep, or that leaves other bytes; a refused run that costs something."""
    monkeypatch.chdir(repo)
    lines, wrong = back_and_forth(repo, with_other, HANDFUL, commands, checkpoints)
    assert not wrong, "\n".join(wrong)
    assert {label.split("@")[0] for _, there, good, _ in lines if good for label in there} == set(STAGES) - {
        "check"
    }
    assert [dotted for dotted, _, good, _ in lines if not good] == ["download.digits.classes"]


@pytest.mark.slow
def test_every_leaf(repo, commands, checkpoints, parsed_once, monkeypatch):
    """The table of all leaves: nothing runs after any of them is changed back."""
    monkeypatch.chdir(repo)
    names = [dotted for dotted, _ in leaves(read_yaml(repo / "params.yaml"))]
    lines, wrong = back_and_forth(repo, with_other, names, commands, checkpoints)
    write_table(lines)
    assert not wrong, "\n".join(wrong)
    assert {dotted for dotted, _, good, _ in lines if not good} == REFUSED
    assert not [dotted for dotted, there, _, _ in lines if not there]
    assert "Running stage" not in run("dvc", "repro", cwd=repo).stdout
