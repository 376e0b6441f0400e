"""params.yaml, as text and as values."""

import copy
from pathlib import Path

import torch
from hypothesis import strategies as st

from fuzzing import HOSTILE, accepted, damaged, damages, fuzz
from schemas import EXAMPLE, MAIN, leaves, parent_of
from tiny import ROOT
from vitscale.base.config import parse_yaml
from vitscale.base.entries import Pretraining, Row, Weights
from vitscale.data.augment import Policy
from vitscale.data.pins import Download
from vitscale.models.store import ModelConfig, build
from vitscale.pipeline.consistency import check
from vitscale.pipeline.graph import declared, pipeline_in
from vitscale.results.study import entries
from vitscale.training.optimizers import Recipe

TEXT = (ROOT / "examples/digits/params.yaml").read_bytes()
PIPELINE, _ = pipeline_in(ROOT)
BOMB = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (i, i, i - 1, i - 1) for i in range(98, 122))
TEXTS = [b"lr: 040", b"lr: 1:30", b"a: 1\na: 2", b"[" * 5000, b"? [a]\n: b", b"\xff\xfe", b"a: !!python/object/apply:os.system [id]", b"lr: " + b"9" * 6000, b"a: 0x", b"a: \x85", BOMB]  # fmt: skip


def paths(content: dict) -> list[tuple]:
    """Return the paths of all values, of sections and entries too."""
    found = list(leaves(content))
    return sorted({path[:end] for path in found for end in range(1, len(path) + 1)}, key=str)


@st.composite
def changes(draw) -> dict:
    """Draw parameters with one to three things wrong: a value, a key too many, too few, of another name, of another section."""
    content = copy.deepcopy(draw(st.sampled_from([MAIN, EXAMPLE])))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(content)))
        try:
            parent = parent_of(content, path)
            old = parent[path[-1]]
        except (KeyError, TypeError, IndexError):  # gone by an earlier change
            continue
        kind = draw(st.sampled_from(["value", "value", "value", "add", "delete", "rename", "move"]))
        if kind == "value":
            parent[path[-1]] = draw(HOSTILE | st.integers() | st.floats() | st.text(max_size=20))
        elif kind == "delete":
            del parent[path[-1]]
        elif kind == "move":
            parent[path[-1]] = copy.deepcopy(draw(st.sampled_from([content[name] for name in content])))
        else:
            name = draw(
                st.text(max_size=20) | HOSTILE.filter(lambda each: isinstance(each, str | int | float | None))
            )
            parent[name] = old if kind == "add" else parent.pop(path[-1])
    return content


def test_the_whole_files_are_accepted():
    """The fuzz tests refuse whatever they are given."""
    builds(MAIN)
    builds(EXAMPLE)


def builds(params: dict) -> None:
    """Build from accepted parameters what the stages do; models on the meta device."""
    assert declared(PIPELINE, params)
    (
        entries(Row, params["rows"]),
        entries(Pretraining, params["pretrain"]),
        entries(Weights, params["weights"]),
    )
    (
        entries(Download, params["download"]),
        entries(Recipe, params["recipes"]),
        entries(Policy, params["augment"]),
    )
    for entry in params["models"].values():
        with torch.device("meta"):
            build(ModelConfig.untrained(entry))


@fuzz(changes(), 150)
def test_values(params):
    """A value that no stage can use is accepted, or ends in a traceback, a hang or lines that can't be printed."""

    def whole():
        check(params)
        return True

    if accepted(whole, Path("/nowhere"), "params.yaml: "):
        accepted(lambda: builds(params), Path("/nowhere"))


@fuzz(damages().map(lambda places: damaged(TEXT, places)), 150, TEXTS)
def test_text(text):
    """A damaged params.yaml, or one made to hurt a parser of YAML, ends in a traceback, a hang or a command that runs."""

    def read():
        content = parse_yaml(text, "params.yaml")
        check(content)
        return content

    if params := accepted(read, Path("/nowhere"), "params.yaml"):
        accepted(lambda: builds(params), Path("/nowhere"))
