"""The pages: links lead somewhere, the front page stays short, figures and commands are what they are."""

import csv
import re
from pathlib import Path

import pytest

from vitscale.base.config import read_yaml
from vitscale.commands.main import COMMANDS
from vitscale.results.study import Study
from vitscale.results.summary import summarise
from vitscale.results.tables import figures_in

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]


def prose(text: str) -> str:
    """Return a page without its blocks of code, fenced or indented; lines stay where they are."""
    kept, fenced = [], False
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        kept.append("" if fence or fenced or line.startswith("    ") else line)
    return "\n".join(kept)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(name)
    return found


def broken(page: Path, text: str) -> list[str]:
    """Return a page's relative links and pictures that lead to no file or to no heading."""
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text)))
    links += re.findall(r"^\[[^]]+\]: (\S+)$", text, re.MULTILINE)
    faults = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            faults.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(text if target == page else target.read_text(encoding="utf-8")):
            faults.append(f"{link}: no such heading")
    return faults


def paragraphs(text: str) -> list[list[str]]:
    """Return the lines of each paragraph and each item of a list; headings, tables and code are none."""
    found: list[list[str]] = [[]]
    for line in prose(text).splitlines():
        if not line.strip() or line.startswith(("#", "|")):
            found.append([])
        elif re.match(r" *([-*]|\d+\.) ", line):
            found.append([line])
        else:
            found[-1].append(line)
    return [lines for lines in found if lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """A page was moved, or a heading renamed, and what links to it was not."""
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_every_page_is_reached_from_the_readme():
    """A page that no link leads to is read by nobody."""
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        names = re.findall(r"\]\(([^)\s#]+)", prose(page.read_text(encoding="utf-8")))
        waiting += [(page.parent / name).resolve() for name in names if ":" not in name]
    assert set(PAGES) - reached == set()


def test_a_broken_link_is_found():
    """The checks above can't see a fault."""
    page = "# One `two`: three\n\n## Again\n\n## Again\n\n"
    good = (
        "[a](README.md) [b](#one-two-three) [c](#again-1) [d](https://example.org/x) ![e](docs/plots.png)\n"
    )
    bad = "[f](gone.md) [g](#two) [h](README.md#gone)\n\n    [in code](gone.md)\n"
    assert broken(ROOT / "README.md", page + good) == []
    assert broken(ROOT / "README.md", page + bad) == [
        "gone.md: no such file",
        "#two: no such heading",
        "README.md#gone: no such heading",
    ]
    assert [len(lines) for lines in paragraphs("a\nb\n\n- c\n  d\n- e\n| t |\n\n    x\n")] == [2, 2, 1]


def test_readme_is_read_in_two_minutes():
    """The front page grows until nobody reads it."""
    words = [word for word in README.split() if re.search(r"\w", word)]
    assert len(README.splitlines()) <= 130 and len(words) <= 1200
    assert [lines[0] for lines in paragraphs(README) if len(lines) > 4] == []
    too_long = [line for line in prose(README).splitlines() if len(line) > 120 and not line.startswith("|")]
    assert too_long == []


def table(text: str, *, beside: str) -> list[dict[str, str]]:
    """Return the first table that begins with `row` and has a column `beside`, as mappings by its header."""
    for block in re.findall(r"^\| row \|.*\n(?:\|.*\n)+", text, re.MULTILINE):
        head, _, *rest = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        if beside in head:
            return [dict(zip(head, line, strict=True)) for line in rest]
    raise LookupError(f"no table of rows with {beside}")


def test_the_tables_are_of_the_committed_figures():
    """A row ran again, or was added, and the pages still have the old figures."""
    params = read_yaml(ROOT / "params.yaml")
    study = Study.read(params.get, figures_in(ROOT / "metrics"))
    wanted = {line["row"]: line for line in table(summarise(study), beside="accuracy")}
    shown = table(README, beside="minutes")
    assert [line["row"] for line in shown] == list(wanted)
    columns = ["parameters", "pretrained on", "protocol", "accuracy", "95% interval", "published"]
    for line in shown:
        assert {name: line[name] for name in columns} == {name: wanted[line["row"]][name] for name in columns}
    with open(ROOT / "metrics/accuracy.csv", newline="", encoding="utf-8") as file:
        scores = [(line["row"], f"{float(line['accuracy']):.2%}") for line in csv.DictReader(file)]
    accuracies = [(line["row"], line["accuracy"].removesuffix(" †")) for line in shown]
    assert scores == [each for each in accuracies if each[1] != "not run"]
    controlled = table((ROOT / "docs/study.md").read_text(encoding="utf-8"), beside="over scratch")
    for line in controlled:
        assert line == {name: wanted[line["row"]][name] for name in line}
    assert {line["row"] for line in controlled} == {
        row for row, line in wanted.items() if line["over scratch"] != "—"
    }


def test_commands_that_the_pages_name_exist():
    """A command was renamed, or a page has one that never was."""
    named = set()
    for page in PAGES:
        for name in re.findall(
            r"(?:^ *|`|&& |\$ |-m )vitscale +([a-z_-]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            named.add((name, page.name))
    assert {name for name, _ in named} == set(COMMANDS), named
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert set(COMMANDS) <= anchors(text)


def test_course_project_page_has_every_flag():
    """Someone who knows the course project looks for a flag in vain."""
    text = (ROOT / "docs/course-project.md").read_text(encoding="utf-8")
    flags = (
        "mode batch_size epochs image_size num_classes data_dir patch_size dim heads depth mlp_dim dropout "
        "optimizer lr weight_decay checkpoint model_name"
    )
    assert [flag for flag in flags.split() if f"`{flag}`" not in text] == []
