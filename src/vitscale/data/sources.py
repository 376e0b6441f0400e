"""Where a data set's images come from.

`VITSCALE_MIRROR` names a folder looked in first: for `<name>/`, `<name>.zip`, `.tar`, `.tar.gz` or `.tgz`,
laid out as `data.layout` says. Without one, CIFAR and Tiny-ImageNet come from their official sites, digits
from scikit-learn. Whatever the source, the same images give the same bytes on disk.
"""

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitscale.base.errors import CONTROLS, UserError
from vitscale.base.files import link, write_json
from vitscale.base.progress import say
from vitscale.data.containers import Container, Folder, Member, Zip, content_of
from vitscale.data.imports import Decoded, fingerprint, write_split
from vitscale.data.layout import arrange
from vitscale.data.official import CIFAR, TINY_IMAGENET, archive, read_cifar
from vitscale.data.pins import NOTE, Download, read_note
from vitscale.data.tars import Tar

SPLITS = ("train", "test")
ENDINGS = ("", ".zip", ".tar", ".tar.gz", ".tgz")  # in the order in which a mirror is asked


@dataclass
class Arrays:
    """A data set in memory: class names, and by split the images, uint8 (n, s, s, 3), and labels (n,)."""

    classes: list[str]
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


def _digits(chosen: list[int]) -> Arrays:
    """scikit-learn's 8x8 digits, each pixel repeated 4x4 in RGB.

    In its order every fourth image of a class is test.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    gray = ((data.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    every = gray.repeat(4, 1).repeat(4, 2)[..., None].repeat(3, 3)
    parts: dict[str, list] = {split: [] for split in SPLITS}
    for label, digit in enumerate(chosen):
        members = np.flatnonzero(data.target == digit)
        is_test = np.arange(len(members)) % 4 == 3
        for split, part in (("train", members[~is_test]), ("test", members[is_test])):
            parts[split].append((part, np.full(len(part), label)))
    order = {split: np.concatenate([part for part, _ in parts[split]]) for split in SPLITS}
    labels = {split: np.concatenate([label for _, label in parts[split]]) for split in SPLITS}
    return Arrays([str(digit) for digit in chosen], {split: every[order[split]] for split in SPLITS}, labels)


def find(folder: Path, name: str) -> Container | None:
    """Return a folder's data set of that name, in whatever it comes."""
    for ending in ENDINGS:
        path = folder / f"{name}{ending}"
        if path.is_dir() if ending == "" else path.is_file():
            return Folder(path) if ending == "" else Zip(path) if ending == ".zip" else Tar(path)
    return None


def _mirrored(name: str) -> Container | None:
    """Return the mirror's data set of that name, if it has one."""
    mirror = os.environ.get("VITSCALE_MIRROR")
    container = find(Path(mirror), name) if mirror else None
    if mirror and not container:
        print(f"VITSCALE_MIRROR={mirror} has no {_forms(name)}", file=sys.stderr, flush=True)
    return container


def _forms(name: str) -> str:
    first, *others, last = (f"{name}{ending or '/'}" for ending in ENDINGS)
    return f"{', '.join([first, *others])} or {last}"


def _check_names(name: str, classes: list[str]) -> None:
    for label in classes:
        if CONTROLS.search(label):
            raise UserError(
                f"{name}: the class {ascii(label)} has a control character in its name, or bytes that are no "
                "UTF-8; rename the folder"
            )
        if "</" in label or "<!--" in label:  # `dvc plots show` writes names as they are into a <script>
            raise UserError(
                f"{name}: the class {ascii(label)} has </ or <!-- in its name, which would end the script in "
                "the page of `dvc plots show`; rename it"
            )


def _write_arrays(arrays: Arrays, out: Path) -> None:
    for split in SPLITS:
        images, labels = arrays.images[split], arrays.labels[split]
        flat = images.reshape(len(images), -1)
        places = [np.flatnonzero(labels == label).tolist() for label in range(len(arrays.classes))]

        def read(place: int, start: int, stop: int, flat: np.ndarray = flat) -> bytes:
            return flat[place, start:stop].tobytes()

        write_split(out / split, arrays.classes, places, read, images.shape[1])


def _write_images(
    name: str, entry: Download, container: Container, members: list[Member], out: Path, kept: Path
) -> None:
    layout = arrange(
        container.where, members, entry.labels, lambda member: content_of(next(container.read([member]))[1])
    )
    _check_names(name, layout.classes)
    for line in layout.notes:
        say(line)
    decoded = Decoded(kept / "decoded", entry.image_size, resize=entry.source not in CIFAR)
    used = {each.name for classes in layout.splits.values() for images in classes.values() for each in images}
    decoded.add(container, [each for each in members if each.name in used], name)
    with decoded.reader() as read:
        for split, classes in layout.splits.items():
            places = [
                [decoded.places[decoded.line(each)] for each in classes.get(label, [])]
                for label in layout.classes
            ]
            write_split(out / split, layout.classes, places, read, entry.image_size)


def _write(
    name: str, entry: Download, container: Container | None, members: list[Member], out: Path, kept: Path
) -> None:
    if container:
        _write_images(name, entry, container, members, out, kept)
    elif entry.source == "digits":
        _write_arrays(_digits(entry.classes or []), out)
    elif entry.source in CIFAR:
        _write_arrays(Arrays(*read_cifar(entry.source, archive(CIFAR[entry.source]))), out)
    else:
        raise UserError(
            f"{name}: set VITSCALE_MIRROR to the folder that has {_forms(name)}; where DVC has removed the "
            "data, `git checkout params.yaml && dvc checkout` brings it back"
        )


def keep(entry: Download, raw: Path, kept: Path) -> None:
    """Keep a data set that is in the workspace, as after `dvc pull`, until it is pinned."""
    if all((raw / split).is_dir() for split in SPLITS) and not (kept / NOTE).exists():
        found = {split: fingerprint(raw / split) for split in SPLITS}
        shutil.rmtree(kept, ignore_errors=True)
        _link(raw, kept)
        write_json(kept / NOTE, {"settings": entry.settings, "files": None, "found": found})


def _whole(kept: Path, found: dict[str, str]) -> bool:
    try:
        return {split: fingerprint(kept / split) for split in SPLITS} == found
    except UserError:
        return False


def _link(source: Path, target: Path) -> None:
    """Give a data set's files another place; without another copy of them where the file system can."""
    for split in SPLITS:
        shutil.copytree(source / split, target / split, copy_function=link)


def bring(name: str, entry: Download, out: Path, kept: Path) -> dict[str, str]:
    """Write the data set of `download.<name>` to `out`/train and `out`/test; return their fingerprints.

    In `kept` stands what is decoded of an import that was stopped, and a whole one until params.yaml pins it:
    then nothing is decoded again. Raises UserError where the data set is absent or not what it should be.
    """
    container = None if entry.source == "digits" else _mirrored(name)
    if entry.source == "tinyimagenet" and not container:
        container = Zip(archive(TINY_IMAGENET))
    members = list(container.members()) if container else []
    note = {
        "settings": entry.settings,
        "files": hashlib.sha256("".join(map(Decoded.line, members)).encode()).hexdigest(),
    }
    known = read_note(kept / NOTE)
    found = known.get("found", {})
    if known.get("settings") == note["settings"] and _whole(kept, found):
        is_same = not container or known["files"] in (None, note["files"])
        is_pinned = found == entry.sha256
        if container and not is_same:
            then = "what was imported is pinned, and taken" if is_pinned else "it is imported again"
            say(f"{container.where} is not what {name} was imported from, or has changed; {then}")
        elif not container and entry.source == "imagefolder":
            say(f"{name}: taken from what was imported before, in {kept}")
        if is_same or is_pinned:
            _link(kept, out)
            if is_pinned:
                shutil.rmtree(kept)
            return found
    _write(name, entry, container, members, out, kept)
    found = {split: fingerprint(out / split) for split in SPLITS}
    shutil.rmtree(kept, ignore_errors=True)
    if found != entry.sha256:
        _link(out, kept)
        write_json(kept / NOTE, note | {"found": found})
    return found
