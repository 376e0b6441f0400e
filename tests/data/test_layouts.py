"""Data sets as they are published, as they unpack or packed: the images of each class, and what is said."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from archives import FOLDER as UNPINNED
from archives import documented, encode, make_set, members_of
from layouts import (
    FORMS,
    WNIDS,
    classes_of,
    counts,
    imagenet,
    imagenette,
    imported,
    photo,
    said,
    sorted_bytes,
    tiny_imagenet,
    write_form,
    write_tar,
)
from vitscale.base.errors import UserError
from vitscale.data.decode import square
from vitscale.data.sources import SPLITS


def held(files: dict[str, bytes], labelled: dict, side: int) -> None:
    """Assert that an import has exactly these files' images in these classes."""
    for split in SPLITS:
        found = classes_of(files, split)
        assert list(found) == sorted(labelled[split])
        for name, contents in labelled[split].items():
            assert sorted_bytes(found[name]) == sorted_bytes(square(each, side) for each in contents), name


# ---- as published ----
@pytest.mark.parametrize("form", FORMS)
def test_tiny_imagenet(mirror, tmp_path, capsys, form):
    """Refused for its boxes, for having val/, or its validation images in no class folders are one class."""
    members, labelled = tiny_imagenet()
    write_form(mirror, "things", form, members)
    found, files = imported("things", tmp_path / "out", image_size=64)
    held(files, labelled, 64)
    pixels = {
        wnid: np.stack([np.array(Image.open(io.BytesIO(each))) for each in labelled["test"][wnid]])
        for wnid in WNIDS
    }
    assert found["test"] == documented(pixels)
    out = capsys.readouterr().out
    assert f"left out {len(WNIDS)} files that are no images: *.txt" in out.splitlines()
    assert said(out, "left out 5 images", "tiny-imagenet-200/test")


@pytest.mark.parametrize("form", ["", ".zip", ".tar.gz"])
@pytest.mark.parametrize("sort", [True, False], ids=["sorted", "unsorted"])
def test_imagenet(mirror, tmp_path, capsys, form, sort):
    """The images aren't found three folders down, the annotations' train/ is taken for theirs, or labels are mixed up."""
    members, labelled = imagenet(sort)
    write_form(mirror, "things", form, members)
    more = {} if sort else {"labels": "LOC_val_solution.csv"}
    _, files = imported("things", tmp_path / "out", image_size=48, **more)
    held(files, labelled, 48)
    assert said(capsys.readouterr().out, "left out 3 images", "CLS-LOC/test")


@pytest.mark.parametrize("form", FORMS)
def test_imagenette(mirror, tmp_path, form):
    """val/ isn't taken for the test split, or the folder above everything isn't looked into."""
    members, labelled = imagenette()
    write_form(mirror, "things", form, members)
    held(imported("things", tmp_path / "out", image_size=160)[1], labelled, 160)


# ---- labels ----
LABELS = {
    "blanks": lambda name, label: f"{name} {label}\n",
    "blanks, more columns": lambda name, label: f"{name} {label} 85 1 499\n",
    "tabs, no extension": lambda name, label: f"{name.removesuffix('.JPEG')}\t{label}\t1\t2\n",
    "commas, lines of Windows": lambda name, label: f"{name},{label},more\r\n",
}


@pytest.mark.parametrize("form", LABELS)
@pytest.mark.parametrize("header", ["", "name label\n"], ids=["plain", "header"])
def test_forms_of_labels(mirror, tmp_path, form, header):
    """A separator, a further column, a header or a name without its extension moves an image to another class."""
    members, labelled = imagenet(sort=False)
    top = "ILSVRC/Data/CLS-LOC/"
    members = {name.removeprefix(top): each for name, each in members.items() if name.startswith(top)}
    names = [f"ILSVRC2012_val_{i:08}.JPEG" for i in range(1, 8)]
    lines = [LABELS[form](name, WNIDS[int(name[-6]) * 2 % 3]) for name in names]
    write_form(mirror, "things", "", members | {"lists/val.txt": (header + "".join(lines)).encode()})
    held(imported("things", tmp_path / "out", image_size=48, labels="lists/val.txt")[1], labelled, 48)


def test_labels_in_params(work):
    """The schema refuses the key, or the stage doesn't hand it on."""
    members = {f"train/{label}/{i}.JPEG": photo(i) for i, label in enumerate("abc")}
    members |= {f"val/{i}.JPEG": photo(9 + i) for i in range(3)}
    work.put("things", members | {"val.txt": b"0.JPEG c\n1.JPEG b\n2.JPEG a\n"})
    work.params(things=UNPINNED | {"labels": "val.txt"})
    result = work.run("download")
    assert (result.returncode, result.stderr) == (0, "")
    found = np.load(work.folder / "data/raw/things/test/images.npy")
    assert np.array_equal(found, [square(photo(9 + i), 32) for i in (2, 1, 0)])


FAULTY = {
    "absent": ("", "val.txt"),
    "an image has none": ("0 a, 1 b, 2 c", "3.JPEG"),
    "two classes": ("0 a, 1 b, 2 c, 3 a, 0 b", "0.JPEG"),
    "a class that isn't there": ("0 a, 1 b, 2 c, 3 n99999999", "n99999999"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_faulty_labels(mirror, tmp_path, fault):
    """An image without a label, with two, or with one that is no class is dropped, or takes one of them."""
    lines, named = FAULTY[fault]
    members = {f"train/{label}/{i}.JPEG": photo(i) for i, label in enumerate("abc")}
    members |= {f"val/{i}.JPEG": photo(9 + i) for i in range(4)}
    content = "".join(f"{each.replace(' ', '.JPEG ')}\n" for each in lines.split(", ")).encode()
    write_form(mirror, "things", "", members | ({"val.txt": content} if lines else {}))
    with pytest.raises(UserError) as caught:
        imported("things", tmp_path / "out", labels="val.txt")
    assert named in str(caught.value) and "\n" not in str(caught.value)


# ---- splits ----
@pytest.mark.parametrize("folder", ["test", "val", "validation"])
def test_the_held_out_folder(mirror, tmp_path, folder):
    """Under another name than test/ it is refused."""
    data = make_set()
    members = {name.replace("test/", f"{folder}/"): each for name, each in members_of(data).items()}
    write_form(mirror, "things", "", members)
    assert imported("things", tmp_path / "out")[0] == {split: documented(data[split]) for split in SPLITS}


def test_one_of_three_held_out_folders(mirror, tmp_path, capsys):
    """With test/, val/ and validation/ another one is taken, they are mixed, or the rest is left out unsaid."""
    data, other = make_set(), members_of(make_set(5))
    members = members_of(data)
    for folder in ("val", "validation"):
        members |= {
            name.replace("test/", f"{folder}/"): each
            for name, each in other.items()
            if name.startswith("test/")
        }
    write_form(mirror, "things", "", members)
    assert imported("things", tmp_path / "out")[0] == {split: documented(data[split]) for split in SPLITS}
    out = capsys.readouterr().out
    assert said(out, "left out 15 images", " val") and said(out, "left out 15 images", " validation")


@pytest.mark.parametrize("form", ["", ".zip", ".tar"])
def test_no_held_out_folder(mirror, tmp_path, capsys, form):
    """A data set for pretraining alone is refused, or its empty test split has no shape or no classes."""
    data = make_set()
    members = {name: each for name, each in members_of(data).items() if name.startswith("train/")}
    write_form(mirror, "things", form, members)
    found, files = imported("things", tmp_path / "out")
    assert found["train"] == documented(data["train"])
    images, labels = (np.load(io.BytesIO(files[f"test/{part}.npy"])) for part in ("images", "labels"))
    assert (images.shape, images.dtype) == ((0, 32, 32, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((0,), np.int64)
    assert files["test/classes.json"] == files["train/classes.json"]
    assert said(capsys.readouterr().out, "test")


def test_an_empty_test_split_of_a_data_set_to_pretrain_on(work):
    """`prepare` ends in an error, or in a traceback, where the data set that is no target has no test split."""
    work.put("things", members_of(make_set()))
    upstream = {name: each for name, each in members_of(make_set(3)).items() if name.startswith("train/")}
    work.put("upstream", upstream)
    work.params(things=UNPINNED, upstream=UNPINNED)
    params = (work.folder / "params.yaml").read_text()
    more = "prepare:\n  upstream:\n    validation: 0.25\n"
    (work.folder / "params.yaml").write_text(params.replace("prepare:\n", more))
    for stage, key in (("download", "things"), ("download", "upstream"), ("prepare", "upstream")):
        result = work.run(stage, key)
        assert (result.returncode, result.stderr) == (0, "")


def test_a_target_without_test_images(work):
    """A row would be scored on no image: an accuracy of nan, or a traceback hours later."""
    work.put("things", {name: each for name, each in members_of(make_set()).items() if "train/" in name})
    work.params(things=UNPINNED)
    assert work.run("download").returncode == 0
    result = work.run("prepare")
    [line] = result.stderr.splitlines()
    assert result.returncode == 1 and line.startswith("error: ") and "test" in line


def test_a_missing_train_folder_is_one_line(mirror, tmp_path):
    """Without train/ the error names neither the place nor what is missing, or another folder passes for it."""
    members = {name.replace("train/", "training/"): each for name, each in members_of(make_set()).items()}
    where = write_form(mirror, "things", "", members)
    with pytest.raises(UserError) as caught:
        imported("things", tmp_path / "out")
    line = str(caught.value)
    assert str(where) in line and "train/" in line and "\n" not in line


def test_classes_of_val_are_those_of_train(mirror, tmp_path):
    """A class without validation images passes in silence, and its accuracy is that of no image."""
    data = make_set()
    members = {name.replace("test/", "val/"): each for name, each in members_of(data).items()}
    write_form(mirror, "things", "", {n: each for n, each in members.items() if not n.startswith("val/dog")})
    with pytest.raises(UserError, match=r"^[^\n]*\bdog\b[^\n]*$"):
        imported("things", tmp_path / "out")


# ---- depth ----
@pytest.mark.parametrize("form", ["", ".zip", ".tar"])
def test_folders_at_any_depth_below_the_class(mirror, tmp_path, form):
    """A folder below the class becomes a class of its own, or only some depths are read."""
    data = make_set(count=5)
    deep = ["{}", "images/{}", "a/b/{}", "a/b/c/d/e/{}", "train/test/{}", "x/{}", "y/{}"]
    members = members_of(data, lambda i: deep[i].format(f"{i}.png"))
    write_form(mirror, "things", form, members)
    assert imported("things", tmp_path / "out")[0] == {split: documented(data[split]) for split in SPLITS}


@pytest.mark.parametrize("form", ["", ".zip", ".tar.gz"])
@pytest.mark.parametrize("above", ["photos/", "a/b/c/"])
def test_the_shallowest_train_is_the_root(mirror, tmp_path, form, above):
    """Folders above everything aren't looked into; or a class called train, deeper, is taken for the split."""
    data = make_set(classes=("bird", "train"))
    write_form(mirror, "things", form, {above + name: each for name, each in members_of(data).items()})
    _, files = imported("things", tmp_path / "out")
    assert counts(files) == {"bird": 4, "train": 5}


# ---- forms ----
def test_every_form_gives_the_same_bytes(mirror, tmp_path):
    """Folder, zip, tar, compressed tar, another order, `./` before each name: other fingerprints or other files."""
    data, results = make_set(), {}
    members = members_of(data)
    folders = {f"{split}/{name}/": b"" for split in SPLITS for name in data[split]}
    mixed = np.random.default_rng(0).permutation(list(members)).tolist()
    for i, form in enumerate(FORMS):
        write_form(mirror, f"form{i}", form, members)
    write_tar(mirror / "mixed.tar", {name: members[name] for name in mixed})
    write_tar(mirror / "mixed-gz.tar.gz", {name: members[name] for name in mixed}, "gz")
    write_tar(mirror / "dotted.tar", folders | members, prefix="./")
    names = [f"form{i}" for i in range(len(FORMS))] + ["mixed", "mixed-gz", "dotted"]
    results = {name: imported(name, tmp_path / "out" / name) for name in names}
    assert results["form0"][0] == {split: documented(data[split]) for split in SPLITS}
    assert {name for name, result in results.items() if result != results["form0"]} == set()


def test_the_order_of_forms(mirror, tmp_path):
    """Of several forms in one mirror another is taken than the order says: folder, zip, tar, tar.gz, tgz."""
    wheres = {
        form: write_form(mirror, "things", form, members_of(make_set(i))) for i, form in enumerate(FORMS)
    }
    for i, form in enumerate(FORMS):
        found = imported("things", tmp_path / "out" / str(i))[0]
        assert found == {split: documented(make_set(i)[split]) for split in SPLITS}, form
        wheres[form].rename(tmp_path / f"away{i}")
    with pytest.raises(UserError) as caught:
        imported("things", tmp_path / "none")
    assert re.fullmatch("things: .*VITSCALE_MIRROR.*things/.*", str(caught.value))


def test_a_picture_beside_the_class_folders(mirror, tmp_path, capsys):
    """An overview that lies in train/ becomes a class, or is left out unsaid."""
    members = members_of(make_set()) | {"train/overview.png": encode(np.zeros((32, 32, 3), np.uint8))}
    write_form(mirror, "things", "", members)
    _, files = imported("things", tmp_path / "out")
    assert list(counts(files)) == ["bird", "cat", "dog"]
    assert said(capsys.readouterr().out, "left out 1 image", "train")
