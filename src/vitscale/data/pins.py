"""The entries of params.yaml's `download`, and their fingerprints held against those that were found."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitscale.base.errors import UserError
from vitscale.base.files import read_json

NOTE = "import.json"  # in the folder of an import that is kept


@dataclass(frozen=True, kw_only=True)
class Download:
    """An entry of params.yaml's `download`.

    `classes` for digits alone, `image_size` for images of any size, `labels` for held-out ones that lie in no
    class folders.
    """

    source: str
    sha256: dict[str, str | None]
    classes: list[int] | None = None
    image_size: int = 32
    labels: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All but the fingerprints."""
        return {key: value for key, value in asdict(self).items() if key != "sha256"}


def kept_import(key: str) -> Path:
    """Return where, in a pipeline's folder, an import of `download.<key>` is kept until it is pinned."""
    return Path(".vitscale/imports") / key


def read_note(note: Path) -> dict[str, Any]:
    """Return what is noted of an import that is kept; nothing where there is none, or it is damaged.

    Then the import is made again.
    """
    try:
        known = read_json(note, dict, "")
    except UserError:
        return {}
    return known if isinstance(known.get("found"), dict) and "files" in known else {}


def unpinned(name: str, expected: dict[str, str | None], found: dict[str, str]) -> list[str]:
    """Return a line for each split without a fingerprint in params.yaml, with the one to paste."""
    return [
        f"download.{name}.sha256.{split} is not pinned; "
        + (
            f"to pin what was imported, paste {found[split]}"
            if split in found
            else "`vitscale check` prints what to paste"
        )
        for split, pin in expected.items()
        if pin is None
    ]


def unpinned_in(download: dict[str, dict], pipeline: Path) -> list[str]:
    """Return the lines for all entries of a pipeline's `download`."""
    lines = []
    for name, entry in download.items():
        note = pipeline / kept_import(name) / NOTE
        known = read_note(note)
        found = known["found"] if known.get("settings") == Download(**entry).settings else {}
        lines += unpinned(name, entry["sha256"], found)
    return lines


def verify(name: str, expected: dict[str, str | None], found: dict[str, str]) -> None:
    """Raise UserError where params.yaml has another fingerprint."""
    faults = [
        f"{name}/{split} is not the data set of params.yaml: download.{name}.sha256.{split} is "
        f"{expected[split]}, found {value}"
        for split, value in found.items()
        if expected.get(split) not in (None, value)
    ]
    if faults:
        raise UserError("\n".join(faults))
