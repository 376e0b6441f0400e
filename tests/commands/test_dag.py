"""`vitscale dag` and the pictures of stages in the pages."""

import re

import pytest

from tiny import ROOT, run
from vitscale.commands.dag import edges
from vitscale.commands.main import main
from vitscale.pipeline.graph import declared, pipeline_in


def stages_of(pipeline):
    return declared(*pipeline_in(ROOT / pipeline))


@pytest.mark.parametrize("pipeline", [".", "examples/digits", "examples/scaling"])
def test_the_arrows_are_those_of_dvc(pipeline):
    """Catches an arrow that is missing or one too many, as DVC's own graph tells, or a stage without a box."""
    said = run("dvc", "dag", "--md", "--collapse-foreach-matrix", cwd=ROOT / pipeline).stdout
    names = dict(re.findall(r'^\t(node\d+)\["(.+)"\]$', said, re.MULTILINE))
    arrows = {(names[a], names[b]) for a, b in re.findall(r"(node\d+)-->(node\d+)", said)}
    found = stages_of(pipeline)
    assert edges(found) == {arrow for arrow in arrows if arrow[0] != "check"} and len(arrows) > 15
    assert {label.split("@")[0] for label in found} == set(names.values())


def test_entries_are_counted_and_the_page_has_the_picture(capsys, monkeypatch):
    """Catches a stage, a row or an arrow that came to dvc.yaml and not to docs/study.md: `vitscale dag` makes it."""
    monkeypatch.chdir(ROOT)
    main(["dag"])
    said = capsys.readouterr().out
    rows = sum(label.startswith("finetune@") for label in stages_of("."))
    assert f'  finetune["finetune × {rows}"]\n' in said and '  compare["compare"]\n' in said
    assert said in (ROOT / "docs/study.md").read_text(encoding="utf-8")


def test_the_readme_draws_the_same_stages():
    """Catches an arrow in README.md's picture that dvc.yaml doesn't have, or one of dvc.yaml's that no way in it stands for."""
    [text] = re.findall(r"```mermaid\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    drawn = set()
    for line in text.splitlines()[1:]:
        groups = [re.findall(r"\b[a-z]{3,}\b", part) for part in line.split("-->")]
        if "-.->" in line:  # from what is edited
            groups[0] = re.findall(r"\b[a-z]{3,}\b", line.split("-.->")[1].split("-->")[0])
        for firsts, seconds in zip(groups, groups[1:]):
            drawn |= {(first, second) for first in firsts for second in seconds}
    real = edges(stages_of("."))
    assert drawn and drawn <= real
    ways = set(drawn)
    for _ in real:
        ways |= {(a, d) for a, b in ways for c, d in drawn if b == c}
    assert real <= ways
