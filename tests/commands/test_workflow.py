"""The workflow of pull requests: what it trusts, and the step that comments with the report, with a stand-in for GitHub."""

import io
import json
import os
import re
import shutil
import stat
import subprocess
import zipfile

import pytest
import yaml

from tiny import ROOT

PATH = ROOT / ".github/workflows/pull-request.yml"
WORKFLOW = yaml.safe_load(PATH.read_text())
STEPS = {name: job["steps"] for name, job in WORKFLOW["jobs"].items()}
MARK = "<!-- vitscale report -->"
ARTIFACT = "https://github.com/o/r/actions/runs/5/artifacts/9"
# Answers as `gh api` does, from files; what would be written goes to calls.
GH = """#!/usr/bin/env python3
import json, sys
from pathlib import Path
here, (_, api, *options, path) = Path(__file__).parent, sys.argv
assert api == "api"
if "--input" in options:
    body = json.load(sys.stdin)
    (here / "calls").open("a").write(json.dumps([options[1], path, body["body"]]) + "\\n")
elif path == "repos/o/r/actions/runs/5/artifacts?name=report":
    print((here / "artifacts").read_text())
elif path == "repos/o/r/actions/artifacts/9/zip":
    sys.stdout.buffer.write((here / "zip").read_bytes())
elif path == "repos/o/r/issues/7/comments" and options == ["--paginate", "--slurp"]:
    print((here / "comments").read_text())
else:
    sys.exit(f"no answer for {sys.argv}")
"""


def packed(members: dict[str, bytes], mode: int = 0, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return an artifact."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, compression
            archive.writestr(info, content)
    return buffer.getvalue()


def comment(identity: int, body: str, login: str = "github-actions[bot]", kind: str = "Bot") -> dict:
    return {"id": identity, "body": body, "user": {"login": login, "type": kind}}


GOOD = packed({f"{name}/report.md": b"# %s\n" % name.encode() for name in ("study", "digits")})


def posted(folder, content=GOOD, artifacts=(9,), comments=((),)):
    """Run the step as the workflow has it; return how it ended, and what it wrote at GitHub."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(ROOT / ".github", folder / ".github", dirs_exist_ok=True)
    (folder / "gh").write_text(GH)
    (folder / "gh").chmod(0o755)
    (folder / "artifacts").write_text(json.dumps({"artifacts": [{"id": each} for each in artifacts]}))
    (folder / "zip").write_bytes(content)
    (folder / "comments").write_text(json.dumps(list(map(list, comments))))
    variables = {
        "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": "5",
        "NUMBER": "7", "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-e", "-c", STEPS["comment"][-1]["run"]],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return done, [json.loads(line) for line in calls]


@pytest.mark.parametrize(
    ("comments", "method", "path"),
    [
        ([[]], "POST", "repos/o/r/issues/7/comments"),
        (
            [[comment(40, "hello")], [comment(41, MARK + "\nold"), comment(42, MARK)]],
            "PATCH",
            "repos/o/r/issues/comments/41",
        ),
        (
            [
                [comment(43, MARK, "octocat", "User"), comment(44, MARK, "github-actions[bot]", "User")],
                [comment(45, f"> {MARK}"), comment(46, MARK) | {"user": None}],
            ],
            "POST",
            "repos/o/r/issues/7/comments",
        ),
    ],
    ids=["first", "second", "others"],
)
def test_the_comment_is_updated_not_repeated(tmp_path, comments, method, path):
    """A second push adds a second comment, the first finds none to update and fails, or somebody else's is overwritten."""
    content = packed(
        {
            "study/report.md": b"# study\n![Curves](curves.png)\n@octocat\n",
            "digits/report.md": b"# digits\n",
            "digits/curves.png": b"\x89PNG",
        }
    )
    done, calls = posted(tmp_path, content, comments=comments)
    assert done.returncode == 0, done.stderr
    text = f"{MARK}\n# study\n[Curves]({ARTIFACT}) (in the zip archive)\n@&#8203;octocat\n\n# digits\n"
    assert calls == [[method, path, text]]


def test_nothing_to_post_is_no_failure(tmp_path):
    """A run whose tests failed before the report ends with a second red mark, or an empty comment."""
    for number, options in enumerate(({"artifacts": ()}, {"content": packed({"other.md": b"@octocat"})})):
        done, calls = posted(tmp_path / str(number), **options)
        assert done.returncode == 0 and not calls and "no report" in done.stdout, done.stderr


BAD = {
    "not a zip": b"PK no archive",
    "nothing": b"",
    "half a zip": GOOD[:-30],
    "a link": packed({"study/report.md": b"/etc/passwd"}, stat.S_IFLNK | 0o777),
    "a bomb": packed({"other": bytes(30_000_000)}, compression=zipfile.ZIP_STORED),
    "a bomb in bzip2": packed({"study/report.md": bytes(10**7)}, compression=zipfile.ZIP_BZIP2),
    "flipped": packed({"study/report.md": b"# study"}, compression=zipfile.ZIP_STORED).replace(
        b"# s", b"# S"
    ),
    "damaged": packed({"study/report.md": os.urandom(999)}).replace(b"PK\1\2", b"PK\1\3"),
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_artifacts_are_refused(tmp_path, name):
    """An archive that isn't as ours are fills the runner, is followed to another file, or ends in a traceback."""
    done, calls = posted(tmp_path, BAD[name])
    assert not calls and done.returncode == 1
    assert re.fullmatch(r"error: .+\n", done.stderr), done.stderr


def test_what_else_the_artifact_has_is_not_read(tmp_path):
    """A member of a gigabyte, or one that leads out of the folder, does something; or a long report isn't cut."""
    members = {"../../x": b"x", "/tmp/x": b"x", "study/report.md": b"a\n" * 10**7, "big": bytes(10**7)}
    done, calls = posted(tmp_path, packed(members))
    assert done.returncode == 0 and len(calls[0][2]) <= 65_536
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [".github", "gh", "artifacts", "zip", "comments", "calls"]
    )


def test_the_workflow_trusts_little():
    """An action is pinned by a tag, which its owner can move; a job that runs a pull request's code may write or keeps a key;
    or the one that may write runs code of the pull request, or takes a word from the other one."""
    assert WORKFLOW["permissions"] == {} and set(WORKFLOW[True]) == {"pull_request", "push"}
    for steps in STEPS.values():
        for step in steps:
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
                assert "checkout" not in step["uses"] or step["with"]["persist-credentials"] is False
            assert "${{" not in step.get("run", "")
    for name, job in WORKFLOW["jobs"].items():
        assert job["timeout-minutes"] <= 60 and "outputs" not in job, name
    assert WORKFLOW["jobs"]["check"]["permissions"] == {"contents": "read"}
    assert "secrets" not in PATH.read_text() and "github.token" not in json.dumps(STEPS["check"])
    checkout, script = STEPS["comment"]
    assert checkout["with"]["ref"] == "${{ github.event.repository.default_branch }}"
    assert script["run"] == "python3 -I .github/comment.py" and "needs." not in json.dumps(STEPS["comment"])


def test_parameters_are_checked_before_dvc_reads_them(tmp_path):
    """DVC reads the params.yaml of a pull request before our own check has seen it."""
    runs = [step.get("run", "") for step in STEPS["check"]]
    [first] = [number for number, run in enumerate(runs) if "vitscale check" in run]
    assert all("dvc " not in run for run in runs[: first + 1])
    assert any("dvc repro" in run for run in runs[first:])
    for name in (".", "examples/digits", "examples/evil"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples/digits/params.yaml", tmp_path / name)
    done = subprocess.run(["bash", "-e", "-c", runs[first]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": good") == 3, done.stderr
    with (tmp_path / "examples/evil/params.yaml").open("a") as params:
        params.write('"$(touch ran)": 1\n')
    done = subprocess.run(["bash", "-e", "-c", runs[first]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "$(touch ran)" in done.stderr and not (tmp_path / "ran").exists()


def test_zizmor_finds_nothing():
    """What zizmor knows of workflows (templates in a shell line, caches, permissions) came into ours."""
    done = subprocess.run(
        ["zizmor", "--offline", "--no-progress", "--persona", "auditor", PATH], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
