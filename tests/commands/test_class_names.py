"""Class names as people have them, in the tables that hold the figures."""

import html
import re

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options

from vitscale.base.errors import shown
from vitscale.commands.markdown import code, plain
from vitscale.commands.report_accuracies import images_of, right
from vitscale.commands.report_changes import confusions
from vitscale.results.tables import parse_csv, write_csv

HOSTILE = [
    "<script>alert(1)</script>",
    "[fine](https://evil.example)",
    "![](https://evil.example/a.png)",
    "<!-- ",
    "`a` `",
    "\\",
    "a\\|b",
    "**b** _c_ ~~d~~",
    "www.evil.example",
    "https://evil.example",
    "a\nb\u202e",
    "&lt;",
]
NAMES = ["crane, whooping", 'say "cheese"', "a|b", "Hündchen", " spaced ", "1"]


def counts(path, wrong: int) -> dict:
    """Write a confusion matrix as `evaluate` does, each class's images right but for some; return what a report reads."""
    lines = [
        [a, p, (100 - wrong if a == p else wrong if (i + 1) % len(NAMES) == j else 0)]
        for i, a in enumerate(NAMES)
        for j, p in enumerate(NAMES)
    ]
    write_csv(path, ["actual", "predicted", "count"], lines)
    table = parse_csv(path.read_bytes(), path.name)
    return {(line["actual"], line["predicted"]): int(line["count"]) for line in table}


def test_any_name_is_counted(tmp_path):
    """A comma in a name shifts the columns: a row right 90 times of 100 counts as 0."""
    found = counts(tmp_path / "row.csv", 10)
    assert right(found).mean() == pytest.approx(0.9) and images_of(found) == dict.fromkeys(NAMES, 100)


def test_any_name_stands_in_its_column(tmp_path):
    """A name with a bar adds a column to the report's table, and every figure after it stands under another class."""
    page = confusions({"row": (counts(tmp_path / "a.csv", 10), counts(tmp_path / "b.csv", 20))})
    table = [line for line in page if line.startswith("|")]
    assert len(table) == len(NAMES) + 2
    assert {len(re.split(r"(?<!\\)\|", line)) for line in table} == {len(NAMES) + 3}


@pytest.mark.parametrize("name", [*HOSTILE, *NAMES], ids=range(len(HOSTILE + NAMES)))
def test_any_name_is_only_text(name):
    """A class's name, a licence or a branch is markup in a report or a model card: a link, a tag, a cell more."""
    extensions = ["table", "autolink", "strikethrough"]
    for written in (plain, code):
        table = f"| a | b |\n|---|---|\n| {written(name)} | **{written('x')}** |"
        page = cmarkgfm.markdown_to_html_with_extensions(table, Options.CMARK_OPT_UNSAFE, extensions)
        cell, other = re.findall("<td>(.*)</td>", page)
        assert html.unescape(re.sub("</?code>", "", cell)).strip() == shown(name).strip(), page
        assert re.sub("</?code>", "", other) == "<strong>x</strong>" and "<a" not in page
