"""Names of classes and files: one name in NFC and NFD, archives that don't say their encoding, odd and long ones."""

import json
import os
import shutil
import subprocess
import unicodedata
import zipfile
from pathlib import Path

import pytest

from archives import documented, make_set, members_of
from layouts import FORMS, counts, dot, imported, write_form
from vitscale.base.errors import UserError
from vitscale.data.sources import SPLITS

NAMES = ("Hündchen", "éléphant", "naïve ñandú")
NFC, NFD = ({name: unicodedata.normalize(form, name) for name in NAMES} for form in ("NFC", "NFD"))


class Unflagged(zipfile.ZipInfo):
    """A zip's member whose name is written in some encoding, without the flag that says it is UTF-8."""

    encoding = "utf-8"

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802
        return self.filename.encode(self.encoding), self.flag_bits & ~0x800


def write_unflagged(where: Path, members: dict[str, bytes], encoding: str) -> None:
    with zipfile.ZipFile(where, "w") as archive:
        for name, content in members.items():
            info = Unflagged(name)
            info.encoding = encoding
            archive.writestr(info, content)
    with zipfile.ZipFile(where) as archive:
        assert not any(info.flag_bits & 0x800 for info in archive.infolist())


def named(data: dict, names: dict[str, str]) -> dict[str, bytes]:
    return {
        f"{member.split('/')[0]}/{names[member.split('/')[1]]}/{member.split('/')[2]}": content
        for member, content in members_of(data).items()
    }


# ---- NFC and NFD ----
@pytest.mark.parametrize("form", FORMS)
def test_both_normal_forms_are_one_name(mirror, tmp_path, form):
    """The same data set, copied by a Mac, has other classes and another fingerprint."""
    data = make_set(classes=NAMES)
    expected = {
        split: documented({NFC[name]: each for name, each in data[split].items()}) for split in SPLITS
    }
    for name, names in (("composed", NFC), ("decomposed", NFD)):
        write_form(mirror, name, form, named(data, names))
        found, files = imported(name, tmp_path / name)
        assert found == expected
        assert json.loads(files["train/classes.json"]) == sorted(NFC.values())


def test_a_split_in_each_normal_form(mirror, tmp_path):
    """train/ in NFC and test/ in NFD have no class in common."""
    data = make_set(classes=NAMES)
    members = {name: each for name, each in named(data, NFC).items() if name.startswith("train/")}
    members |= {name: each for name, each in named(data, NFD).items() if name.startswith("test/")}
    write_form(mirror, "things", "", members)
    _, files = imported("things", tmp_path / "out")
    assert set(counts(files, "test")) == set(counts(files, "train")) == set(NFC.values())


@pytest.mark.parametrize("form", ["", ".zip", ".tar"])
def test_one_class_in_both_normal_forms(mirror, tmp_path, form):
    """Two folders that look alike are two classes, or the files of one of them are lost."""
    members = {f"{split}/{NFC['Hündchen']}/{i}.png": dot(i) for split in SPLITS for i in range(3)}
    members |= {f"{split}/{NFD['Hündchen']}/{i}.png": dot(10 + i) for split in SPLITS for i in range(2)}
    write_form(mirror, "things", form, members)
    assert counts(imported("things", tmp_path / "out")[1]) == {NFC["Hündchen"]: 5}


# ---- zips that don't say their encoding ----
@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_names_of_an_old_zip(mirror, tmp_path, encoding):
    """Info-ZIP writes UTF-8 without its flag: `Hündchen` becomes `H├╝ndchen`; a true DOS zip must not be read as UTF-8."""
    data = make_set(classes=NAMES)
    write_form(mirror, "folder", "", named(data, NFC))
    write_unflagged(mirror / "things.zip", named(data, NFC), encoding)
    assert imported("things", tmp_path / "zip") == imported("folder", tmp_path / "folder")


def test_a_zip_of_letters_beyond_cp437(mirror, tmp_path):
    """UTF-8 without its flag is only mended for letters that DOS had."""
    data = make_set(classes=("犬", "кот", "naïve"))
    write_form(mirror, "folder", "", members_of(data))
    write_unflagged(mirror / "things.zip", members_of(data), "utf-8")
    assert imported("things", tmp_path / "zip") == imported("folder", tmp_path / "folder")


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs Info-ZIP")
def test_what_info_zip_writes(mirror, tmp_path):
    """The program itself, not our picture of it: its zip gives other classes than the folder."""
    data = make_set(classes=("Hündchen", "犬"))
    write_form(mirror, "folder", "", members_of(data))
    subprocess.run(["zip", "-qr", mirror / "things.zip", "."], cwd=mirror / "folder", check=True)
    assert imported("things", tmp_path / "zip") == imported("folder", tmp_path / "folder")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_an_old_zip(mirror, tmp_path):
    """Two members that are one name once decoded: one of the two images is read twice, or lost."""
    with zipfile.ZipFile(mirror / "things.zip", "w") as archive:
        for split in SPLITS:
            archive.writestr(f"{split}/Hündchen/0.png", dot(1))
            archive.writestr(Unflagged(f"{split}/Hündchen/0.png"), dot(2))
    with pytest.raises(UserError) as caught:
        imported("things", tmp_path / "out")
    assert "\n" not in str(caught.value) and "0.png" in str(caught.value)


# ---- odd and long names ----
ODD = (
    "a class, with commas, and blanks",
    'say "cheese"',
    "it's",
    "crane (bird)",
    "犬",
    "Ελλάδα",
    "100%",
    "#1 | x",
    "a;b&c$d*?[e]",
    "-rf",
    " first",
    "last ",
    "-",
    "a.b.png",
    "train",
    "long " * 40 + "name",
    "ñ" * 120,
)


@pytest.mark.parametrize("form", FORMS)
def test_odd_names_in_every_form(mirror, tmp_path, form):
    """A name is cut, split at a comma or a blank, or read as a pattern; or forms differ in what they make of it."""
    members = {}
    for split in SPLITS:
        for i, name in enumerate(ODD):
            members[f'{split}/{name}/{"x" * 240}, "é" {i}.png'] = dot(i)
            members[f"{split}/{name}/*?[0-9] é/犬.png"] = dot(100 + i)
    write_form(mirror, "things", form, members)
    found, files = imported("things", tmp_path / "out", image_size=2)
    assert (
        counts(files)
        == counts(files, "test")
        == dict.fromkeys(sorted(unicodedata.normalize("NFC", name) for name in ODD), 2)
    )
    write_form(mirror, "folder", "", members)
    assert imported("folder", tmp_path / "folder", image_size=2) == (found, files)


@pytest.mark.parametrize("form", [".zip", ".tar"])
def test_a_class_name_that_breaks_lines(mirror, tmp_path, form):
    """A line break from an archive's name reaches tables and messages."""
    write_form(mirror, "things", form, members_of(make_set(classes=("a\nb", "cat"))))
    with pytest.raises(UserError) as caught:
        imported("things", tmp_path / "out")
    assert "\n" not in str(caught.value) and "control character" in str(caught.value)


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "two\nlines", "a\x1b[31mred"])
def test_odd_file_names_in_messages(work, name):
    """A file's name that is no text ends in a traceback when it is printed, or one with a line break in two lines."""
    for ending in ("", ".png", ".bak"):
        work.put(
            "things",
            members_of(make_set()) | {f"train/cat/{name}{ending}": dot(1) if ending == ".png" else b"x"},
        )
    work.params(things={"source": "imagefolder", "image_size": 32, "sha256": {"train": None, "test": None}})
    result = work.run("download")
    assert (result.returncode, result.stderr) == (0, "")
    [line] = [line for line in result.stdout.splitlines() if "left out" in line]
    assert line.startswith("left out 2 files that are no images: ") and "*.bak" in line
    work.put("things", {f"train/cat/{name}.png": b"x"})
    result = work.run("download")
    [line] = result.stderr.splitlines()
    assert result.returncode == 1 and line.endswith("; replace it or take it out")
