"""An import is kept: it ends in success without a pin, decodes nothing twice, and goes on where it was killed."""

import re
import subprocess
import sys

import numpy as np
import pytest

from archives import documented, make_set, members_of
from counted import counted, forget_outputs, spoil
from layouts import classes_of, counts, dot, imported, said, sorted_bytes, write_form
from tiny import ROOT
from vitscale.base.errors import UserError
from vitscale.data.decode import square
from vitscale.data.sources import SPLITS
from works import UNKNOWN, WRONG

UNPINNED = {"source": "imagefolder", "image_size": 32, "sha256": UNKNOWN}
TO_PIN = r"download\.things\.sha256\.(\w+) is not pinned; to pin what was imported, paste ([0-9a-f]{64})"
PER_CLASS, LARGE = 500, {"source": "imagefolder", "image_size": 64, "sha256": UNKNOWN}


def large() -> dict[str, bytes]:
    """Return 2,500 small images of three classes, more than one process decodes alone."""
    numbers = {"train": range(PER_CLASS), "test": range(PER_CLASS, PER_CLASS + 300)}
    return {
        f"{split}/{label}/{i:04}.png": dot(1000 * k + i)
        for split in SPLITS
        for k, label in enumerate("abc")
        for i in numbers[split]
    }


def outputs(work) -> dict[str, bytes]:
    folder = work.folder / "data/raw/things"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


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


def test_compare_says_what_is_not_pinned(done, tmp_path):
    """Figures of a data set that nothing pins look like any others."""
    folder = tmp_path / "repo"
    subprocess.run(["cp", "-r", done, folder], check=True)
    command = [sys.executable, "stages/compare.py"]
    before = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert "not pinned" not in before
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(
        re.sub(r"(?m)^(      train: )['\"]?[0-9a-f]{64}['\"]?$", r"\1null", text)
    )
    assert (folder / "params.yaml").read_text() != text
    after = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert said(after, "download.digits.sha256.train is not pinned") and "sha256.test is not" not in after


# ---- pinning decodes nothing again ----
@pytest.mark.parametrize("name", ["things", "things.zip", "things.tar.gz"])
@pytest.mark.parametrize("mirrored", [True, False], ids=["spoilt mirror", "no mirror"])
def test_pinning_decodes_nothing(work, name, mirrored):
    """With the printed values pasted all is decoded once more."""
    where = write_form(work.mirror, "things", name.removeprefix("things"), members_of(make_set()))
    work.params(things=UNPINNED)
    number, result = counted(work)
    assert (result.returncode, result.stderr) == (0, "") and number >= 30
    first, pins = outputs(work), dict(re.findall(TO_PIN, result.stdout))
    forget_outputs(work)
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


# ---- killed ----
@pytest.mark.parametrize("form", ["", ".zip", ".tar.gz"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_killed_import_goes_on(work, form, threads):
    """All that was decoded before is decoded again, or what was half-written is taken for whole."""
    members = large()
    write_form(work.mirror, "things", form, members)
    work.params(things=LARGE)
    number, result = counted(work, killed_at=len(members) * 3 // 4, VITSCALE_THREADS=threads)
    assert result.returncode == -9 and number >= len(members) * 3 // 4
    assert not (work.folder / "data/raw/things/test").exists()
    number, result = counted(work, VITSCALE_THREADS=threads)
    assert (result.returncode, result.stderr) == (0, "")
    assert number <= len(members) * 0.6, f"{number} of {len(members)} images decoded again"
    for split in SPLITS:
        for label, images in classes_of(outputs(work), split).items():
            expected = [square(each, 64) for name, each in members.items() if f"{split}/{label}/" in name]
            assert sorted_bytes(images) == sorted_bytes(expected)


def test_killed_again_and_again(work):
    """An import that never gets an hour at a time never ends, or its images are another set's in the end."""
    members, total = large(), 0
    write_form(work.mirror, "things", "", members)
    work.params(things=LARGE)
    for _ in range(8):
        number, result = counted(work, killed_at=len(members) // 2, VITSCALE_THREADS="1")
        total += number
        if result.returncode == 0:
            break
    assert result.returncode == 0 and total < 2 * len(members)
    found = dict(re.findall(TO_PIN, result.stdout))
    work.params(things=LARGE | {"sha256": found})
    forget_outputs(work)
    assert work.run("download").returncode == 0


def test_a_mirror_that_changed_after_the_kill(work):
    """The parts decoded before come from other files than those decoded after."""
    members = large()
    write_form(work.mirror, "things", "", members)
    work.params(things=LARGE)
    counted(work, killed_at=len(members) * 3 // 4)
    for label in "abc":
        (work.mirror / f"things/train/{label}/0003.png").write_bytes(dot(70_000))
    _, result = counted(work)
    assert result.returncode == 0
    for images in classes_of(outputs(work)).values():
        pixels = {image.tobytes() for image in images}
        assert square(dot(70_000), 64).tobytes() in pixels and len(images) == PER_CLASS


# ---- many processes ----
@pytest.mark.parametrize("form", ["", ".zip", ".tar.gz"])
def test_any_number_of_processes_gives_the_same_bytes(mirror, tmp_path, monkeypatch, form):
    """The order in which processes end shows in the files."""
    write_form(mirror, "things", form, large())
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("VITSCALE_THREADS", threads)
        results.append(imported("things", tmp_path / threads, image_size=16))
    assert results[0] == results[1]
    assert counts(results[0][1]) == dict.fromkeys("abc", PER_CLASS)


@pytest.mark.parametrize("value", ["0", "many", "-1"])
def test_a_faulty_number_of_threads(mirror, tmp_path, monkeypatch, value):
    """It is taken for another number, or ends in a traceback."""
    write_form(mirror, "things", "", members_of(make_set()))
    monkeypatch.setenv("VITSCALE_THREADS", value)
    with pytest.raises(UserError, match=f"^VITSCALE_THREADS={value}[^\n]*$"):
        imported("things", tmp_path / "out")


def test_progress_in_images_a_second(mirror, tmp_path, monkeypatch, capsys):
    """The bar counts classes, or it/s."""
    write_form(mirror, "things", "", members_of(make_set()))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    imported("things", tmp_path / "out")
    assert re.search(r"(images?|img)/s", capsys.readouterr().err)


# ---- memory ----
FIXED = """
import resource, sys
from pathlib import Path
from PIL import Image
import numpy
from vitscale.data import decode, sources
entry = sources.Download(source="imagefolder", image_size=64, sha256={"train": None, "test": None})
Image.init()
used = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
limit = int(used.split()[1]) * 1024 + (112 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
sources.bring("things", entry, Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("form", [".zip", ".tar"])
def test_a_class_larger_than_memory(mirror, tmp_path, monkeypatch, threads, form):
    """A class is held in memory: one of 150 MB doesn't fit into 112 MiB beside the libraries."""
    members = {f"train/cat/{i:05}.png": dot(i) for i in range(12_500)} | {"test/cat/0.png": dot(0)}
    write_form(mirror, "things", form, members)
    for name, value in (
        ("VITSCALE_THREADS", threads),
        ("PYTHONPATH", str(ROOT / "src")),
        ("OMP_NUM_THREADS", "1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    result = subprocess.run(
        [sys.executable, "-c", FIXED, tmp_path / "out", tmp_path / "kept"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert np.load(tmp_path / "out/train/images.npy", mmap_mode="r").shape == (12_500, 64, 64, 3)
