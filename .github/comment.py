"""Comment on a pull request with the report of this run, or update the comment that is there.

The report comes from a job that ran the pull request's code, so it may hold anything. Here it becomes text:
of its Markdown only tables, headings, quotes, code and emphasis stay. Nothing of it calls people or other
issues, links, loads a picture or hides what it says. GitHub's `gh` does the talking.
"""

import io
import json
import os
import re
import stat
import subprocess
import sys
import zipfile
import zlib
from itertools import pairwise

MARK = "<!-- vitscale report -->"
REPORTS = ("study/report.md", "digits/report.md")  # what the artifact may bring; the rest isn't looked at
CURVES = re.compile(r"!\[([\w ,]+)\]\(curves\.png\)")
MAX_ARCHIVE, MAX_REPORT = 20_000_000, 200_000  # bytes
MAX_COMMENT = 60_000  # characters; GitHub takes 65,536

PUNCTUATION = r"[!-/:-@\[-`{-~]"
INLINE = re.compile(rf"\\({PUNCTUATION})|`([^`]+)`")
SEPARATOR = re.compile(r"\|(?:---\|)+")
PREFIX = re.compile(r"#{1,3} |> - |> ?|")
# Written as characters, these are markup to GitHub, an address, or the name of a person, a team or an issue.
LIVE = re.compile(r"[&<>\[\]`~|\\$@#]|:(?=//)|(?<=[gG][hH])-|(?<=[wW]{3})\.")
ZERO_WIDTH = "&#8203;"  # parts a name from its mark and is not seen
# Private characters stand for what is written last; a report's own have become visible by then.
STAR, UNDERSCORE, CODE, END = "\ue000\ue001\ue002\ue003"
WRITTEN = {STAR: "&#42;", UNDERSCORE: "&#95;", CODE: "<code>", END: "</code>"}
BLANKS = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")


class Refused(Exception):
    """What the other job left can't be posted; one line says why."""


def visible(text: str) -> str:
    """Return a text in which characters that can't be seen, or turn others round, stand as their numbers."""
    return "".join(
        f"[U+{ord(each):04X}]" if not each.isprintable() or BLANKS.match(each) else each for each in text
    )


def _written(live: re.Match) -> str:
    sign = live[0]
    if sign == "$":  # GitHub's mathematics can be white on white
        return "<span>$</span>"
    if sign in "@#:":
        return sign + ZERO_WIDTH
    return ZERO_WIDTH + sign if sign in "-." else f"&#{ord(sign)};"


def inline(text: str) -> str:
    """Return a piece of a line: its code and emphasis, and all else as the characters that it is."""
    hold = str.maketrans({"*": STAR, "_": UNDERSCORE})

    def held(found: re.Match) -> str:
        return found[1].translate(hold) if found[1] else CODE + found[2].translate(hold) + END

    text = LIVE.sub(_written, INLINE.sub(held, visible(text.replace("\t", " "))))
    return text.translate(str.maketrans(WRITTEN))


def cells(line: str) -> list[str]:
    """Return the cells of a table's line, none where it is no such line."""
    masked = re.sub(r"\\.", "..", line)
    if len(masked) < 2 or masked[0] != "|" or masked[-1] != "|":
        return []
    bars = [place for place, each in enumerate(masked) if each == "|"]
    return [line[start + 1 : end].strip() for start, end in pairwise(bars)]


def safe(report: str, artifact: str, longest: int) -> str:
    """Return a report as Markdown that only shows text, cut at a line where it has more characters."""
    lines, columns, length = [line.strip() for line in report.split("\n")], 0, 0
    found = []
    for number, line in enumerate(lines):
        parts = cells(line)
        if not parts:
            columns = 0
        elif not columns and SEPARATOR.fullmatch("".join(lines[number + 1 : number + 2])):
            columns = len(parts) if len(cells(lines[number + 1])) == len(parts) else 0
        if curves := CURVES.fullmatch(line):
            line = f"[{curves[1]}]({artifact}) (in the zip archive)"
        elif line == "> [!WARNING]" or (columns and SEPARATOR.fullmatch(line)):
            pass
        elif columns and len(parts) == columns:  # GitHub leaves a further cell out
            line = f"| {' | '.join(map(inline, parts))} |"
        else:
            prefix = PREFIX.match(line)[0]
            line = prefix + inline(line.removeprefix(prefix).strip())
        length += len(line) + 1
        if length > longest:
            found += ["", f"Cut here; [the rest]({artifact}) is in the zip archive."]
            break
        found.append(line)
    return "\n".join(found).strip() + "\n"


def compose(reports: list[str], artifact: str) -> str:
    """Return the comment: the mark that it is found again by, and the reports."""
    share = MAX_COMMENT // max(1, len(reports))
    return "\n".join([MARK, *(safe(report, artifact, share) for report in reports)])


def unpacked(content: bytes) -> list[str]:
    """Return the reports in an artifact. Raises Refused for an archive that is none, or not as ours are."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            there = [name for name in REPORTS if name in archive.namelist()]
            return [_read(archive, archive.getinfo(name)) for name in there]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise Refused(f"the artifact can't be read: {error}") from error


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise Refused(f"{member.filename} of the artifact is no file")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(f"{member.filename} of the artifact is compressed as no report is")
    with archive.open(member) as file:  # reads no more than this, whatever the archive says of its size
        return file.read(MAX_REPORT).decode(errors="replace")


def api(*arguments: str, body: dict | None = None, most: int = MAX_ARCHIVE) -> bytes:
    """Return GitHub's answer. Raises Refused for an error and for an answer that is too long."""
    given = json.dumps(body).encode() if body else b""
    with subprocess.Popen(["gh", "api", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as gh:
        assert gh.stdin and gh.stdout
        gh.stdin.write(given)
        gh.stdin.close()
        answer = gh.stdout.read(most + 1)
        if len(answer) > most:
            gh.kill()
            raise Refused(f"{arguments[-1]} has more than {most:,} bytes")
    if gh.returncode:
        raise Refused(f"`gh api {arguments[-1]}` ended with {gh.returncode}")
    return answer


def main() -> None:
    """Comment on pull request NUMBER with the report that run GITHUB_RUN_ID left, if it left one."""
    server, repository, run, number = (
        os.environ[name] for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID", "NUMBER")
    )
    listing = json.loads(api(f"repos/{repository}/actions/runs/{run}/artifacts?name=report"))
    if not listing["artifacts"]:
        return print("this run left no report")
    artifact = max(int(each["id"]) for each in listing["artifacts"])
    reports = unpacked(api(f"repos/{repository}/actions/artifacts/{artifact}/zip"))
    if not reports:
        return print("the artifact holds no report")
    comment = {"body": compose(reports, f"{server}/{repository}/actions/runs/{run}/artifacts/{artifact}")}
    comments = f"repos/{repository}/issues/{number}/comments"
    for page in json.loads(api("--paginate", "--slurp", comments)):
        for each in page:
            author = each["user"] or {}
            ours = (author.get("login"), author.get("type")) == ("github-actions[bot]", "Bot")
            if ours and each["body"].startswith(MARK):
                path = f"repos/{repository}/issues/comments/{each['id']}"
                api("--method", "PATCH", "--input", "-", path, body=comment)
                return print(f"updated comment {each['id']}")
    api("--method", "POST", "--input", "-", comments, body=comment)
    print("commented")


if __name__ == "__main__":
    try:
        main()
    except Refused as refused:
        sys.exit(f"error: {refused}")
