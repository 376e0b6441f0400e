"""What lies beside the images: left out, counted and named; nothing dropped in silence; faults all at once."""

import os
import re

import numpy as np
import pytest

from archives import FOLDER, documented, encode, make_set, members_of
from layouts import counts, dot, imported, said, write_form
from vitscale.base.errors import UserError
from vitscale.data.sources import SPLITS

BROKEN = "{}: {} can't be decoded as an image \\(.+\\); replace it or take it out"


pytestmark = pytest.mark.usefixtures("soon")


def left_out(text: str) -> list[str]:
    return [line for line in text.splitlines() if "that are no images" in line]


# ---- no images ----
@pytest.mark.parametrize("form", ["", ".zip", ".tar", ".tar.gz"])
def test_files_that_are_no_images(mirror, tmp_path, capsys, form):
    """They are refused, decoded, or left out without their number and kinds."""
    data = make_set()
    litter = {f"train/{name}/{name}_boxes.txt": b"0 1 2 3\n" for name in data["train"]}
    litter |= {"test/cat/a/notes.TXT": b"x", "test/dog/labels.csv": b"x", "train/dog/LICENSE": b"free\n"}
    write_form(mirror, "things", form, litter | members_of(data))
    found = imported("things", tmp_path / "out")[0]
    assert found == {split: documented(data[split]) for split in SPLITS}
    [line] = left_out(capsys.readouterr().out)
    number, names = re.fullmatch(r"left out (\d+) files that are no images: (.+)", line).groups()
    assert int(number) == 6
    assert sorted(names.lower().split(", ")) == ["*.csv", "*.txt", "license"] or sorted(
        names.split(", ")
    ) == [
        "*.TXT",
        "*.csv",
        "*.txt",
        "LICENSE",
    ]


def test_nothing_to_leave_out_is_not_said(mirror, tmp_path, capsys):
    """ "left out 0 files" is printed for a clean data set."""
    write_form(mirror, "things", "", members_of(make_set()))
    imported("things", tmp_path / "out")
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("form", ["", ".zip", ".tar"])
@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png", "._0.png"])
def test_system_files(mirror, tmp_path, capsys, form, name):
    """A hidden or a system file is decoded, refused, or dropped in silence."""
    data = make_set()
    litter = {
        f"{split}/{label}/{name}": b"\0\5\x16\7 not an image" for split in SPLITS for label in ("cat", "dog")
    }
    write_form(mirror, "things", form, members_of(data) | litter)
    found = imported("things", tmp_path / "out")[0]
    assert found == {split: documented(data[split]) for split in SPLITS}
    [line] = left_out(capsys.readouterr().out)
    assert line.startswith("left out 4 files that are no images: ")
    assert name in line or f"*{os.path.splitext(name)[1]}" in line


@pytest.mark.parametrize("name", ["scan", "scan.dat", "scan.001"])
def test_an_image_that_is_not_called_one(mirror, tmp_path, capsys, name):
    """An image without an image's ending is neither among the images nor named."""
    write_form(mirror, "things", "", members_of(make_set()) | {f"train/cat/{name}": dot(1)})
    number = counts(imported("things", tmp_path / "out")[1])["cat"]
    told = [line for line in left_out(capsys.readouterr().out) if "left out 1 " in line]
    assert (number, len(told)) in ((6, 0), (5, 1))


@pytest.mark.parametrize("form", ["", ".zip", ".tar"])
def test_the_notes_of_macos(mirror, tmp_path, form):
    """`__MACOSX/`, which a zip made on a Mac has beside the data set, is taken for the root, or for images."""
    data = make_set()
    notes = {
        f"__MACOSX/things/{name.rpartition('/')[0]}/._{name.rpartition('/')[2]}": b"\0\5\x16\7"
        for name in members_of(data)
    }
    write_form(
        mirror, "things", form, notes | {f"things/{name}": each for name, each in members_of(data).items()}
    )
    assert imported("things", tmp_path / "out")[0] == {split: documented(data[split]) for split in SPLITS}


@pytest.mark.parametrize("form", ["", ".zip"])
def test_a_class_of_no_image(mirror, tmp_path, form):
    """A class that holds nothing but what is left out becomes one without images, or vanishes."""
    litter = {f"{split}/cow/notes.txt": b"x" for split in SPLITS}
    where = write_form(mirror, "things", form, members_of(make_set()) | litter)
    with pytest.raises(UserError) as caught:
        imported("things", tmp_path / "out")
    assert said(str(caught.value), str(where), "train/cow")


# ---- nothing is dropped in silence ----
@pytest.mark.parametrize("form", ["", ".zip", ".tar"])
@pytest.mark.parametrize("label", ["_negatives", "__none", ".cats", ".raw images"])
def test_a_class_folder_with_an_odd_first_letter(mirror, tmp_path, form, label):
    """The whole class is missing, and nothing is said."""
    write_form(mirror, "things", form, members_of(make_set(classes=("bird", label))))
    try:
        _, files = imported("things", tmp_path / "out")
    except UserError as error:
        lines = str(error).splitlines()
        assert len(lines) == 1 and label in lines[0]
        assert label.startswith(".")
    else:
        assert counts(files) == {"bird": 4, label: 5}


@pytest.mark.parametrize("kind", ["class", "split", "image", "root"])
def test_links_in_a_folder_are_read(mirror, tmp_path, kind):
    """A linked folder or file is skipped in silence."""
    data = make_set()
    where = write_form(mirror, "things", "", members_of(data))
    linked = {"class": "train/cat", "split": "train", "image": "test/dog/0001.png", "root": "."}[kind]
    (where / linked).rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", mirror / "things" / linked if kind != "root" else where)
    assert imported("things", tmp_path / "out")[0] == {split: documented(data[split]) for split in SPLITS}


@pytest.mark.parametrize("target", ["..", ".", "../../train"])
def test_a_circle_of_links(mirror, tmp_path, target):
    """It is followed until the name is too long, or the images below it count many times."""
    where = write_form(mirror, "things", "", members_of(make_set()))
    os.symlink(target, where / "train/cat/again")
    with pytest.raises(UserError) as caught:
        imported("things", tmp_path / "out")
    assert "\n" not in str(caught.value) and "train/cat/again" in str(caught.value)


@pytest.mark.parametrize("kind", ["FIFO", "FIFO as class", "link to nothing", "class that links to nothing"])
def test_what_is_neither_file_nor_folder(mirror, tmp_path, capsys, kind):
    """It is waited at for ever, ends in a traceback, or is skipped in silence."""
    where = write_form(mirror, "things", "", members_of(make_set()))
    name = "train/odd" if "class" in kind else "train/cat/odd.png"
    os.mkfifo(where / name) if "FIFO" in kind else os.symlink("/nowhere/at/all", where / name)
    try:
        imported("things", tmp_path / "out")
        told = capsys.readouterr().out
    except UserError as error:
        told = str(error)
        assert "\n" not in told
    assert said(told, name.rpartition("/")[2])


@pytest.mark.parametrize("form", ["", ".zip", ".tar", ".tgz"])
def test_every_file_is_accounted_for(mirror, tmp_path, capsys, form):
    """Among many odd names one file is neither an image that was read nor one that is said to be left out."""
    names = [
        "a.png",
        "b.PNG",
        "c.jpeg.png",
        "d",
        "e.txt",
        ".f.png",
        "g.jpg.bak",
        "_h.png",
        "i .png",
        "j.",
        "k..png",
    ]
    members = {f"{split}/cat/{name}": dot(i) for split in SPLITS for i, name in enumerate(names)}
    write_form(mirror, "things", form, members)
    _, files = imported("things", tmp_path / "out")
    out = sum(int(re.match(r"left out (\d+) ", line)[1]) for line in left_out(capsys.readouterr().out))
    read = sum(counts(files, split)["cat"] for split in SPLITS)
    assert read + out == 2 * len(names) and read >= 12


# ---- faults, all at once ----
@pytest.mark.parametrize("form", ["", ".zip", ".tar", ".tar.gz"])
def test_all_faulty_files_are_listed(mirror, tmp_path, form):
    """The first ends the import: the next run names the second, an hour later."""
    data, good = make_set(), encode(np.zeros((40, 50, 3), np.uint8))
    faulty = {
        "train/bird/0001.png": good[:60],
        "train/bird/0002.png": b"",
        "train/dog/deep/er.jpg": b"no image",
        "test/cat/x.webp": b"RIFF\0\0\0\0WEBPVP8 ",
        "test/dog/0004.png": good[:-20] + bytes(20),
    }
    where = write_form(mirror, "things", form, members_of(data) | faulty | {"train/cat/fine.txt": b""})
    for _ in range(2):  # the second run finds what the first one kept
        with pytest.raises(UserError) as caught:
            imported("things", tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(faulty)
    for name in faulty:
        assert (
            sum(bool(re.fullmatch(BROKEN.format(re.escape(str(where)), name), line)) for line in lines) == 1
        )


def test_all_faults_of_a_large_set_are_listed(mirror, tmp_path):
    """With several processes at work only the first one's fault is told, or the order is one of chance."""
    members = {
        f"{split}/{label}/{i:04}.png": dot(i) for split in SPLITS for label in "ab" for i in range(500)
    }
    faulty = [
        "train/a/0007.png",
        "train/a/0490.png",
        "train/b/0250.png",
        "test/a/0000.png",
        "test/b/0499.png",
    ]
    where = write_form(mirror, "things", ".zip", members | dict.fromkeys(faulty, b"no image"))
    told = []
    for out in ("one", "two"):
        with pytest.raises(UserError) as caught:
            imported("things", tmp_path / out, image_size=8)
        told.append(str(caught.value).splitlines())
    assert told[0] == told[1]
    assert len(told[0]) == len(faulty)
    for name in faulty:
        assert said("\n".join(told[0]), str(where), f" {name} can't be decoded")


def test_a_mended_data_set_is_imported(work):
    """What an import with faults left behind stands in the way of the next, or the faulty files stay out."""
    data = make_set()
    names = ["test/dog/0002.png", "train/cat/0001.png"]
    where = work.put("things", members_of(data) | dict.fromkeys(names, b"x"))
    found = {split: documented(data[split]) for split in SPLITS}
    work.params(things=FOLDER | {"sha256": found})
    work.refused("download", *(BROKEN.format(where, name) for name in names))
    work.put("things", members_of(data))
    result = work.run("download")
    assert (result.returncode, result.stderr) == (0, "")
