"""A pipeline's files in a git revision, or in the workspace."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from vitscale.base.config import parse_yaml
from vitscale.base.digests import md5_of
from vitscale.base.errors import UserError
from vitscale.pipeline.graph import recorded_stages
from vitscale.results.metrics import Trained
from vitscale.results.tables import hits, parse_csv, parse_metrics

# A confusion matrix, by actual and predicted class; None where there is none.
Counts = dict[tuple[str, str], int] | None


def command(folder: Path, *arguments: str) -> str:
    """Return what a git or DVC command prints; raise UserError with its error's line where it fails."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        # DVC's last line is another one: "Having any troubles?"
        reason = next((line for line in reversed(lines) if line.startswith(("ERROR", "fatal"))), lines[-1])
        raise UserError(f"`{' '.join(arguments)}` failed: {reason}")
    return done.stdout


class Revision:
    """A pipeline's files in a git revision, or in the workspace (None)."""

    def __init__(self, root: Path, pipeline: PurePosixPath, name: str | None):
        self.root, self.name, self.label, self.pipeline = root, name, name or "workspace", pipeline
        self.stages = recorded_stages(self.yaml("dvc.lock"), f"dvc.lock of {self.label}")
        self.parsed: dict[str, dict | None] = {}  # figures by name: several tables ask for the same

    def read(self, path: str) -> bytes | None:
        """Return a file's content, or None where the revision has no such file."""
        path = os.path.normpath(self.pipeline / path)
        if self.name is None:
            return (self.root / path).read_bytes() if (self.root / path).is_file() else None
        # An example's dvc.yaml is a link, which git's other ways to read a file give as it stands.
        asked = ["git", "cat-file", "--batch", "--follow-symlinks"]
        done = subprocess.run(
            asked, cwd=self.root, capture_output=True, input=f"{self.name}:{path}\n".encode()
        )
        head, _, content = done.stdout.partition(b"\n")
        kind, size = head.split()[1:] if len(head.split()) == 3 else (b"", b"0")
        return content[: int(size)] if kind == b"blob" else None

    def md5(self, path: str) -> str | None:
        """Return a file's hash as DVC has it, or None where the revision has no such file."""
        content = self.read(path)
        return None if content is None else md5_of(content)

    def yaml(self, path: str) -> dict:
        """Return a YAML file's mapping, empty where there is no such file."""
        content = self.read(path)
        return parse_yaml(content, f"{path} of {self.label}") if content else {}

    def table(self, path: str, **columns: Callable[[str], object]) -> list[dict] | None:
        """Return a CSV file's lines as `parse_csv` does, or None where there is no such file."""
        content = self.read(path)
        return None if content is None else parse_csv(content, f"{path} of {self.label}", **columns)

    def confusion(self, row: str) -> Counts:
        """Return a row's counts by (actual class, predicted class)."""
        table = self.table(f"metrics/confusion/{row}.csv", actual=str, predicted=str, count=int) or []
        return {(line["actual"], line["predicted"]): line["count"] for line in table} or None

    def figures(self, name: str) -> dict | None:
        """Return the figures in a file of `metrics/`, or None where there is no such file."""
        if name not in self.parsed:
            content = self.read(f"metrics/{name}")
            of = f"metrics/{name} of {self.label}"
            self.parsed[name] = None if content is None else parse_metrics(content, of)
        return self.parsed[name]

    def trained(self, rows: list[str]) -> Trained | None:
        """Return what rows got right, with the spread of their trainings among each other.

        None where one has no predictions, or they have other test images.
        """
        found = [self.figures(f"rows/{row}.json") or {} for row in rows]
        if any("predicted" not in each for each in found):
            return None
        if any(each["test_labels_sha256"] != found[0]["test_labels_sha256"] for each in found):
            return None
        return Trained(correct=np.concatenate([hits(each) for each in found]))

    def test_images(self, row: str) -> list[str]:
        """Return the hash of the labels of the test images that a row was scored on."""
        return (self.figures(f"rows/{row}.json") or {}).get("test_labels_sha256", [])

    def test_set(self, row: str) -> str | None:
        """Return the hash by which DVC knows those images, where dvc.lock has it."""
        of_row = self.stages.get(f"evaluate@{row}", {}).get("deps", [])
        return next((each.get("md5") for each in of_row if each["path"].startswith("data/raw/")), None)
