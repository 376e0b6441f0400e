"""Which files of a data set are images, of which split and of which class.

    [anything/]train/<class>/[anything/]<image>       and beside train/, the first that has classes is the
    [anything/]test|val|validation/<class>/…          test split; without any the test split is empty
    [anything/]test|val|validation/[anything/]<image> with a file of labels, a line `<file> <class>` each

So Tiny-ImageNet, ImageNet and Imagenette are read as their archives unpack. What isn't used is counted and
named, or refused.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from vitscale.base.errors import UserError, shown
from vitscale.data.containers import Member, nfc
from vitscale.data.decode import has_image_ending, is_hidden, is_image

HELD_OUT = ("test", "val", "validation")
TINY_IMAGENET_LABELS = "val_annotations.txt"  # in its val/, beside the images
MAX_LABELS = 64 << 20  # bytes
SHOWN = 6  # kinds of files that are named

Classes = dict[str, list[Member]]
Read = Callable[[Member], bytes]


@dataclass
class Layout:
    """Class names, each split's images by class, and what was left out, a line each."""

    classes: list[str]
    splits: dict[str, Classes]
    notes: list[str]


def _taken(member: Member) -> bool:
    return is_image(member.name, member.head) and not any(map(is_hidden, member.parts))


def _top(where: object, images: Iterable[Member]) -> tuple[str, ...]:
    """Return the folder whose train/ has images; the highest, where a class is called train."""
    tops = {parts[: parts.index("train")] for each in images if "train" in (parts := each.parts[:-1])}
    least = [top for top in sorted(tops) if len(top) == min(map(len, tops))]
    if not least:
        raise UserError(
            f"{where} has no train/ with class folders; it needs train/<class>/<image>, and for a "
            "target test/ or val/ beside it"
        )
    if len(least) > 1:
        names = ", ".join("/".join((*top, "train")) for top in least)
        raise UserError(f"{where} has images in {names}; leave one of them there")
    return least[0]


class Place:
    """A folder beside train/, or train/ itself: its files, with their paths below it."""

    def __init__(self, name: str, path: tuple[str, ...], members: list[Member]) -> None:
        self.name, self.path = name, path
        inside = [
            (parts[len(path) :], each) for each in members if (parts := each.parts)[: len(path)] == path
        ]
        self.members = [(parts, each) for parts, each in inside if parts]
        self.images = [(parts, each) for parts, each in self.members if not each.is_folder and _taken(each)]

    def classes(self, where: object) -> Classes:
        """Return the images by class folder. Raises UserError for one that is hidden or has none."""
        found: Classes = defaultdict(list)
        for parts, member in self.members:
            if len(parts) == 1 and not member.is_folder:
                continue
            if not is_hidden(parts[0]):
                found[nfc(parts[0])]
            elif not member.is_folder and has_image_ending(member.name):
                raise UserError(
                    shown(
                        f"{where}: the class folder {self.name}/{parts[0]} is hidden and has {member.name}; "
                        "rename it or take it out"
                    )
                )
        for parts, member in self.images:
            if len(parts) > 1:
                found[nfc(parts[0])].append(member)
        for label, images in found.items():
            if not images:
                raise UserError(
                    shown(
                        f"{where}: the class folder {self.name}/{label} holds no image; fill it or take it "
                        "out"
                    )
                )
        return dict(found)

    @property
    def is_sorted(self) -> bool:
        """Whether there are several folders of images: one alone, or none, says nothing of classes."""
        return len({parts[0] for parts, _ in self.images if len(parts) > 1}) > 1


def _labels(content: bytes, where: str) -> dict[str, str]:
    """Return the classes of files, by their names with and without endings."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is no text in UTF-8 ({error})") from error
    found: dict[str, str] = {}
    for line in filter(str.strip, lines):
        mark = next((mark for mark in "\t," if mark in line), None)
        try:
            fields = next(csv.reader([line], delimiter=mark)) if mark else line.split()
        except csv.Error:
            fields = []
        if len(fields) < 2:
            line = line if len(line) < 80 else f"{line[:80]}…"
            raise UserError(shown(f"{where}: {line!r} is no line of a file and its class"))
        name, label = PurePosixPath(nfc(fields[0].strip())), nfc(fields[1].strip())
        if found.setdefault(name.name, label) != label:
            raise UserError(shown(f"{where} gives {name.name} two classes, {found[name.name]} and {label}"))
        found.setdefault(name.stem, label)
    return found


def _labelled(place: Place, known: set[str], labels: dict[str, str], where: str) -> Classes:
    """Return a place's images by the classes in a file of labels; nothing where it names none of them.

    Raises UserError where it names some.
    """
    found: Classes = defaultdict(list)
    missing = []
    for _, member in place.images:
        name = PurePosixPath(nfc(member.name))
        label = labels.get(name.name) or labels.get(name.stem)
        if not label:
            missing.append(member.name)
            continue
        # Kaggle's ImageNet has boxes behind the class.
        found[label if label in known else label.split()[0]].append(member)
    if found and missing:
        raise UserError(
            shown(f"{where} names no class for {_counted(len(missing), 'image')}: {missing[0]} …; add them")
        )
    return dict(found)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _kinds(members: list[Member]) -> str:
    names = [PurePosixPath(each.name) for each in members]
    kinds = Counter(f"*{name.suffix}" if name.suffix and name.stem[0] != "." else name.name for name in names)
    return ", ".join(kind for kind, _ in kinds.most_common(SHOWN)) + ", …" * (len(kinds) > SHOWN)


def _left_out(members: list[Member], used: set[str], top: tuple[str, ...], places: list[str]) -> list[str]:
    """Return lines that count and name the files that aren't used."""
    left = [each for each in members if not each.is_folder and each.name not in used]
    inside: list[Member] = []
    beside: list[Member] = []
    images: Counter[str] = Counter()
    for each in left:
        place = each.parts[: len(top) + 1]
        if _taken(each):
            images["/".join(place)] += 1
        else:
            (inside if place[:-1] == top and place[-1] in places else beside).append(each)
    lines = []
    if inside:
        lines.append(f"left out {_counted(len(inside), 'file')} that are no images: {_kinds(inside)}")
    for folder, count in sorted(images.items()):
        hint = "; `labels` can name a file with their classes" * (
            places == ["train"] and folder.rsplit("/", 1)[-1] in HELD_OUT
        )
        lines.append(
            f"left out {_counted(count, 'image')} in {folder}: in no class folder of "
            f"{'/ or '.join(places)}/{hint}"
        )
    if beside:
        lines.append(f"left out {_counted(len(beside), 'other file')} beside {places[0]}/: {_kinds(beside)}")
    return [shown(line) for line in lines]


def arrange(where: object, members: list[Member], labels: str | None, read: Read) -> Layout:
    """Return the layout of a data set's files.

    `labels` is the path, below the top or the folder of train/, of a file with the classes of held-out images
    that lie in no class folders; `read` returns a file's content. Raises UserError where there is no layout.
    """
    top = _top(where, filter(_taken, members))
    by_name = {each.name: each for each in members}
    train = Place("train", (*top, "train"), members).classes(where)
    test: Classes = {}
    used, held_out = set[str](), ""
    for place in (Place(name, (*top, name), members) for name in HELD_OUT):
        paths = (
            [labels, "/".join((*top, labels))] if labels else ["/".join((*place.path, TINY_IMAGENET_LABELS))]
        )
        path = next((each for each in paths if each in by_name), None)
        if place.is_sorted or {nfc(parts[0]) for parts, _ in place.images} & set(train):
            test = place.classes(where)
        elif path:
            said = f"{where}: {path}"
            if by_name[path].size > MAX_LABELS:
                raise UserError(
                    shown(f"{said} has more than the {MAX_LABELS} bytes that a file of labels may")
                )
            test = _labelled(place, set(train), _labels(read(by_name[path]), said), said)
            used |= {path} if test else set()
        if test:
            held_out = place.name
            break
    if labels and not used:
        known = any(each in by_name for each in (labels, "/".join((*top, labels))))
        why = "names none of the images that lie in no class folders" if known else "is not there"
        raise UserError(shown(f"{where}: {labels}, the file of labels that params.yaml names, {why}"))
    if test and set(train) != set(test):
        odd = sorted(set(train) ^ set(test))
        raise UserError(
            shown(
                f"{where}: train/ and {held_out}/ must have the same classes; only one of them has "
                f"{', '.join(odd[:10])}{', …' * (len(odd) > 10)}"
            )
        )
    used |= {each.name for classes in (train, test) for images in classes.values() for each in images}
    notes = _left_out(members, used, top, ["train", held_out] if test else ["train"])
    if not test:
        notes.append(f"{where} has no test split: it can be pretrained on, and be no target")
    return Layout(sorted(train), {"train": train, "test": test}, notes)
