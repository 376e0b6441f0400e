"""An import is kept: it ends in success without a pin, decodes nothing twice, and says what changed."""

import json
import os
import re
import shutil

import numpy as np
import pytest

from archives import documented, make_set, members_of
from counted import counted, forget_outputs, outputs, spoil
from layouts import classes_of, dot, said, write_form
from tiny import ROOT, run
from vitscale.base.digests import md5
from vitscale.commands.prune import prune
from vitscale.data.sources import SPLITS
from works import UNKNOWN, WRONG

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src")}
UNPINNED = {"source": "imagefolder", "image_size": 32, "sha256": UNKNOWN}
TO_PIN = r"download\.things\.sha256\.(\w+) is not pinned; to pin what was imported, paste ([0-9a-f]{64})"


# ---- not pinned ----
@pytest.mark.parametrize("name", ["things", "things.zip"])
def test_an_import_that_is_not_pinned_succeeds(work, name):
    """The stage ends in an error, leaves no images, or doesn't print the value to pin."""
    data = make_set()
    work.put(name, members_of(data))
    work.params(things=UNPINNED)
    result = work.run("download")
    assert (result.returncode, result.stderr) == (0, "")
    found = {split: documented(data[split]) for split in SPLITS}
    assert dict(re.findall(f"^.*{TO_PIN}.*$", result.stdout, re.MULTILINE)) == found
    assert {name: len(images) for name, images in classes_of(outputs(work)).items()} == {
        "bird": 4,
        "cat": 5,
        "dog": 6,
    }


@pytest.mark.parametrize("split", SPLITS)
def test_one_pin_of_two(work, split):
    """A split that is pinned is said not to be, or the other one's wrong pin passes."""
    data = make_set()
    found = {each: documented(data[each]) for each in SPLITS}
    work.put("things", members_of(data))
    work.params(things=UNPINNED | {"sha256": found | {split: None}})
    result = work.run("download")
    assert result.returncode == 0 and re.findall(TO_PIN, result.stdout) == [(split, found[split])]
    [other] = {*SPLITS} - {split}
    work.params(things=UNPINNED | {"sha256": {split: None, other: WRONG}})
    result = work.run("download")
    assert result.returncode == 1
    assert said(
        result.stderr, "error: ", f"things/{other} is not the data set of params.yaml", WRONG, found[other]
    )


def test_compare_says_what_is_not_pinned(forked, done, tmp_path):
    """Figures of a data set that nothing pins look like any others."""
    folder = shutil.copytree(done, tmp_path / "repo", symlinks=True)
    before = run("python", "stages/compare.py", cwd=folder).stdout
    assert "not pinned" not in before
    text = (folder / "params.yaml").read_text()
    unpinned = re.sub(r"(?m)^(      train: )['\"]?[0-9a-f]{64}['\"]?$", r"\1null", text)
    assert unpinned != text
    (folder / "params.yaml").write_text(unpinned)
    after = run("python", "stages/compare.py", cwd=folder).stdout
    assert said(after, "download.digits.sha256.train is not pinned") and "sha256.test is not" not in after


# ---- pinning decodes nothing again ----
@pytest.mark.parametrize("name", ["things", "things.zip", "things.tar.gz"])
@pytest.mark.parametrize("mirrored", [True, False], ids=["mirror", "no mirror"])
def test_pinning_decodes_nothing(work, name, mirrored):
    """With the printed values pasted all is decoded once more."""
    where = write_form(work.mirror, "things", name.removeprefix("things"), members_of(make_set()))
    work.params(things=UNPINNED)
    number, result = counted(work)
    assert (result.returncode, result.stderr) == (0, "") and number >= 30
    first, pins = outputs(work), dict(re.findall(TO_PIN, result.stdout))
    forget_outputs(work)
    if name == "things":
        spoil(where)
    work.params(things=UNPINNED | {"sha256": pins})
    number, result = counted(work, **({} if mirrored else {"VITSCALE_MIRROR": ""}))
    assert (result.returncode, result.stderr) == (0, "")
    assert number == 0 and outputs(work) == first and "not pinned" not in result.stdout


def test_another_size_is_imported_anew(work):
    """What was kept of 32 px passes for the data set of 16 px."""
    work.put("things", members_of(make_set()))
    for side in (32, 16, 32):
        work.params(things=UNPINNED | {"image_size": side})
        assert work.run("download").returncode == 0
        assert np.load(work.folder / "data/raw/things/train/images.npy").shape == (15, side, side, 3)


@pytest.mark.parametrize("change", ["an image more", "an image less", "another image", "another form"])
def test_a_changed_mirror_says_so(work, change):
    """What was kept passes for what the mirror has now, or the change isn't told."""
    data = make_set()
    work.put("things", members_of(data))
    work.params(things=UNPINNED)
    pins = dict(re.findall(TO_PIN, work.run("download").stdout))
    path = work.mirror / "things/train/cat/0001.png"
    if change == "an image more":
        path.with_name("new.png").write_bytes(dot(5))
    elif change == "an image less":
        path.unlink()
    elif change == "another image":
        path.write_bytes(dot(5))
    else:
        (work.mirror / "things").rename(work.mirror / "away")
        write_form(work.mirror, "things", ".zip", members_of(data) | {"train/cat/new.png": dot(5)})
    for pinned in (False, True):
        forget_outputs(work)
        work.params(things=UNPINNED | {"sha256": pins if pinned else UNKNOWN})
        result = work.run("download")
        told = result.stdout + result.stderr
        if pinned:
            assert result.returncode == 1 and said(told, "things/train is not the data set of params.yaml")
        else:
            assert result.returncode == 0
            assert said(told.lower(), "changed") and dict(re.findall(TO_PIN, told))["train"] != pins["train"]


def test_a_changed_mirror_of_a_pinned_set(work):
    """An import that was kept without a pin is pinned, while the mirror has something else by now, and nothing is said."""
    work.put("things", members_of(make_set()))
    work.params(things=UNPINNED)
    pins = dict(re.findall(TO_PIN, work.run("download").stdout))
    (work.mirror / "things/train/cat/new.png").write_bytes(dot(5))
    forget_outputs(work)
    work.params(things=UNPINNED | {"sha256": pins})
    result = work.run("download")
    assert said((result.stdout + result.stderr).lower(), "changed")


# ---- pinned by another person ----
def test_a_colleague_pins_what_was_pulled(work):
    """Without the import's own folder nobody says what to paste, or pinning wants the images again."""
    work.put("things", members_of(make_set()))
    work.params(things=UNPINNED)
    found = dict(re.findall(TO_PIN, work.run("download").stdout))
    shutil.rmtree(work.folder / ".vitscale/imports")
    before = outputs(work)
    said_by_check = run("python", "-m", "vitscale", "check", cwd=work.folder, env=ENVIRONMENT).stdout
    assert dict(re.findall(TO_PIN, said_by_check)) == found and len(found) == 2
    shutil.rmtree(work.mirror / "things")
    forget_outputs(work)  # as DVC does before it runs a stage
    work.params(things=UNPINNED | {"sha256": found})
    result = work.run("download")
    assert result.returncode == 0, result.stderr
    assert outputs(work) == before and not (work.folder / ".vitscale/imports/things").exists()


def test_pruning_stays_in_its_folder(work, tmp_path):
    """A lock from elsewhere names a data set, or an output, above the pipeline, and `prune` deletes that."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "photo.png").write_bytes(b"mine")
    kept = work.folder / ".vitscale/imports/gone"
    kept.mkdir(parents=True)
    above = os.path.relpath(victim, kept.parent)
    out = {"path": os.path.relpath(victim, work.folder), "hash": "md5", "md5": md5(victim)}
    stages = {f"download@{above}": {"cmd": "x"}, "download@gone": {"cmd": "x", "outs": [out]}}
    (work.folder / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))
    assert prune(work.folder, dry=False)[-1] == str(kept) and not kept.exists()
    assert (victim / "photo.png").read_bytes() == b"mine"
