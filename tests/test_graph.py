"""Exact caching: what reruns when a parameter changes, and that dvc.yaml lists what a stage uses, all and only that."""

import ast
import copy
import importlib.util
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from ruamel.yaml import YAML

from tiny import ROOT, checkout, run
from vitscale.base.config import read_yaml
from vitscale.pipeline.stage import Stage

PARAMS = read_yaml(ROOT / "params.yaml")
ROWS, STARTS = list(PARAMS["rows"]), {name: entry["start"] for name, entry in PARAMS["rows"].items()}
RESNET, ELSEWHERE = (
    "resnet18-cifar100",
    [start for start in PARAMS["features"] if start in PARAMS["weights"]],
)  # with features
STAGES = ["download", "prepare", "init", "weights", "pretrain", "features", "finetune", "evaluate", "compare"]


def rows(names):
    """A row's fine-tuning changed: it is trained and scored again, and the table made anew."""
    return {f"{stage}@{name}" for name in names for stage in ("finetune", "evaluate")} | {"compare"}


def starting_from(*starts):
    return [name for name in ROWS if STARTS[name] in starts]


def trained_by(recipe):
    return [name for name in ROWS if PARAMS["rows"][name]["recipe"] == recipe]


def pretraining(*names):
    return {f"pretrain@{name}-cifar100" for name in names}


def features(*starts):
    return {f"features@{start}" for start in starts}


PREPARE = {"prepare@cifar10", "prepare@cifar100"}
TRAINING = (
    pretraining("vit", "resnet18") | features(RESNET) | rows(ROWS)
)  # a start from elsewhere has its features already
OF_CIFAR100 = pretraining("vit", "resnet18") | features(RESNET) | rows(starting_from("vit-cifar100", RESNET))

# For every leaf of params.yaml, by the longest prefix that stands here: the stages that run again.
TABLE = {
    "lr": TRAINING,
    "seed": {"init@vit", "init@resnet18"} | TRAINING,
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
    "models.vit": {"init@vit"} | pretraining("vit") | rows(starting_from("vit-cifar100", "vit-scratch")),
    "models.resnet18": {"init@resnet18"}
    | pretraining("resnet18")
    | features(RESNET)
    | rows(starting_from(RESNET, "resnet18-scratch")),
    **{f"recipes.{recipe}": rows(trained_by(recipe)) for recipe in PARAMS["recipes"]},
    "recipes.vit": pretraining("vit") | rows(starting_from("vit-cifar100") + trained_by("vit")),
    "recipes.resnet18": pretraining("resnet18")
    | features(RESNET)
    | rows(starting_from(RESNET) + trained_by("resnet18")),
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
    "resnet18": "vit",
    "light": "strong",
    "strong": "light",
    "medium": "light",
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
from vitscale.pipeline.stage import Stage
stage = Stage(Path(__file__).stem, sys.argv[1] if len(sys.argv) > 1 else None)
for out in map(Path, stage.declared["outs"]):
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(stage.label)
"""


def leaves(content, prefix=""):
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


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
def skeleton(tmp_path_factory):
    """The main dvc.yaml and params.yaml, run once with scripts that only leave a file where each output belongs."""
    folder = checkout(tmp_path_factory.mktemp("graph") / "repo")
    shutil.copy(ROOT / "params.yaml", folder)
    for stage in STAGES:
        (folder / "stages" / f"{stage}.py").write_text(STAND_IN)
    run("dvc", "repro", "-q", cwd=folder)
    return folder


@pytest.fixture
def parsed_once(monkeypatch):
    """The same text is parsed once: DVC parses params.yaml anew for every stage, which took three quarters of the time."""
    load, known = YAML.load, {}

    def remembering(self, text):
        key = (str(self.typ), text)
        if key not in known:
            known[key] = load(self, text)
        return copy.deepcopy(known[key])

    monkeypatch.setattr(YAML, "load", remembering)


def test_every_leaf_reruns_what_the_table_says(skeleton, parsed_once, monkeypatch):
    """A change to a parameter reruns what depends on it and nothing else, and no parameter is without effect."""
    monkeypatch.chdir(skeleton)
    params = read_yaml(skeleton / "params.yaml")
    wrong = []
    for dotted, _ in leaves(params):
        (skeleton / "params.yaml").write_text(yaml.safe_dump(with_change(params, dotted), sort_keys=False))
        again = {
            stage.addressing.split(":")[-1] for stage in Repo(".").reproduce(dry=True, force_downstream=True)
        }
        if again != expected(dotted) or not again:
            wrong.append(
                f"{dotted}: not expected {sorted(again - expected(dotted))}, missing {sorted(expected(dotted) - again)}"
            )
    assert not wrong, "\n".join(wrong)
    assert {
        next(p for p in (".".join(d.split(".")[:n]) for n in (2, 1)) if p in TABLE) for d, _ in leaves(params)
    } == set(TABLE)


def test_command_line_says_the_same(skeleton):
    """The table holds for what a person types, `dvc repro --dry --force-downstream`, too."""
    params = read_yaml(ROOT / "params.yaml")
    (skeleton / "params.yaml").write_text(
        yaml.safe_dump(with_change(params, "rows.vit-cifar100.epochs"), sort_keys=False)
    )
    text = run("dvc", "repro", "--dry", "--force-downstream", cwd=skeleton).stdout
    ran = {line.split("'")[1] for line in text.splitlines() if line.startswith("Running stage")}
    assert ran == rows(["vit-cifar100"])


def test_rules_of_the_table():
    for prefix, stages in TABLE.items():
        names = {stage.split("@")[0] for stage in stages}
        assert "download" not in names or prefix.startswith("download.")
        assert not names & {"pretrain", "features", "weights"} or not prefix.startswith("rows.")
        assert not prefix.startswith("models.vit") or not any("resnet18" in stage for stage in stages)


# What can't change an output: errors and progress only show, the schema only rejects, and an __init__ has nothing but a docstring.
HARMLESS = {
    f"src/vitscale/{name}.py"
    for name in ("base/errors", "base/progress", "pipeline/schema", "pipeline/consistency")
}


def modules_of(script: Path) -> set[str]:
    """Return the modules of the library that a file imports, as paths."""
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vitscale":
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("vitscale.")}
    paths = {f"src/{name.replace('.', '/')}.py" for name in found}
    return {path for path in paths if (ROOT / path).exists()}


def imported(script: Path, seen=None) -> set[str]:
    """Return the library files that a script imports, directly or not."""
    seen = set() if seen is None else seen
    for path in modules_of(script) - seen:
        seen.add(path)
        imported(ROOT / path, seen)
    return seen


def body(content, stage):
    return content["stages"][stage].get("do", content["stages"][stage])


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_what_is_imported(stage):
    listed = {
        dep.replace("${root}/", "")
        for dep in body(read_yaml(ROOT / "dvc.yaml"), stage)["deps"]
        if dep.endswith(".py")
    }
    files = imported(ROOT / "stages" / f"{stage}.py") - HARMLESS
    assert listed == files | {f"stages/{stage}.py"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, from_the_hub):
    """A copy of the finished pipeline, whose stages the tests below run again."""
    return shutil.copytree(from_the_hub, tmp_path_factory.mktemp("finished") / "repo", symlinks=True)


def entries():
    for stage in STAGES:
        for kind in ("params", "deps", "outs", "metrics", "plots"):
            for entry in body(read_yaml(ROOT / "dvc.yaml"), stage).get(kind, []):
                name = entry if isinstance(entry, str) else next(iter(entry))
                if not name.endswith(".py"):
                    yield pytest.param(stage, kind, entry, id=f"{stage}-{kind}-{name}")


def stage_main(name):
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module.main


KEY = {
    "download": "digits",
    "prepare": "digits",
    "init": "vit",
    "weights": "hub",
    "features": "hub",
    "pretrain": "vit-digits",
    "finetune": "vit-digits",
    "evaluate": "vit-digits",
    "compare": None,
}


def perform(name):
    stage = Stage(name, KEY[name])
    stage_main(name)(stage)
    stage.finish()


@contextmanager
def edited_pipeline(folder):
    """Yield dvc.yaml's content and a function that writes a changed one; the file is put back after the block."""
    path = folder / "dvc.yaml"
    original = path.read_text()

    def save(content):
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    try:
        yield yaml.safe_load(original), save
    finally:
        path.write_text(original)
        shutil.rmtree(folder / ".vitscale/partial", ignore_errors=True)


@pytest.mark.parametrize("stage, kind, entry", list(entries()))
def test_a_missing_entry_stops_the_stage(finished, hub_mirror, monkeypatch, stage, kind, entry):
    """Taking any one entry out of dvc.yaml makes the stage fail, so nothing that it uses can go undeclared."""
    monkeypatch.chdir(finished)
    monkeypatch.setenv("VITSCALE_MIRROR", str(hub_mirror[0]))
    with edited_pipeline(finished) as (content, save):
        body(content, stage)[kind].remove(entry)
        save(content)
        with pytest.raises(LookupError, match="dvc.yaml doesn't list"):
            perform(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_an_entry_too_many_stops_the_stage(finished, hub_mirror, monkeypatch, stage):
    monkeypatch.chdir(finished)
    monkeypatch.setenv("VITSCALE_MIRROR", str(hub_mirror[0]))
    with edited_pipeline(finished) as (content, save):
        body(content, stage)["params"].append("lr" if stage == "init" else "models.vit.depth")
        save(content)
        with pytest.raises(LookupError, match="never used"):
            perform(stage)


def test_stages_import_neither_dvc_nor_transformers():
    """A GPU node without DVC, transformers or scikit-learn runs every stage script."""
    code = (
        "import sys, runpy\n"
        "for name in ('dvc', 'transformers', 'sklearn', 'pandas', 'matplotlib'): sys.modules[name] = None\n"
        f"for stage in {STAGES}: runpy.run_path(f'{ROOT}/stages/{{stage}}.py', run_name='loaded')"
    )
    run(sys.executable, "-c", code, cwd=ROOT)
