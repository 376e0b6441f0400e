"""Experiments side by side, by the commands that the page gives."""

import re
import shlex

import pytest

from tiny import ROOT, run

PAGE = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
SHOW = re.findall(r"^    (dvc exp show .+)$", PAGE, re.MULTILINE)
DIFF = re.search(r"`(dvc metrics diff --targets \S+)`", PAGE)[1]


@pytest.mark.slow
def test_experiments_are_compared_in_eight_columns(repo, commands):
    """Catches a table with all files and parameters, one without validation accuracy, or one by which people choose on test images."""
    for name, change in (("faster", "lr=0.002"), ("longer", "rows.hub-probe.epochs=2")):
        run("dvc", "exp", "run", "-q", "-n", name, "-S", change, cwd=repo)
        run("git", "checkout", "-q", ".", cwd=repo)
    found = []
    for command in SHOW:
        head, _, *lines = run(*shlex.split(command, comments=True), "--md", cwd=repo).stdout.splitlines()
        assert len(list(filter(None, lines))) == 4  # the workspace, the commit and two experiments
        found.append(sorted(cell.strip() for cell in head.strip("| ").split("|")))
    changed = ["Created", "Experiment", "lr", "rows.hub-probe.epochs"]
    by_model = ["validation.hub", "validation.vit"]
    by_row = ["validation/hub-probe", "validation/vit-digits"]
    assert found == [sorted([*changed, *by_model]), sorted([*changed, *by_model, *by_row])]
    said = run(*DIFF.split(), "HEAD", "faster", "--all", cwd=repo).stdout
    for figure in ("test/vit-digits", "validation/vit-digits", "test/hub-probe", "validation/hub-probe"):
        assert re.search(rf"headline.json +{figure} ", said), said
