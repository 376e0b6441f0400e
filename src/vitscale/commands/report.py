"""Say what a change did to the accuracies, as a page for a pull request.

Compares two revisions of one pipeline (or a revision with the workspace) from git and DVC alone, so also
where no output is at hand, and writes `report.md` and, where a training changed, `curves.png`. Figures that
the committed parameters or code did not give are named first.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path, PurePosixPath

from vitscale.base.errors import UserError
from vitscale.base.files import discard, write_bytes
from vitscale.commands.main import add_pipeline
from vitscale.commands.markdown import code, plain
from vitscale.commands.report_accuracies import accuracies
from vitscale.commands.report_changes import confusions, picture, reruns
from vitscale.commands.revision import Revision, command
from vitscale.pipeline.consistency import check
from vitscale.pipeline.graph import read_pipeline
from vitscale.pipeline.recorded import not_run

LONGEST_LIST = 20  # lines of a warning; above, it is no longer read


def differences(root: Path, kind: str, base: Revision, head: Revision) -> dict:
    """Return `dvc metrics diff` or `dvc params diff` (kind) of the pipeline, by file and key."""
    revisions = [side.name for side in (base, head) if side.name]
    return json.loads(
        command(root / base.pipeline, sys.executable, "-m", "dvc", kind, "diff", "--json", *revisions) or "{}"
    )


def warning(head: Revision) -> list[str]:
    """Return a warning where the committed figures are not those of the committed parameters and code."""
    try:
        pipeline, params = read_pipeline(head.yaml)
        check(params)
        found = not_run(pipeline, params, head.stages, head.md5)
    except UserError as error:
        found = str(error).splitlines()
    if not found:
        return []
    shown = [
        *found[:LONGEST_LIST],
        *([f"and {len(found) - LONGEST_LIST} more"] if len(found) > LONGEST_LIST else []),
    ]
    return [
        "> [!WARNING]",
        f"> The figures of {plain(head.label)} are not those of its parameters and code. `dvc repro`, then "
        "commit dvc.lock and metrics:",
        ">",
        *(f"> - {plain(line)}" for line in shown),
        "",
    ]


def report(
    root: Path, pipeline: PurePosixPath, base_name: str, head_name: str | None
) -> tuple[str, bytes | None]:
    """Return the page and its picture, for the pipeline in a folder of the repository at `root`.

    Raises UserError for a revision or a pipeline that isn't there.
    """
    for name in filter(None, (base_name, head_name)):
        if subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"],
            cwd=root,
            capture_output=True,
        ).returncode:
            raise UserError(
                f"{name} is no commit, branch or tag of this repository; `git fetch` may bring it"
            )
    base, head = Revision(root, pipeline, base_name), Revision(root, pipeline, head_name)
    if head.read("dvc.yaml") is None:
        raise UserError(
            f"there is no {(pipeline / 'dvc.yaml').as_posix()} in {head.label}; give --pipeline a folder "
            "that has one"
        )
    metrics, params = (differences(root, kind, base, head) for kind in ("metrics", "params"))
    changed = [
        f"| {code(key)} | {_value(change.get('old'))} | {_value(change.get('new'))} |"
        for key, change in sorted(params.get("params.yaml", {}).items())
    ]
    rows = sorted(PurePosixPath(path).stem for path in metrics if path.startswith("metrics/rows/"))
    matrices = {row: (base.confusion(row), head.confusion(row)) for row in rows}
    image = picture(base, head)
    target = plain(str(head.yaml("params.yaml").get("target")))
    where = "" if pipeline == PurePosixPath(".") else f" ({plain(str(pipeline))})"
    return "\n".join(
        [
            f"# {plain(head.label)} against {plain(base.label)}{where}",
            "",
            *warning(head),
            f"## Test accuracy on {target}",
            "",
            *accuracies(base, head, matrices),
            "",
            "## Parameters",
            "",
            *(
                ["| parameter | before | after |", "|---|---|---|", *changed]
                if changed
                else ["None changed."]
            ),
            "",
            "## Stages that reran",
            "",
            *reruns(base, head),
            "",
            "## Training curves",
            "",
            "![Validation accuracy by epoch, before and after](curves.png)" if image else "None changed.",
            "",
            "## Confusion matrices",
            "",
            *confusions(matrices),
            "",
        ]
    ), image


def _value(value: object) -> str:
    return "—" if value is None else code(json.dumps(value, ensure_ascii=False))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("base", metavar="BASE", help="commit, branch or tag to compare with")
    parser.add_argument(
        "head", metavar="HEAD", nargs="?", help="commit, branch or tag (default: the workspace)"
    )
    add_pipeline(parser)
    parser.add_argument(
        "--out", default="report", type=Path, metavar="FOLDER", help="where to write (default: report)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run the command. Raises UserError for a revision or a pipeline that isn't there."""
    place, picture_place = arguments.out / "report.md", arguments.out / "curves.png"
    there = place.read_bytes() if place.exists() else b""
    if (place.exists() or picture_place.exists()) and b"\n## Test accuracy on " not in there:
        raise UserError(
            f"{arguments.out} has a report.md or curves.png, and not of this command; give another --out"
        )
    root = Path(command(Path("."), "git", "rev-parse", "--show-toplevel").strip())
    folder = arguments.pipeline.resolve()
    if not folder.is_relative_to(root):
        raise UserError(f"--pipeline {arguments.pipeline} is not in this repository, {root}")
    page, image = report(
        root, PurePosixPath(folder.relative_to(root).as_posix()), arguments.base, arguments.head
    )
    write_bytes(place, page.encode())
    if image:
        write_bytes(picture_place, image)
    else:
        discard(picture_place)
    print(place)
