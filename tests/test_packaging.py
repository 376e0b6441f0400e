"""pyproject.toml, the lock, pre-commit, CI and the citation say the same."""

import ast
import importlib.metadata
import pkgutil
import re
import shlex
import sys
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lean import pins
from tiny import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(line) for group in [PROJECT["dependencies"], *GROUPS.values()] for line in group]
LINES = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
LOCK = {
    canonicalize_name(pin.name): pin
    for pin in map(Requirement, (line for line in LINES if line != "-e ."))
    if pin.marker is None or pin.marker.evaluate()
}


def version(name: str) -> str:
    return str(LOCK[name].specifier).removeprefix("==")


def hooks() -> list[dict]:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    return config["repos"][0]["hooks"]


def test_the_lock_has_the_package_itself_and_one_exact_version_of_all_else():
    """Catches a range, a second version of a package, and a lock that leaves the package out."""
    assert LINES.count("-e .") == 1
    names = []
    for line in LINES:
        if line != "-e .":
            names.append(re.match(r"[a-z0-9-]+==[0-9][^*;,\s]*( ; .+)?$", line) and line.split("==")[0])
    assert None not in names and len(names) == len(set(names)) > 100


def test_the_lock_was_made_from_every_group():
    """Catches a new group of pyproject.toml that requirements.in doesn't name, and a lock made by another command."""
    text = (ROOT / "requirements.in").read_text()
    assert set(re.search(r"^-e \.\[(.+)\]$", text, re.MULTILINE)[1].split(",")) == set(GROUPS)
    assert "uv pip compile requirements.in --universal" in (ROOT / "requirements.txt").read_text()


def test_the_lock_holds_all_that_the_direct_dependencies_lead_to():
    """Catches a dependency that was added or raised without a new lock: pip would search for it then."""
    seen, missing = set(), []
    todo = [(need, "pyproject.toml") for need in DIRECT]
    while todo:
        need, by = todo.pop()
        name = canonicalize_name(need.name)
        if name not in LOCK or not need.specifier.contains(version(name), prereleases=True):
            missing.append(f"{by} needs {need}, locked is {LOCK.get(name)}")
            continue
        for extra in {"", *need.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in importlib.metadata.requires(name) or []:
                further = Requirement(line)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    todo.append((further, name))
    assert not missing
    assert {name for name, _ in seen} == set(LOCK)


def test_what_the_code_imports_is_a_direct_dependency():
    """Catches an import of what only another package brings, which a new version of that one may drop."""
    groups = [each for name, each in GROUPS.items() if name != "test"]
    run = {canonicalize_name(Requirement(line).name) for line in sum(groups, PROJECT["dependencies"])}
    owners = importlib.metadata.packages_distributions()
    imported = {}
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("stages/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported[node.module.split(".")[0]] = path
    others = {name for name in imported if name not in sys.stdlib_module_names and name != "vitscale"}
    assert {"torch", "yaml"} < others
    assert {
        name: str(imported[name])
        for name in others
        if not run & {canonicalize_name(owner) for owner in owners.get(name, [])}
    } == {}


def test_a_commit_runs_the_tools_of_the_lock_with_the_commands_of_ci():
    """Catches a hook that brings a version of its own, and a check that a commit, .ci/run or the workflow leaves out."""
    assert {hook["language"] for hook in hooks()} == {"system"}
    commands = [hook["entry"] for hook in hooks() if shlex.split(hook["entry"])[0] in LOCK]
    assert [command.split()[0] for command in commands] == ["ruff", "ruff", "mypy"]
    for file in [".ci/run", ".github/workflows/pull-request.yml"]:
        text = (ROOT / file).read_text()
        assert "pip install" in text and "-r requirements.txt" in text
        for command in commands:
            assert command in text, (file, command)


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"]
    assert citation["authors"][0]["name"] in (ROOT / "LICENSE").read_text()


def test_the_command_is_there():
    """Catches a program that was moved: `vitscale` would fail at its first import."""
    assert callable(pkgutil.resolve_name(PROJECT["scripts"]["vitscale"]))


def test_the_lean_lock_has_the_pins_of_the_whole_one():
    """Catches a package of which `vitscale predict` has another version than the tests."""
    whole, lean = pins("requirements.txt"), pins("requirements-predict.txt")
    assert len(lean) > 50 and "torch" not in lean
    bare = {
        name: {line.split(" ;")[0] for line in lines} for name, lines in whole.items()
    }  # markers may differ
    lacking = {
        name: lines for name, lines in lean.items() if {line.split(" ;")[0] for line in lines} - bare[name]
    }
    assert lacking == {}
