"""Imports that are killed go on where they were; any number of processes gives the same bytes, within a memory."""

import re
import subprocess
import sys

import numpy as np
import pytest

from archives import make_set, members_of
from counted import counted, forget_outputs, outputs
from layouts import classes_of, counts, dot, imported, sorted_bytes, write_form
from tiny import ROOT
from vitscale.base.errors import UserError
from vitscale.data.decode import square
from vitscale.data.sources import SPLITS
from works import UNKNOWN

PER_CLASS, LARGE = 300, {"source": "imagefolder", "image_size": 64, "sha256": UNKNOWN}
TO_PIN = r"download\.things\.sha256\.(\w+) is not pinned; to pin what was imported, paste ([0-9a-f]{64})"


def large() -> dict[str, bytes]:
    """Return 1,500 small images of three classes, more than one process decodes alone."""
    numbers = {"train": range(PER_CLASS), "test": range(PER_CLASS, PER_CLASS + 200)}
    return {
        f"{split}/{label}/{i:04}.png": dot(1000 * k + i)
        for split in SPLITS
        for k, label in enumerate("abc")
        for i in numbers[split]
    }


# ---- killed ----
@pytest.mark.parametrize(("form", "threads"), [("", "2"), (".zip", "1"), (".tar.gz", "2")])
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


def test_what_was_kept_is_damaged(work):
    """The system went down: what the list says was decoded never reached the disk, and zeros pass for images."""
    members = large()
    write_form(work.mirror, "things", "", members)
    work.params(things=LARGE)
    counted(work, killed_at=len(members) * 3 // 4)
    kept = [path for path in (work.folder / ".vitscale").rglob("*") if path.is_file()]
    largest = max(kept, key=lambda path: path.stat().st_size)
    with open(largest, "r+b") as file:
        file.truncate(largest.stat().st_size // 2)
    result = counted(work)[1]
    assert "Traceback" not in result.stderr and len(result.stderr.splitlines()) < 2
    if result.returncode == 0:
        for label, images in classes_of(outputs(work)).items():
            expected = [square(each, 64) for name, each in members.items() if f"train/{label}/" in name]
            assert sorted_bytes(images) == sorted_bytes(expected)


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
    write_form(mirror, "things", ".zip", large())
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
@pytest.mark.parametrize(("form", "threads"), [(".zip", "2"), (".tar", "1")])
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
