"""Exact caching: what reruns when a parameter changes."""

import copy
import shutil

import pytest
import yaml
from dvc.repo import Repo
from networkx import ancestors

from dvcyaml import STAGES, leaves
from tiny import ROOT, checkout, run, stages_run
from vitscale.base.config import read_yaml

PARAMS = read_yaml(ROOT / "params.yaml")
ROWS, STARTS = list(PARAMS["rows"]), {name: entry["start"] for name, entry in PARAMS["rows"].items()}
RESNET, ELSEWHERE = (
    "resnet18-cifar100",
    [start for start in PARAMS["features"] if start in PARAMS["weights"]],
)  # with features


def rows(names):
    """A row's fine-tuning changed: it is trained and scored again, and the table made anew."""
    return {f"{stage}@{name}" for name in names for stage in ("finetune", "evaluate")} | {"compare"}


def starting_from(*starts):
    return [name for name in ROWS if STARTS[name] in starts]


def trained_by(recipe):
    return [name for name in ROWS if PARAMS["rows"][name]["recipe"] == recipe]


def pretraining(*models):
    return {f"pretrain@{name}" for name, entry in PARAMS["pretrain"].items() if entry["model"] in models}


def features(*starts):
    return {f"features@{start}" for start in starts}


PREPARE = {"prepare@cifar10", "prepare@cifar100"}
TRAINING = (
    pretraining(*PARAMS["models"]) | features(RESNET) | rows(ROWS)
)  # a start from elsewhere has its features already
OF_CIFAR100 = pretraining(*PARAMS["models"]) | features(RESNET) | rows(starting_from(*PARAMS["pretrain"]))

# For every leaf of params.yaml, by the longest prefix that stands here: the stages that run again.
TABLE = {
    "lr": TRAINING,
    "seed": {f"init@{model}" for model in PARAMS["models"]} | TRAINING,
    "split_seed": PREPARE | TRAINING | features(*ELSEWHERE),
    "precision": TRAINING | features(*ELSEWHERE),
    "target": PREPARE | TRAINING | features(*ELSEWHERE),
    "download.cifar10": {"download@cifar10"}
    | PREPARE
    | TRAINING
    | features(*ELSEWHERE),  # its test split is held against every training set
    "download.cifar100": {"download@cifar100", "prepare@cifar100"} | OF_CIFAR100,
    "prepare.cifar10": {"prepare@cifar10"} | features(RESNET, *ELSEWHERE) | rows(ROWS),
    "prepare.cifar100": {"prepare@cifar100"} | OF_CIFAR100,
    "augment": PREPARE
    | TRAINING
    | features(*ELSEWHERE),  # every preview is drawn again; its data come out the same (test_pipeline.py)
    "models.vit_hybrid": {"init@vit_hybrid"}
    | pretraining("vit_hybrid")
    | rows(starting_from("vit_hybrid-cifar100")),
    "models.vit": {"init@vit"} | pretraining("vit") | rows(starting_from("vit-cifar100", "vit-scratch")),
    "models.resnet18": {"init@resnet18"}
    | pretraining("resnet18")
    | features(RESNET)
    | rows(starting_from(RESNET, "resnet18-scratch")),
    **{f"recipes.{recipe}": rows(trained_by(recipe)) for recipe in PARAMS["recipes"]},
    "recipes.vit": pretraining("vit", "vit_hybrid") | rows(starting_from("vit-cifar100") + trained_by("vit")),
    "recipes.resnet18": pretraining("resnet18")
    | features(RESNET)
    | rows(starting_from(RESNET) + trained_by("resnet18")),
    "pretrain.vit_hybrid-cifar100": pretraining("vit_hybrid") | rows(starting_from("vit_hybrid-cifar100")),
    "pretrain.vit-cifar100": pretraining("vit") | rows(starting_from("vit-cifar100")),
    "pretrain.resnet18-cifar100": pretraining("resnet18") | features(RESNET) | rows(starting_from(RESNET)),
    **{
        f"weights.{start}": {f"weights@{start}"} | features(start) | rows(starting_from(start))
        for start in PARAMS["weights"]
    },
    **{f"rows.{name}": rows([name]) for name in ROWS},
    "published": {"compare"},
}
OTHER = {
    "cifar10": "cifar100",
    "cifar100": "cifar10",
    "vit": "resnet18",
    "vit_hybrid": "vit",
    "vit_hybrid-cifar100": "vit-scratch",
    "resnet18": "vit",
    "light": "strong",
    "strong": "light",
    "medium": "light",
    "erasing": "light",
    "none": "light",
    "vit-cifar100": "vit-scratch",
    RESNET: "resnet18-scratch",
    "vit-scratch": "resnet18-scratch",
    "resnet18-scratch": "vit-scratch",
    "prepared": f"features/{RESNET}",
    **dict.fromkeys(PARAMS["weights"], "vit-scratch"),
    **{f"features/{start}": "prepared" for start in PARAMS["features"]},
    **{recipe: "vit" for recipe in PARAMS["recipes"] if recipe not in ("vit", "resnet18")},
}

STAND_IN = """import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from vitscale.pipeline.stage import Stage, key_for
name = Path(__file__).stem
stage = Stage(name, key_for(name, sys.argv[1:]))
for out in map(Path, stage.declared["outs"]):
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(stage.label)
"""


def changed(value):
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 + 0.001
        case list():
            return value[:-1] or [8]
        case None:
            return "0" * 64
    return OTHER.get(value, value + "x")


def with_change(params, dotted):
    params = copy.deepcopy(params)
    *parents, leaf = dotted.split(".")
    entry = params
    for parent in parents:
        entry = entry[parent]
    entry[leaf] = changed(entry[leaf])
    return params


def expected(dotted):
    parts = dotted.split(".")
    return next(
        (
            TABLE[prefix]
            for prefix in (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            if prefix in TABLE
        ),
        set(),
    )


@pytest.fixture(scope="module")
def skeleton(forked, tmp_path_factory):
    """The main dvc.yaml and params.yaml, run once with scripts that only leave a file where each output belongs."""
    folder = checkout(tmp_path_factory.mktemp("graph") / "repo")
    shutil.copy(ROOT / "params.yaml", folder)
    for stage in STAGES:
        (folder / "stages" / f"{stage}.py").write_text(STAND_IN)
    run("dvc", "repro", "-q", cwd=folder)
    # `check` runs at every change, and to a dry run everything waits for what runs.
    pipeline = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(pipeline.replace("  check:\n", "  check:\n    frozen: true\n"))
    return folder


def as_the_table_says(names, reruns):
    """Hold what a function says of each leaf against the table. A change reruns what depends on it and nothing else."""
    wrong = []
    for dotted in names:
        again = {stage.addressing.split(":")[-1] for stage in reruns(dotted)}
        if again != expected(dotted) or not again:
            wrong.append(
                f"{dotted}: not expected {sorted(again - expected(dotted))}, missing {sorted(expected(dotted) - again)}"
            )
    assert not wrong, "\n".join(wrong)


def test_every_leaf_reruns_what_the_table_says(skeleton, monkeypatch):
    """A parameter is without effect, or stands with a stage that it doesn't change: from what DVC reads in dvc.yaml."""
    monkeypatch.chdir(skeleton)
    index = Repo(".").index

    def reruns(dotted):
        listing = [
            stage
            for stage in index.stages
            if stage.name != "check"
            and any(f"{dotted}.".startswith(f"{name}.") for each in stage.params for name in each.params)
        ]
        return {
            each for stage in listing for each in (stage, *ancestors(index.graph, stage))
        }  # DVC's arrows lead to what a stage needs

    as_the_table_says([dotted for dotted, _ in leaves(PARAMS)], reruns)
    assert {
        next(p for p in (".".join(d.split(".")[:n]) for n in (2, 1)) if p in TABLE) for d, _ in leaves(PARAMS)
    } == set(TABLE)


def some_leaves():
    """Return the first leaf of each section, and the first of each kind that names another entry: it changes the graph."""
    kinds = {}
    for dotted, value in leaves(PARAMS):
        section, leaf = dotted.split(".")[0], dotted.split(".")[-1]
        kinds.setdefault((section, leaf if str(value) in OTHER else ""), dotted)
    return list(kinds.values())


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(some_leaves(), id="some"),
        pytest.param([dotted for dotted, _ in leaves(PARAMS)], id="all", marks=pytest.mark.slow),
    ],
)
def test_what_dvc_reruns_is_what_the_table_says(skeleton, parsed_once, monkeypatch, names):
    """DVC reruns something else when a parameter changes than the test above takes from dvc.yaml."""
    monkeypatch.chdir(skeleton)

    def reruns(dotted):
        (skeleton / "params.yaml").write_text(yaml.safe_dump(with_change(PARAMS, dotted), sort_keys=False))
        return Repo(".").reproduce(dry=True, force_downstream=True)

    assert len(names) > 20
    as_the_table_says(names, reruns)


def test_command_line_says_the_same(skeleton):
    """The table holds for what a person types, `dvc repro --dry --force-downstream`, too."""
    params = read_yaml(ROOT / "params.yaml")
    (skeleton / "params.yaml").write_text(
        yaml.safe_dump(with_change(params, "rows.vit-cifar100.epochs"), sort_keys=False)
    )
    text = run("dvc", "repro", "--dry", "--force-downstream", cwd=skeleton).stdout
    assert set(stages_run(text)) == rows(["vit-cifar100"])


def test_rules_of_the_table():
    for prefix, stages in TABLE.items():
        names = {stage.split("@")[0] for stage in stages}
        assert "download" not in names or prefix.startswith("download.")
        assert not names & {"pretrain", "features", "weights"} or not prefix.startswith("rows.")
        assert not prefix.startswith("models.vit") or not any("resnet18" in stage for stage in stages)
