"""The rooms of src/vitscale: who may import whom, and how large a module may be."""

import ast

import pytest

from dvcyaml import modules_of
from tiny import ROOT

FLOORS = {
    "base": 0,
    "runtime": 1,
    "data": 2,
    "models": 2,
    "training": 3,
    "results": 3,
    "pipeline": 4,
    "commands": 5,
}
MODULES = sorted((ROOT / "src/vitscale").glob("*/*.py"))


def room(path) -> str:
    return path.split("/")[2]


def test_the_rooms_are_those_of_the_map():
    assert {path.parent.name for path in MODULES} == set(FLOORS)


@pytest.mark.parametrize(
    "module", MODULES, ids=lambda path: path.relative_to(ROOT / "src/vitscale").as_posix()
)
def test_imports_run_downward(module):
    """A module imports an upper floor, or another room on its own."""
    own = module.parent.name
    for path in modules_of(module):
        assert room(path) == own or FLOORS[room(path)] < FLOORS[own], f"{own} imports {path}"


def test_no_circle():
    """Two modules of a room import each other, directly or not."""
    needs = {path.relative_to(ROOT).as_posix(): modules_of(path) for path in MODULES}
    while free := [name for name, wanted in needs.items() if not wanted & set(needs)]:
        for name in free:
            del needs[name]
    assert not needs


@pytest.mark.parametrize("script", sorted((ROOT / "stages").glob("*.py")), ids=lambda path: path.stem)
def test_a_stage_is_thin(script):
    """A stage imports commands, or grows into a library of its own."""
    assert {room(path) for path in modules_of(script)} <= set(FLOORS) - {"commands"} and len(
        script.read_text().splitlines()
    ) < 60


def test_training_knows_no_stage():
    """The loop knows a stage, params.yaml or DVC."""
    text = (ROOT / "src/vitscale/training/loop.py").read_text()
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert not names & {"Stage", "read_yaml"} and "import dvc" not in text


def test_packages_hold_a_docstring_alone():
    """Code in an __init__ would be run by every stage, and no stage lists it; the first one says how threads wait."""
    for path in (ROOT / "src/vitscale").rglob("__init__.py"):
        first, *rest = ast.parse(path.read_text()).body
        assert isinstance(first, ast.Expr) and isinstance(first.value.value, str), path
        if path.parent.name == "vitscale":
            assert [ast.unparse(each).splitlines()[-1].strip() for each in rest] == [
                "import os",
                "os.environ.setdefault('GOMP_SPINCOUNT', '3000')",
            ]
        else:
            assert not rest, path


@pytest.mark.parametrize("folder", ["src", "stages", "benchmarks", "tools", "tests"])
def test_no_file_is_long(folder):
    """A module over 300 lines no longer reads as one idea."""
    long = {
        path.name: count
        for path in (ROOT / folder).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 300
    }
    assert not long
