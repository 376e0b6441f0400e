"""What a change did to the accuracies, as a page for a pull request: `python -m vitscale.report BASE [HEAD]`.

Compares two revisions of one pipeline (or a revision with the workspace) from git and DVC alone, so also where no output
is at hand, and writes `report.md` and, where a training changed, `curves.png`. Figures that the committed parameters or code
did not give are named first.
"""

import argparse
import csv
import hashlib
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import numpy as np

from vitscale.files import UserError, parse_yaml, write_bytes
from vitscale.metrics import Z95, hits, paired_difference
from vitscale.params import check
from vitscale.recorded import not_run
from vitscale.stage import read_pipeline

LARGEST_MATRIX = 20  # classes, or lines of a list; above, it is no longer read
Counts = dict[tuple[str, str], int] | None  # a confusion matrix, by actual and predicted class; None where there is none


class Revision:
    """A pipeline's files in a git revision, or in the workspace (None)."""

    def __init__(self, root: Path, pipeline: PurePosixPath, name: str | None):
        self.root, self.name, self.label, self.pipeline = root, name, name or "workspace", pipeline
        self.stages = self.yaml("dvc.lock").get("stages", {})

    def read(self, path: str) -> bytes | None:
        """Return a file's content, or None where the revision has no such file."""
        path = os.path.normpath(self.pipeline / path)
        if self.name is None:
            return (self.root / path).read_bytes() if (self.root / path).is_file() else None
        done = subprocess.run(["git", "cat-file", "blob", f"{self.name}:{path}"], cwd=self.root, capture_output=True)
        return None if done.returncode else done.stdout

    def md5(self, path: str) -> str | None:
        content = self.read(path)
        return None if content is None else hashlib.md5(content, usedforsecurity=False).hexdigest()

    def yaml(self, path: str) -> dict:
        content = self.read(path)
        return parse_yaml(content, f"{path} of {self.label}") if content else {}

    def table(self, path: str) -> list[dict[str, str]] | None:
        content = self.read(path)
        return None if content is None else list(csv.DictReader(io.StringIO(content.decode())))

    def confusion(self, row: str) -> Counts:
        """Return counts by (actual class, predicted class)."""
        table = self.table(f"metrics/confusion/{row}.csv")
        return table and {(line["actual"], line["predicted"]): int(line["count"]) for line in table}

    def hits(self, row: str) -> tuple[list[str], np.ndarray] | None:
        """Return the fingerprint of the row's test images, and whether it got each right; None where it isn't known."""
        figures = json.loads(self.read(f"metrics/rows/{row}.json") or "{}")
        return (figures["test_labels_sha256"], hits(figures)) if "predicted" in figures else None


def command(folder: Path, *arguments: str) -> str:
    """Return what a git or DVC command prints; raise UserError with its last line where it fails."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise UserError(f"`{' '.join(arguments)}` failed: {reason}")
    return done.stdout


def differences(root: Path, kind: str, base: Revision, head: Revision) -> dict:
    """Return `dvc metrics diff` or `dvc params diff` (kind) of the pipeline, by file and key."""
    revisions = [base.name] + ([head.name] if head.name else [])
    return json.loads(command(root / base.pipeline, sys.executable, "-m", "dvc", kind, "diff", "--json", *revisions) or "{}")


def interval(row: str, base: Revision, head: Revision, before: Counts, after: Counts) -> tuple[float, float, str] | None:
    """Return a row's gain in accuracy, half of its 95% interval and how that was had; None where nothing can be compared.

    Paired where both revisions have the row's predictions. Else of two independent samples (Agresti 2013, section 3.1.3),
    which is too wide for rows that were scored on the same images and so never claims too much.
    """
    if not before or not after or images_of(before) != images_of(after):
        return None
    first, second = base.hits(row), head.hits(row)
    if first and second and first[0] == second[0]:
        return *paired_difference(second[1], first[1]), "paired"
    total = sum(before.values())
    shares = [sum(n for (actual, predicted), n in counts.items() if actual == predicted) / total for counts in (before, after)]
    half = Z95 * math.sqrt(sum(share * (1 - share) / total for share in shares))
    return shares[1] - shares[0], half, "unpaired"


def images_of(counts: dict[tuple[str, str], int]) -> dict[str, int]:
    """Return how many test images each class has."""
    images: dict[str, int] = {}
    for (actual, _), count in counts.items():
        images[actual] = images.get(actual, 0) + count
    return images


def accuracies(base: Revision, head: Revision, matrices: dict[str, tuple[Counts, Counts]]) -> list[str]:
    """Return the table of accuracies, a row of the study a line; `matrices` has those whose metrics changed."""
    before, after = ({line["row"]: float(line["accuracy"]) for line in side.table("metrics/accuracy.csv") or []}
                     for side in (base, head))
    if not before and not after:
        raise UserError(f"neither {base.label} nor {head.label} has a metrics/accuracy.csv; run `dvc repro` and commit its metrics")
    lines = [f"| row | {base.label} | {head.label} | difference | 95% interval | beyond it |", "|---|---|---|---|---|---|"]
    ways = set()
    for row in [*after, *(row for row in before if row not in after)]:
        old, new = (f"{side[row]:.2%}" if row in side else "—" for side in (before, after))
        if row not in before or row not in after:
            lines.append(f"| {row} | {old} | {new} | {'new row' if row in after else 'row gone'} | | |")
            continue
        if row not in matrices:
            lines.append(f"| {row} | {old} | {new} | unchanged | | |")
            continue
        found = interval(row, base, head, *matrices[row])
        if found is None:
            lines.append(f"| {row} | {old} | {new} | {after[row] - before[row]:+.2%} | other test images | can't be told |")
            continue
        gain, half, way = found
        ways.add(way)
        lines.append(f"| {row} | {old} | {new} | {gain:+.2%} | ± {half:.2%}, {way} | {'**yes**' if abs(gain) > half else 'no'} |")
    if "paired" in ways:
        lines += ["", "*paired*: the interval of the difference on the same test images, from both revisions' predictions."]
    if "unpaired" in ways:
        lines += ["", "*unpaired*: one side has no predictions of the same test images, so the interval is that of "
                      "two independent samples: wider, on the safe side."]
    return lines


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
    shown = [*found[:LARGEST_MATRIX], *([f"and {len(found) - LARGEST_MATRIX} more"] if len(found) > LARGEST_MATRIX else [])]
    return ["> [!WARNING]", f"> The figures of {head.label} are not those of its parameters and code. `dvc repro`, then commit dvc.lock "
            "and metrics:", ">", *(f"> - {line}" for line in shown), ""]


def reruns(base: Revision, head: Revision) -> list[str]:
    """Return a line for each stage whose entry in dvc.lock changed: why it ran, and whether its outputs differ."""
    lines = []
    for stage in [*head.stages, *(stage for stage in base.stages if stage not in head.stages)]:
        old, new = base.stages.get(stage), head.stages.get(stage)
        if old == new:
            continue
        if not old or not new:
            lines.append(f"| {stage} | {'new stage' if new else 'stage gone'} | |")
            continue
        old_params, new_params = ({key: value for keys in side.get("params", {}).values() for key, value in keys.items()}
                                  for side in (old, new))
        old_deps, new_deps, old_outs, new_outs = ({each["path"]: each.get("md5") for each in side.get(kind, [])}
                                                  for kind in ("deps", "outs") for side in (old, new))
        causes = ["command"] if old["cmd"] != new["cmd"] else []
        causes += differing(old_params, new_params)
        causes += [path.removeprefix("../../").removeprefix("./") for path in differing(old_deps, new_deps)]
        same = "the same" if old_outs == new_outs else "changed"
        lines.append(f"| {stage} | {', '.join(f'`{cause}`' for cause in causes) or 'run again'} | {same} |")
    return ["| stage | because of | outputs |", "|---|---|---|", *lines] if lines else ["None."]


def differing(old: dict, new: dict) -> list:
    """Return the keys that only one has, or that have another value in the other."""
    return [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]


def confusions(matrices: dict[str, tuple[Counts, Counts]]) -> list[str]:
    """Return the confusion matrix after the change, with the difference, of every row where it changed."""
    lines = []
    for row, (before, after) in matrices.items():
        if not before or not after or before == after:
            continue
        lines += ["<details>", f"<summary>{row}</summary>", ""]
        classes = list(images_of(after))
        if images_of(before) != images_of(after):
            lines += ["Scored on other test images than before."]
        elif len(classes) > LARGEST_MATRIX:
            changed = sorted(after, key=lambda pair: -abs(after[pair] - before[pair]))[:LARGEST_MATRIX]
            lines += ["| actual | predicted | images |", "|---|---|---|",
                      *(f"| {a} | {p} | {_cell(before[a, p], after[a, p])} |" for a, p in changed)]
        else:
            lines += [f"| actual \\ predicted | {' | '.join(classes)} |", "|---" * (len(classes) + 1) + "|",
                      *(f"| **{a}** | {' | '.join(_cell(before[a, p], after[a, p]) for p in classes)} |" for a in classes)]
        lines += ["", "</details>"]
    return ["Test images, and in brackets how many more than before:", "", *lines] if lines else ["None."]


def _cell(before: int, after: int) -> str:
    return f"{after} ({after - before:+d})" if after != before else str(after)


def picture(base: Revision, head: Revision) -> bytes | None:
    """Return the training curves that changed, before and after, as a PNG; None where none did."""
    import vl_convert  # takes a while to start

    curves = {}
    for side, when in ((base, "before"), (head, "after")):
        for line in side.table("metrics/curves.csv") or []:
            runs = curves.setdefault(f"{line['stage']} {line['entry']}", {"before": [], "after": []})
            runs[when].append((int(line["epoch"]), float(line["validation_accuracy"])))
    changed = {name: runs for name, runs in curves.items() if runs["before"] != runs["after"]}
    if not changed:
        return None
    values = [{"training": name, "when": when, "epoch": epoch, "accuracy": accuracy}
              for name, runs in changed.items() for when, points in runs.items() for epoch, accuracy in points]
    columns = min(2, len(changed))
    return vl_convert.vegalite_to_png({
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json", "background": "white", "data": {"values": values},
        "title": {"text": f"Validation accuracy: {base.label} against {head.label}", "fontSize": 15, "anchor": "start"},
        "facet": {"field": "training", "title": None, "sort": list(changed), "header": {"labelFontSize": 13}}, "columns": columns,
        "resolve": {"scale": {"x": "independent", "y": "independent"}},
        "spec": {"width": 640 // columns, "height": 200, "mark": {"type": "line", "point": True}, "encoding": {
            "x": {"field": "epoch", "type": "quantitative", "title": "epoch",
                  "axis": {"labelExpr": "datum.value == floor(datum.value) ? datum.label : ''"}},
            "y": {"field": "accuracy", "type": "quantitative", "axis": {"format": "%"}, "scale": {"zero": False},
                  "title": "validation accuracy"},
            "color": {"field": "when", "sort": ["before", "after"], "title": None,
                      "scale": {"domain": ["before", "after"], "range": ["#999999", "#d95f02"]},
                      "legend": {"orient": "top", "symbolType": "stroke", "symbolSize": 400}},
            "strokeDash": {"field": "when", "sort": ["before", "after"], "legend": None,
                           "scale": {"domain": ["before", "after"], "range": [[4, 3], [1, 0]]}}}},
        "config": {"axis": {"labelFontSize": 12, "titleFontSize": 12}, "legend": {"labelFontSize": 13}}}, scale=1.5)


def report(root: Path, pipeline: PurePosixPath, base_name: str, head_name: str | None) -> tuple[str, bytes | None]:
    """Return the page and its picture, for the pipeline in a folder of the repository at `root`.

    Raises UserError for a revision or a pipeline that isn't there.
    """
    for name in filter(None, (base_name, head_name)):
        if subprocess.run(["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"], cwd=root,
                          capture_output=True).returncode:
            raise UserError(f"{name} is no commit, branch or tag of this repository; `git fetch` may bring it")
    base, head = Revision(root, pipeline, base_name), Revision(root, pipeline, head_name)
    if head.read("dvc.yaml") is None:
        raise UserError(f"there is no {(pipeline / 'dvc.yaml').as_posix()} in {head.label}; give --pipeline a folder that has one")
    metrics, params = (differences(root, kind, base, head) for kind in ("metrics", "params"))
    changed = [f"| `{key}` | {_value(change.get('old'))} | {_value(change.get('new'))} |"
               for key, change in sorted(params.get("params.yaml", {}).items())]
    rows = sorted(PurePosixPath(path).stem for path in metrics if path.startswith("metrics/rows/"))
    matrices = {row: (base.confusion(row), head.confusion(row)) for row in rows}
    image = picture(base, head)
    target = head.yaml("params.yaml").get("target")
    where = "" if pipeline == PurePosixPath(".") else f" ({pipeline})"
    return "\n".join([
        f"# {head.label} against {base.label}{where}", "", *warning(head),
        f"## Test accuracy on {target}", "", *accuracies(base, head, matrices), "",
        "## Parameters", "", *(["| parameter | before | after |", "|---|---|---|", *changed] if changed else ["None changed."]), "",
        "## Stages that reran", "", *reruns(base, head), "",
        "## Training curves", "",
        "![Validation accuracy by epoch, before and after](curves.png)" if image else "None changed.", "",
        "## Confusion matrices", "", *confusions(matrices), ""]), image


def _value(value) -> str:
    return "—" if value is None else f"`{json.dumps(value)}`"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vitscale.report", description=__doc__.splitlines()[0])
    parser.add_argument("base", metavar="BASE", help="commit, branch or tag to compare with")
    parser.add_argument("head", metavar="HEAD", nargs="?", help="commit, branch or tag; default: the workspace")
    parser.add_argument("--pipeline", default=".", metavar="FOLDER", help="folder of its dvc.yaml; default: this one")
    parser.add_argument("--out", default="report", type=Path, metavar="FOLDER", help="default: report")
    arguments = parser.parse_args()
    try:
        root = Path(command(Path("."), "git", "rev-parse", "--show-toplevel").strip())
        folder = Path(arguments.pipeline).resolve()
        if not folder.is_relative_to(root):
            raise UserError(f"--pipeline {arguments.pipeline} is not in this repository, {root}")
        page, image = report(root, PurePosixPath(folder.relative_to(root).as_posix()), arguments.base, arguments.head)
        write_bytes(arguments.out / "report.md", page.encode())
        if image:
            write_bytes(arguments.out / "curves.png", image)
        else:
            (arguments.out / "curves.png").unlink(missing_ok=True)
    except UserError as error:
        sys.exit(str(error))
    print(arguments.out / "report.md")


if __name__ == "__main__":
    main()
