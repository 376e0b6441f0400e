"""Back and forth: a value that has been run comes from DVC's cache, wherever it is asked for and whoever ran it.

Most of it runs on the wide pipeline: the tiny one with an entry in every section, so that every kind of stage and parameter
stands in it. Its stages are forked from a process that has imported torch (`forked`), since a second in each would be that.
"""

import contextlib
import copy
import os
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from PIL import Image

from forked import start, wait_for
from test_graph import STAGES, leaves, parsed_once  # noqa: F401 (a fixture)
from tiny import PARAMS, ROOT, checkout, outputs, run, write_params
from vitscale.base.config import read_yaml
from vitscale.base.digests import digest
from vitscale.data.sources import open_source, write_split
from vitscale.pipeline.graph import find

OFF = {
    "crop_padding": 0,
    "flip": False,
    "trivial_augment": False,
    "erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}

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


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    commands, server = start(tmp_path_factory.mktemp("python"))
    yield commands
    server.kill()
    server.wait()


@pytest.fixture
def commands(forked, monkeypatch):
    """The stages that run in this test, quickly."""
    forked.put_first(monkeypatch)
    forked.new()
    return forked


@pytest.fixture(autouse=True)
def checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return tmp_path / "checkpoints"


@pytest.fixture(scope="module")
def mirror(hub_mirror, tmp_path_factory):
    """The hub's ViT, under two names, and 60 pictures in two classes."""
    folder = tmp_path_factory.mktemp("mirrors") / "mirror"
    for name in ("someone", "other"):
        shutil.copytree(hub_mirror[0] / "someone", folder / name)
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)):
        path = (
            folder / "photos" / ("train" if i < 48 else "test") / ("dawn" if i % 2 else "dusk") / f"{i}.png"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels // 2 + i % 2 * 99).save(path)
    return folder


def wide_params(mirror, hub, scratch):
    """Return the tiny parameters with an entry in every section."""
    source = open_source("photos", {"source": "cifar10"})
    photos = {
        "source": "cifar10",
        "sha256": {split: write_split(source, split, scratch / split) for split in ("train", "test")},
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


@pytest.fixture(scope="module")
def wide(forked, mirror, hub_mirror, tmp_path_factory):
    """The wide pipeline, run and committed; tests copy it."""
    with pytest.MonkeyPatch.context() as patch:
        forked.put_first(patch)
        patch.setenv("VITSCALE_MIRROR", str(mirror))
        patch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path_factory.mktemp("checkpoints")))
        folder = checkout(tmp_path_factory.mktemp("wide") / "repo")
        params = wide_params(mirror, hub_mirror[1], tmp_path_factory.mktemp("scratch"))
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        run("dvc", "repro", "-q", cwd=folder)
        return committed(folder)


@pytest.fixture
def repo(wide, mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("VITSCALE_MIRROR", str(mirror))
    return shutil.copytree(wide, tmp_path / "repo", symlinks=True)


def state(folder):
    """Return the digest of every output, of dvc.lock and of params.yaml."""
    return outputs(folder) | {name: digest(folder / name) for name in ("dvc.lock", "params.yaml")}


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


def test_a_handful_of_leaves(repo, commands, checkpoints, parsed_once, monkeypatch):  # noqa: F811
    """Catches a kind of stage whose runs DVC doesn't keep, or that leaves other bytes; a refused run that costs something."""
    monkeypatch.chdir(repo)
    lines, wrong = back_and_forth(repo, with_other, HANDFUL, commands, checkpoints)
    assert not wrong, "\n".join(wrong)
    assert {label.split("@")[0] for _, there, good, _ in lines if good for label in there} == set(STAGES)
    assert [dotted for dotted, _, good, _ in lines if not good] == ["download.digits.classes"]


@pytest.mark.slow
def test_every_leaf(repo, commands, checkpoints, parsed_once, monkeypatch):  # noqa: F811
    """The table of all leaves: nothing runs after any of them is changed back."""
    monkeypatch.chdir(repo)
    names = [dotted for dotted, _ in leaves(read_yaml(repo / "params.yaml"))]
    lines, wrong = back_and_forth(repo, with_other, names, commands, checkpoints)
    write_table(lines)
    assert not wrong, "\n".join(wrong)
    assert {dotted for dotted, _, good, _ in lines if not good} == REFUSED
    assert not [dotted for dotted, there, _, _ in lines if not there]
    assert "Running stage" not in run("dvc", "repro", cwd=repo).stdout


# The same for experiments, and over branches and a remote


# What runs where only the learning rate is another one.
TRAINING = [
    "compare",
    "evaluate@hub-probe",
    "evaluate@vit-digits",
    "finetune@hub-probe",
    "finetune@vit-digits",
    "pretrain@vit-digits",
]


@pytest.mark.parametrize(
    "way",
    [
        "workspace",
        pytest.param("temp", marks=pytest.mark.slow),
        pytest.param("queue", marks=pytest.mark.slow),
    ],
)
def test_an_experiment_on_a_value_that_was_run(repo, commands, checkpoints, way):
    """Catches an experiment that trains what another one, wherever it ran, has trained."""
    options = {"workspace": [], "temp": ["--temp"], "queue": ["--queue"]}[way]

    def experiment(name, *more):
        run("dvc", "exp", "run", "-n", name, "-S", "lr=0.002", *more, *options, cwd=repo)
        if way == "queue":
            run("dvc", "exp", "run", "--run-all", cwd=repo)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return commands.new()

    assert sorted(experiment("first")) == TRAINING
    if way == "workspace":
        run("git", "checkout", "-q", ".", cwd=repo)
    assert experiment("second", "-S", "published.hub-probe.images=2") == ["compare"]
    run("dvc", "exp", "apply", "first", cwd=repo)
    run("dvc", "repro", cwd=repo)
    assert commands.new() == []


@pytest.mark.slow
def test_another_branch_and_back(repo, commands, checkpoints):
    """Catches a branch whose committed lock makes another one's runs be forgotten."""
    run("git", "checkout", "-qb", "faster", cwd=repo)
    write_params(repo, lr=0.002)
    run("dvc", "repro", cwd=repo)
    committed(repo)
    assert sorted(commands.new()) == TRAINING
    for branch in ("main", "faster", "main"):
        run("git", "checkout", "-q", branch, cwd=repo)
        shutil.rmtree(checkpoints, ignore_errors=True)
        run("dvc", "repro", cwd=repo)
        assert commands.new() == [] and run("git", "status", "--porcelain", cwd=repo).stdout == ""


def test_a_colleague_runs_nothing_again(repo, commands, tmp_path, monkeypatch):
    """Catches runs whose record, outputs or metrics stay behind: `dvc push --run-cache` leaves out all but the workspace's."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    first, second = repo, tmp_path / "second"
    run("dvc", "remote", "add", "-q", "-d", "storage", str(tmp_path / "storage"), cwd=first)
    committed(first)
    run("git", "clone", "-q", str(first), str(second), cwd=tmp_path)
    states = {}
    for lr in (0.002, 1e-3):
        write_params(first, lr=lr)
        run("dvc", "repro", cwd=first)
        states[lr] = state(first)
    assert sorted(commands.new()) == TRAINING
    run("python3", "-m", "vitscale", "runs", "push", cwd=first)
    run("python3", "-m", "vitscale", "runs", "fetch", "--pipeline", str(second), cwd=tmp_path)
    for lr in (1e-3, 0.002, 1e-3):
        write_params(second, lr=lr)
        run("dvc", "repro", cwd=second)
        assert commands.new() == [] and state(second) == states[lr]
    failed = run("python3", "-m", "vitscale", "runs", "fetch", "--remote", "nowhere", cwd=second, check=False)
    assert (
        failed.returncode == 1
        and failed.stderr == "error: config file error: remote 'nowhere' doesn't exist\n"
    )


@pytest.mark.slow
def test_what_was_pulled_is_a_run_too(repo, commands, tmp_path):
    """Catches a README whose `dvc commit -f` doesn't make runs of what a pull brought: back from a change they would run again."""
    run("dvc", "remote", "add", "-q", "-d", "storage", str(tmp_path / "storage"), cwd=repo)
    committed(repo)
    run("dvc", "push", cwd=repo)
    clone = tmp_path / "clone"
    run("git", "clone", "-q", str(repo), str(clone), cwd=tmp_path)
    run("dvc", "pull", cwd=clone)
    run("dvc", "commit", "-f", cwd=clone)
    before, text = state(clone), (clone / "params.yaml").read_text()
    write_params(clone, lr=0.003)
    run("dvc", "repro", cwd=clone)
    assert sorted(commands.new()) == TRAINING
    (clone / "params.yaml").write_text(text)
    run("dvc", "repro", cwd=clone)
    assert commands.new() == [] and state(clone) == before


# What stands in for the cache until DVC has the outputs


def test_a_whole_run_leaves_no_state(repo, commands, checkpoints):
    """Catches states of finished trainings that pile up: a ResNet-18's takes 45 MB."""
    write_params(repo, lr=0.002)
    run("dvc", "repro", cwd=repo)
    assert len(list(checkpoints.glob("*.lock"))) == 3 and not list(checkpoints.glob("*.pt"))


def test_dvc_killed_before_it_has_the_outputs(done, checkpoints, tmp_path):
    """Catches a state that goes as soon as the training is over, or because the lock of a fresh clone has the very outputs."""
    run("git", "clone", "-q", str(done), str(tmp_path / "repo"), cwd=tmp_path)
    folder = tmp_path / "repo"
    (folder / "dvc.yaml").write_text(
        (folder / "dvc.yaml").read_text().replace("finetune.py ${key}", "finetune.py ${key} && kill -9 $PPID")
    )
    run("dvc", "repro", cwd=folder, check=False)
    assert list(checkpoints.glob("finetune@vit-digits-*.pt")) and list(
        (folder / ".vitscale/trained").glob("finetune@vit-digits-*")
    )
    again = run("dvc", "repro", cwd=folder, check=False).stdout
    assert "nothing left to train after epoch 1 of 1, from " in again and "epoch 1/1" not in again
    run("git", "checkout", "-q", "dvc.yaml", cwd=folder)
    again = run("dvc", "repro", cwd=folder).stdout
    assert "nothing left to train" in again and not list(checkpoints.glob("*.pt"))


def test_stopped_by_the_keyboard(done, checkpoints, tmp_path):
    """Catches a Ctrl-C that doesn't say what is kept and how to go on."""
    folder = shutil.copytree(done, tmp_path / "repo", symlinks=True)
    write_params(folder, rows__vit_digits__epochs=300)
    process = subprocess.Popen(
        ["dvc", "repro", "finetune@vit-digits"],
        cwd=folder,
        start_new_session=True,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # below, since a shell's background job ignores SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: list(checkpoints.glob("finetune@*.pt")))
    os.killpg(process.pid, signal.SIGINT)
    said = re.search(r"stopped; run it again to go on after epoch (\d+) of 300\n", process.communicate()[1])
    process = subprocess.Popen(
        ["dvc", "repro", "finetune@vit-digits"],
        cwd=folder,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert any(
        f"going on after epoch {said[1]} of 300, from {checkpoints}/finetune@vit-digits" in line
        for line in process.stdout
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


# Refused values and entries that are gone


def test_a_refused_value_names_the_way_back(repo, commands):
    """Catches an error after which the removed outputs must be trained again, or the command in it does something else."""
    before = state(repo)
    failed = run("dvc", "exp", "run", "-S", "lr=abc", cwd=repo, check=False)
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert (
        failed.returncode != 0
        and errors[0] == "error: params.yaml: lr: input should be a valid number (is: 'abc')"
    )
    assert state(repo) != before and commands.new() == ["pretrain@vit-digits"]
    [line] = [each for each in re.findall("`([^`]*)`", errors[1]) if "git" in each]
    subprocess.run(line, shell=True, cwd=repo, check=True, capture_output=True)
    assert state(repo) == before and commands.new() == []


def without(folder, *entries):
    params = read_yaml(folder / "params.yaml")
    for section, name in entries:
        del params[section][name]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def test_taking_away(repo, commands, monkeypatch):
    """Catches outputs or parts of the lock that stay when a row, a start or a data set is taken away, or that go before."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    before, text = state(repo), (repo / "params.yaml").read_text()

    def prune(*options):
        return run("python3", "-m", "vitscale", "prune", *options, cwd=repo).stdout.splitlines()

    assert prune() == ["nothing is left over"] and state(repo) == before
    without(
        repo,
        ("rows", "hub-probe"),
        ("features", "hub"),
        ("weights", "hub"),
        ("download", "photos"),
        ("prepare", "photos"),
    )
    said = run("dvc", "repro", cwd=repo).stdout
    assert (
        "no entry for metrics/rows/hub-probe.json, metrics/history/finetune/hub-probe.json; " in said
        and "vitscale prune`" in said
    )
    as_run = state(repo)
    named = prune("--dry")
    assert state(repo) == as_run and "dvc.lock: weights@hub" in named and "data/raw/photos/train" in named
    kept = repo / "models/finetuned/hub-probe/config.json"
    kept.chmod(0o644)
    kept.write_text("mine")
    assert (
        "models/finetuned/hub-probe stays: it is not what finetune@hub-probe left" in prune()
        and kept.read_text() == "mine"
    )
    gone = "photos", "hub"
    assert not [
        name for name in state(repo) if any(word in name for word in gone) and "models/finetuned" not in name
    ]
    assert not [
        label
        for label in read_yaml(repo / "dvc.lock")["stages"]
        if label.split("@")[-1] in (*gone, "hub-probe")
    ]
    commands.new()
    run("dvc", "repro", cwd=repo)
    assert (
        commands.new() == ["compare"]
        and run("dvc", "status", cwd=repo).stdout.strip() == "Data and pipelines are up to date."
    )
    assert all(
        line.startswith((" D", " M"))
        for line in run("git", "status", "--porcelain", cwd=repo).stdout.splitlines()
    )
    shutil.rmtree(repo / "models/finetuned/hub-probe")
    (repo / "params.yaml").write_text(text)
    run("dvc", "repro", cwd=repo)
    now = state(repo)
    assert commands.new() == [] and {name for name in before | now if before.get(name) != now.get(name)} <= {
        "dvc.lock"
    }  # in another order
