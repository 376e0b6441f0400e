"""The workflow of pull requests, which comments with the report."""

import os
import re

import pytest
import yaml

from tiny import ROOT, run

pytestmark = pytest.mark.usefixtures("forked")


WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "pull-request.yml").read_text())
GH = """#!/bin/sh
case "$*" in
  *--paginate*) printf '%s' "$EXISTING" ;;
  *) echo "$*" >> calls ;;
esac
"""


@pytest.mark.parametrize(
    ("existing", "call"),
    [
        ("", "api --silent repos/o/r/issues/7/comments --field body=@body.md"),
        ("41\n42\n", "api --silent --method PATCH repos/o/r/issues/comments/41 --field body=@body.md"),
    ],
)
def test_the_comment_is_updated_not_repeated(tmp_path, existing, call):
    """A second push to a pull request adds a second comment, or the first finds none to update and fails."""
    for name in ("study", "digits"):
        (tmp_path / "report" / name).mkdir(parents=True)
        (tmp_path / "report" / name / "report.md").write_text(f"# {name}\n![Curves](curves.png)\n")
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    script = WORKFLOW["jobs"]["comment"]["steps"][-1]["run"]
    variables = {"GH_REPO": "o/r", "NUMBER": "7", "REPORT": "https://x/1", "EXISTING": existing}
    run(
        "bash",
        "-eo",
        "pipefail",
        "-c",
        script,
        cwd=tmp_path,
        env=os.environ | variables | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    )
    assert (tmp_path / "calls").read_text().splitlines() == [call]
    body = (tmp_path / "body.md").read_text()
    assert body.startswith("<!-- vitscale report -->\n# study") and "# digits" in body
    assert body.count("[Curves](https://x/1)") == 2 and "curves.png" not in body


def test_the_workflow_trusts_little():
    """An action is pinned by a tag, which its owner can move, or the job that runs a pull request's code may write."""
    assert WORKFLOW["permissions"] == {}
    for job in WORKFLOW["jobs"].values():
        assert all(
            re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
            for step in job["steps"]
            if "uses" in step
        )
    assert WORKFLOW["jobs"]["check"]["permissions"] == {"contents": "read"}
    assert not any("uses" in step for step in WORKFLOW["jobs"]["comment"]["steps"])
