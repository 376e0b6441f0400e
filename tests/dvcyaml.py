"""What stands in dvc.yaml, and what a stage script imports."""

import ast
from pathlib import Path

from tiny import ROOT

STAGES = [
    "check",
    "download",
    "prepare",
    "init",
    "weights",
    "pretrain",
    "features",
    "finetune",
    "evaluate",
    "compare",
]


def leaves(content, prefix=""):
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# What can't change an output: errors, endings and progress only show, the schema and the limits only reject, what is fetched is held against its
# pin, the watch only ends, curves only listen and write
# elsewhere (tests/pipeline/test_live.py compares all bytes), and an __init__ has nothing but a docstring (vitscale's own says how threads wait).
HARMLESS = {
    f"src/vitscale/{name}.py"
    for name in (
        "base/endings",
        "base/errors",
        "base/progress",
        "base/answers",
        "base/fetch",
        "base/limits",
        "pipeline/schema",
        "pipeline/consistency",
        "runtime/watch",
        "training/curves",
    )
}


# What decides whether a params.yaml is refused: `check` must look again when it changes.
OF_THE_CHECK = {"src/vitscale/pipeline/schema.py", "src/vitscale/pipeline/consistency.py"}


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
