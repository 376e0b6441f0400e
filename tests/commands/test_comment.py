"""The comment on a pull request: whatever the report holds, GitHub's own Markdown makes plain text of it."""

import re
import runpy
from html.parser import HTMLParser

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options

from tiny import ROOT

COMMENT = runpy.run_path(str(ROOT / ".github/comment.py"))
MARK, compose, safe = COMMENT["MARK"], COMMENT["compose"], COMMENT["safe"]
ARTIFACT = "https://github.com/o/r/actions/runs/5/artifacts/9"
SHOWN = {
    *("h1", "h2", "h3", "p", "blockquote", "ul", "ol", "li", "strong", "em", "code", "span", "hr", "br", "a"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
# Each holds "seen", the word that the page must show.
HOSTILE = {
    "a person": "@octocat seen",
    "a team": "seen @github/security, (@a) *@b* **@c**",
    "a person in a cell": "| a | b |\n|---|---|\n| @octocat | seen |",
    "an entity for @": "seen &#64;octocat &commat;octocat",
    "an escaped @": "seen \\@octocat",
    "an e-mail address": "seen octocat@github.com mailto:octocat@github.com",
    "closes an issue": "seen fixes #1, closes o/r#2, resolves GH-3 and gh-4",
    "an escaped issue": "seen fixes \\#1, GH\\-3 and &num;4",
    "an issue's address": "seen fixes https://github.com/o/r/issues/1",
    "an HTML comment": "a <!-- seen --> b",
    "an open HTML comment": "<!-- seen",
    "details": "<details>\n<summary>fine</summary>\n\nseen\n\n</details>",
    "open details": "<details><summary>\n\nseen",
    "a script": "<script>seen()</script>",
    "a picture in HTML": '<img src="https://evil.example/seen.png" alt="fine">',
    "a picture": "![seen](https://evil.example/a.png)",
    "a picture by reference": "![seen][x]\n\n[x]: https://evil.example/a.png",
    "a definition that is not shown": "[x]: https://evil.example/seen",
    "a link": "[fine](https://evil.example/seen)",
    "a link in HTML": '<a href="https://evil.example/">seen</a>',
    "an address in brackets": "<https://evil.example/seen>",
    "a bare address": "https://evil.example/seen HTTP://evil.example ftp://evil.example",
    "an escaped address": "https\\://evil.example/seen",
    "a bare name of a host": "www.evil.example/seen WWW.evil.example",
    "a picture of ours from elsewhere": "![Validation](https://evil.example/curves.png) seen",
    "a picture of ours and more": "![a](curves.png)](https://evil.example) seen",
    "a footnote": "fine[^1]\n\n[^1]: seen @octocat",
    "a fence": "```\nseen\n@octocat",
    "another fence": "~~~\nseen\n@octocat",
    "a code span over lines": "a ` b\nseen ` @octocat `",
    "a code span over cells": "| a | b |\n|---|---|\n| `x | @octocat` seen |",
    "a code span with more": "`` seen ` @octocat `` @octocat",
    "a code span with markup": "`seen <img src=x> @octocat \\` @octocat",
    "an escaped code span": "\\`seen @octocat\\`",
    "one cell too many": "| a |\n|---|\n| fine | seen |",
    "a cell that ends in a backslash": "| a |\n|---|\n| fine \\| seen |\n| fine \\\\| seen |",
    "a table without its end": "| a |\n|---|\n| seen",
    "white mathematics": "$\\color{white}{seen}$ $$\\phantom{seen}$$ $`seen`$",
    "characters of no width": "s\u200be\u200ce\u2060n seen \ufeff\u00ad",
    "bidirectional characters": "\u202edees\u202c \u2066seen\u2069",
    "blanks that are letters": "\u3164\u115f\uffa0\u2800 seen",
    "characters that say nothing": "seen\x00\x1b[31m\x07\x85\u2028\r",
    "tags": "seen \U000e0041\U000e0042 \ufe0f\U000e0101",
    "private characters": "seen \ue002@octocat\ue003 \ue000\ue001",
    "our own mark": f"{MARK}\nseen",
    "an alert of another kind": "> [!CAUTION]\n> seen",
    "indented code": "    seen @octocat <img src=x>",
    "half a character": "seen \ud800",
}


class Page(HTMLParser):
    """What a page shows: its tags, its links, and its pieces of text that are no code."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.links, self.texts, self.codes, self.hidden, self.inside = set(), [], [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        self.inside += [] if tag in ("br", "hr", "img") else [tag]

    def handle_endtag(self, tag):
        assert tag in ("img", "hr", "br") or self.inside.pop() == tag

    def handle_data(self, data):
        (self.codes if "code" in self.inside else self.texts).append(data)

    def handle_comment(self, data):
        self.hidden.append(data)


def rendered(markdown: str) -> Page:
    """Return the page that GitHub's parser makes, with nothing taken out."""
    extensions = ["table", "autolink", "strikethrough", "tasklist"]
    options = Options.CMARK_OPT_UNSAFE | Options.CMARK_OPT_FOOTNOTES
    return Page(cmarkgfm.markdown_to_html_with_extensions(markdown, options, extensions))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_reports_become_text(name):
    """A report pings people, closes issues, links or loads from elsewhere, or hides what it says from who reviews."""
    for report in (HOSTILE[name], f"# fine\n\n{HOSTILE[name]}\n\n| a |\n|---|\n| b |", f"> {HOSTILE[name]}"):
        body = compose([report, "# The second report\n"], ARTIFACT)
        page = rendered(body)
        assert page.tags <= SHOWN and not page.links, body
        assert page.hidden == [MARK.removeprefix("<!--").removesuffix("-->")], body
        shown = "\n".join(page.texts)
        assert "seen" in shown + "".join(page.codes), body
        assert "The second report" in page.texts, body
        assert not re.search(r"@\w|#\d|\bGH-\d|://|\$\S.*\$|www\.\w", shown, re.IGNORECASE), shown
        assert "\u202e" not in body and "\u200b" not in body.replace("&#8203;", ""), body


def test_a_report_of_ours_stays_readable():
    """The example report loses a table, a heading, its code or a figure on its way into the comment, or shows escapes."""
    text = (ROOT / "docs/report/report.md").read_text()
    warned = "> [!WARNING]\n> Not those:\n>\n> - finetune@vit-digits: lr is 3.0\n\n"
    body = compose([warned + text], ARTIFACT)
    page, before = rendered(body), rendered(warned + text)
    assert page.links == [ARTIFACT] and before.links == ["curves.png"]
    assert body.startswith(f"{MARK}\n> [!WARNING]\n")
    assert page.tags == before.tags - {"img"} | {"a"}
    assert page.codes == before.codes
    found = "".join(page.texts).replace("\u200b", "").split("\n")
    found.remove("Validation accuracy by epoch, before and after (in the zip archive)")
    assert list(filter(None, found)) == list(filter(None, "".join(before.texts).split("\n")))


def test_names_that_the_report_escaped_are_shown_as_they_are():
    """What the report escaped for a table is escaped again: a class reads `a\\|b`, or takes two columns."""
    table = "| class | n |\n|---|---|\n| a\\|b\\_c\\* \\<x\\> \\\\ | 1 |"
    page = rendered(safe(table, ARTIFACT, 1000))
    assert "a|b_c* <x> \\" in "".join(page.texts) and page.tags <= SHOWN - {"em"}


def test_a_long_report_is_cut_at_a_line():
    """GitHub refuses a long comment, the first report leaves no room for the second, or half a character or tag is posted."""
    lines = [f"| {number} | <@ü😀> |" for number in range(5000)]
    table = "\n".join(["| n | x |", "|---|---|", *lines])
    body = compose([table, "# second\n" + "<" * 100_000 + "\n", "# third"], ARTIFACT)
    assert len(body) <= 65_536 and "# second" in body and body.endswith("# third\n")
    page = rendered(body)
    assert page.links == [ARTIFACT] * 2 and page.texts.count("the rest") == 2
    assert [text for text in page.texts if "😀" in text][-1].endswith("<@\u200bü😀>")
