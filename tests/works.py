"""A pipeline's folder with a mirror beside it, for what stages say about bad input."""

import hashlib
import io
import json
import os
import re
import resource
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tiny import ROOT
from vitscale.data.sources import SPLITS

CLASSES = ("bird", "cat", "dog")
UNKNOWN = {"train": None, "test": None}
WRONG = 64 * "0"


def make_set(size: int = 32, count: int = 4) -> dict:
    """Return {split: {class: uint8 (count, size, size, 3)}}."""
    rng = np.random.default_rng(0)
    return {
        split: {name: rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8) for name in CLASSES}
        for split in SPLITS
    }


def fingerprints(data: dict) -> dict[str, str]:
    """A sha256 over the names, and class id (four bytes) and pixels, in the order (class id, pixels)."""
    return {
        split: hashlib.sha256(
            (json.dumps(sorted(by_class)) + "\n").encode()
            + b"".join(
                label.to_bytes(4, "big") + pixels
                for label, name in enumerate(sorted(by_class))
                for pixels in sorted(image.tobytes() for image in by_class[name])
            )
        ).hexdigest()
        for split, by_class in data.items()
    }


def encode(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def members_of(data: dict) -> dict[str, bytes]:
    return {
        f"{split}/{name}/{i}.png": encode(image)
        for split, by_class in data.items()
        for name, images in by_class.items()
        for i, image in enumerate(images)
    }


@dataclass
class Work:
    folder: Path  # the pipeline's
    mirror: Path
    top: Path  # above both: nothing outside of it is ever written

    def params(self, **download) -> None:
        """Write a params.yaml whose target is the image folder `things`; `download` adds or replaces entries."""
        content = yaml.safe_load((ROOT / "examples/digits/params.yaml").read_text())
        things = {"source": "imagefolder", "image_size": 32, "sha256": fingerprints(make_set())}
        content["download"] = {"things": things} | download
        content["prepare"], content["target"] = {"things": {"validation": 0.25}}, "things"
        for entry in content["pretrain"].values():
            entry["data"] = "things"
        (self.folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def put(self, name: str, members: dict[str, bytes]) -> Path:
        """Put files into the mirror, as a zip if the name says so; return its path."""
        where = self.mirror / name
        if where.suffix == ".zip":
            with zipfile.ZipFile(where, "w") as archive:
                for member, content in members.items():
                    archive.writestr(member, content)
        else:
            for member, content in members.items():
                path = where / member
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir() if member.endswith("/") else path.write_bytes(content)
        return where

    def run(
        self, stage: str, key: str = "things", file_limit: int | None = None
    ) -> subprocess.CompletedProcess:
        """Run a stage script; with `file_limit` no file may grow beyond so many bytes, as on a full disk."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VITSCALE_")}
        environment |= {
            "VITSCALE_MIRROR": str(self.mirror),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        limit = (
            None
            if file_limit is None
            else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        )
        return subprocess.run(
            ["python", ROOT / "stages" / f"{stage}.py", key],
            cwd=self.folder,
            env=environment,
            preexec_fn=limit,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def everything(self) -> dict[str, bytes | None]:
        """All files and folders but for the locks, the notes of what was left, imports to go on with, and the empty folder of partial outputs."""
        own = self.folder / ".vitscale"
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in self.top.rglob("*")
            if path not in (own, own / "locks", own / "partial", own / "inputs.json")
            and not {own / "locks", own / "imports"} & {path, *path.parents}
        }

    def refused(self, stage: str, *expected: str, key: str = "things", file_limit: int | None = None) -> None:
        """Assert that a stage fails with exactly these lines (regular expressions) and leaves everything as it was."""
        before = self.everything()
        result = self.run(stage, key, file_limit)
        lines, patterns = result.stderr.splitlines(), [f"error: {each}" for each in expected]
        assert len(lines) == len(patterns) and all(map(re.fullmatch, patterns, lines)), result.stderr
        assert "Traceback" not in result.stdout
        assert result.returncode == 1
        after = self.everything()
        assert {
            path for path in before.keys() | after.keys() if before.get(path, 0) != after.get(path, 0)
        } == set()


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
