"""Whatever a data set comes from, the same images give the same bytes."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
import yaml
from PIL import Image

from archives import (
    FOLDER,
    documented,
    encode,
    make_set,
    members_of,
    of_class,
    splits,
    write_folder,
    write_zip,
    written,
)
from tiny import ROOT
from vitscale.base.errors import UserError
from vitscale.data.sources import SPLITS, _check_names

pytestmark = pytest.mark.usefixtures("attempts")


# ---- canonical form ----
def test_every_form_gives_the_same_bytes(mirror, tmp_path):
    """Folder, zip, another member order, compression, file names, lossless format: byte-equal and as documented."""
    data = make_set()
    members = members_of(data)
    shuffled = {name: members[name] for name in np.random.default_rng(1).permutation(list(members)).tolist()}
    with_folders = {f"{split}/{label}/": b"" for split in SPLITS for label in data[split]} | members
    write_folder(mirror / "folder", members)
    write_zip(mirror / "zip.zip", members)
    write_zip(mirror / "shuffled.zip", shuffled, zipfile.ZIP_DEFLATED)
    write_zip(mirror / "entries.zip", with_folders, zipfile.ZIP_LZMA)
    write_folder(mirror / "renamed", members_of(data, lambda i: f"{'zyxwvutsr'[i]} é.PNG"))
    write_folder(mirror / "bmp", members_of(data, lambda i: f"{9 - i}.bmp", "BMP"))
    litter = [
        "README.txt",
        "train/.DS_Store",
        "train/cat/.DS_Store",
        "__MACOSX/train/cat/0.png",
        "test/cat/.cache/0.png",
        "extra/cat/0.png",
    ]
    write_folder(mirror / "litter", members | dict.fromkeys(litter, b"x"))
    forms = ("folder", "zip", "shuffled", "entries", "renamed", "bmp", "litter")
    results = {form: written(form, FOLDER, tmp_path / "out" / form) for form in forms}
    found, files = results["folder"]
    assert found == {split: documented(data[split]) for split in SPLITS}
    assert {form for form, result in results.items() if result != (found, files)} == set()
    assert set(files) == {
        f"{split}/{file}" for split in SPLITS for file in ("classes.json", "images.npy", "labels.npy")
    }
    for split in SPLITS:
        expected = [
            np.frombuffer(pixels, np.uint8).reshape(32, 32, 3)
            for name in ("bird", "cat", "dog")
            for pixels in sorted(image.tobytes() for image in data[split][name])
        ]
        images, labels = (np.load(io.BytesIO(files[f"{split}/{part}.npy"])) for part in ("images", "labels"))
        assert images.dtype == np.uint8 and np.array_equal(images, expected)
        assert labels.dtype == np.int64 and labels.tolist() == 4 * [0] + 5 * [1] + 6 * [2]
        assert json.loads(files[f"{split}/classes.json"]) == ["bird", "cat", "dog"]


def test_fingerprint_sees_pixels_and_labels(mirror, tmp_path):
    """One pixel's lowest bit, or one image in another class, gives another fingerprint of that split alone."""
    data = make_set()
    write_folder(mirror / "good", members_of(data))
    one_bit = {
        split: {name: images.copy() for name, images in by_class.items()} for split, by_class in data.items()
    }
    one_bit["test"]["dog"][3, 31, 31, 2] ^= 1
    write_folder(mirror / "one_bit", members_of(one_bit))
    moved = {
        "train": data["train"],
        "test": data["test"]
        | {
            "bird": data["test"]["bird"][1:],
            "cat": np.concatenate([data["test"]["cat"], data["test"]["bird"][:1]]),
        },
    }
    write_folder(mirror / "moved", members_of(moved))
    found = {name: written(name, FOLDER, tmp_path / "out" / name)[0] for name in ("good", "one_bit", "moved")}
    assert len({each["test"] for each in found.values()}) == 3
    assert len({each["train"] for each in found.values()}) == 1


def test_fingerprint_sees_the_names(mirror, tmp_path):
    """Classes that were renamed, or two whose names were exchanged with their order kept, pass for the same data set."""
    data, found = make_set(), {}
    for name, renamed in (("good", "bird"), ("other", "bear"), ("comma", "bird, crane")):
        classes = {
            split: {renamed: of["bird"], "cat": of["cat"], "dog": of["dog"]} for split, of in data.items()
        }
        write_folder(mirror / name, members_of(classes))
        found[name] = written(name, FOLDER, tmp_path / name)[0]
    assert (
        len({each["train"] for each in found.values()}) == len({each["test"] for each in found.values()}) == 3
    )


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x7f", "a\u2028b", os.fsdecode(b"caf\xe9")])
def test_odd_class_names_are_refused(mirror, tmp_path, name):
    """A line break in a name breaks tables, and bytes that are no text end in a traceback after an hour."""
    write_folder(mirror / "things", members_of(make_set(classes=("cat", name))))
    with pytest.raises(UserError) as caught:
        written("things", FOLDER, tmp_path / "out")
    line = str(caught.value)
    assert line.startswith(f"things: the class {ascii(name)} has a control character") and "\n" not in line


@pytest.mark.parametrize("name", ["<!--<script>", "</script><img src=x onerror=alert(1)>"])
def test_class_names_that_end_a_script_are_refused(name):
    """A class's name runs as HTML in the page of `dvc plots show`, which writes it as it is into a script."""
    with pytest.raises(UserError, match="^things: the class '<.* has </ or <!-- in its name") as caught:
        _check_names("things", ["cat", name])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["Hündchen", "crane, whooping", 'say "cheese"', "犬", "a b\u00a0c", "#1 | x", "age <5", "=1+1"]
)
def test_usual_class_names_are_taken(mirror, tmp_path, name):
    write_folder(mirror / "things", members_of(make_set(classes=("cat", name))))
    assert splits("things", FOLDER, tmp_path / "out")["train"].classes == sorted(["cat", name])


@pytest.mark.parametrize("classes", [256, 257])
def test_class_ids_beyond_one_byte(mirror, tmp_path, classes):
    """The 257th class has the number of the first."""
    data = make_set(classes=tuple(f"{i:03d}" for i in range(classes)), count=1, size=2)
    data = {
        split: {name: images[:1] for name, images in by_class.items()} for split, by_class in data.items()
    }
    write_zip(mirror / "many.zip", members_of(data))
    found, files = written("many", FOLDER | {"image_size": 2}, tmp_path / "out")
    assert found == {split: documented(data[split]) for split in SPLITS}
    assert np.load(io.BytesIO(files["test/labels.npy"])).tolist() == list(range(classes))


def test_imagefolder_takes_the_centre_square(mirror, tmp_path):
    """A wide image loses its sides and nothing else; EXIF's orientation is applied first."""
    centre = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    wide = np.concatenate([np.zeros((32, 10, 3), np.uint8), centre, np.zeros((32, 10, 3), np.uint8)], axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    write_folder(
        mirror / "odd",
        {
            f"{split}/{label}/0.png": content
            for split in SPLITS
            for label, content in (("turned", encode(centre, exif=exif)), ("wide", encode(wide)))
        },
    )
    train = splits("odd", FOLDER, tmp_path / "out")["train"]
    assert train.classes == ["turned", "wide"]
    assert np.array_equal(train.images[0], np.rot90(centre, -1))
    assert np.array_equal(train.images[1], centre)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_file_beside_the_class_folders_is_no_class(mirror, tmp_path, capsys, form):
    """An overview picture that lies in train/ and test/ is made a class of one image, or left out without a word."""
    members = members_of(make_set()) | {
        f"{split}/overview.png": encode(np.zeros((32, 32, 3), np.uint8)) for split in SPLITS
    }
    write_folder(mirror / "things", members) if form == "folder" else write_zip(
        mirror / "things.zip", members
    )
    assert splits("things", FOLDER, tmp_path / "out")["train"].classes == ["bird", "cat", "dog"]
    assert "left out 1 image in train: in no class folder of train/ or test/" in capsys.readouterr().out


def test_folders_inside_a_class_folder_count_alike_in_both_forms(mirror, tmp_path):
    """Images in a folder within a class folder: the folder form and the zip form do the same with them."""
    members = members_of(make_set(), lambda i: f"part{i % 2}/{i}.png")
    write_folder(mirror / "folder", members)
    write_zip(mirror / "zip.zip", members)

    def outcome(name: str):
        try:
            return written(name, FOLDER, tmp_path / "out" / name)[0]
        except UserError:
            return "refused"

    assert outcome("folder") == outcome("zip")


# ---- digits ----
def test_digits_are_scaled_repeated_and_split(monkeypatch, tmp_path):
    """Each 0..16 value becomes the nearest of 0..255, 4x4 times in RGB; every fourth image of a class is test."""
    from sklearn.datasets import load_digits

    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path))  # never asked for digits
    (tmp_path / "digits" / "train" / "0").mkdir(parents=True)
    data, chosen = load_digits(), [7, 2]
    made = splits("digits", {"source": "digits", "classes": chosen}, tmp_path / "out")
    assert made["train"].classes == made["test"].classes == ["7", "2"]
    for label, digit in enumerate(chosen):
        members = data.images[data.target == digit]
        images = {split: of_class(made[split], label) for split in SPLITS}
        test = members[3::4]
        train = np.delete(members, np.s_[3::4], axis=0)
        for split, unordered in (("train", train), ("test", test)):
            originals = np.array(sorted(unordered, key=lambda each: each.astype(np.uint8).tobytes()))
            assert images[split].dtype == np.uint8 and images[split].shape == (len(originals), 32, 32, 3)
            assert np.array_equal(
                images[split], images[split][:, ::4, ::4, :1].repeat(4, 1).repeat(4, 2).repeat(3, 3)
            )
            scaled = originals * 255 / 16
            assert np.abs(images[split][:, ::4, ::4, 0] - scaled).max() <= 0.5
        assert images["train"].min() == 0 and images["train"].max() == 255
        known = {image.tobytes() for image in images["train"]}
        assert not any(image.tobytes() in known for image in images["test"])
        assert len(train) + len(test) == (data.target == digit).sum()


def test_the_digits_example_has_its_fingerprints(tmp_path):
    """What examples/digits/params.yaml pins is what scikit-learn gives, without a network."""
    entries = yaml.safe_load((ROOT / "examples/digits/params.yaml").read_text())["download"]
    assert len(entries) == 2
    for name, entry in entries.items():
        found, files = written(name, entry, tmp_path / name)
        assert found == entry["sha256"]
        images, labels = (np.load(io.BytesIO(files[f"test/{part}.npy"])) for part in ("images", "labels"))
        by_class = {str(digit): images[labels == i] for i, digit in enumerate(entry["classes"])}
        assert found["test"] == documented(by_class)


def test_entries_of_one_source_are_looked_up_by_name(mirror, tmp_path):
    """The mirror is asked for the entry's name, so a second data set of the same source can stand beside the first."""
    data = make_set(3)
    write_folder(mirror / "cifar10-again", members_of(data))
    write_folder(mirror / "cifar10", members_of(make_set(4)))
    assert written("cifar10-again", {"source": "cifar10", "sha256": {}}, tmp_path / "out")[0] == {
        split: documented(data[split]) for split in SPLITS
    }


@pytest.mark.parametrize("mirrored", [False, True])
def test_imagefolder_needs_a_mirror(mirrored, monkeypatch, tmp_path):
    """An imagefolder has no official site: one line says what to set."""
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path) if mirrored else "")
    with pytest.raises(UserError) as caught:
        written("things", FOLDER, tmp_path / "out")
    assert str(caught.value) == (
        "things: set VITSCALE_MIRROR to the folder that has things/, things.zip, things.tar, things.tar.gz or things.tgz; "
        "where DVC has removed the data, `git checkout params.yaml && dvc checkout` brings it back"
    )
