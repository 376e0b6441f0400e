"""What stages say on a full disk, and that their outputs come and go as a whole."""

import re
import resource

import pytest

from vitscale.base.files import write_bytes
from works import fingerprints, make_set, members_of

FULL = (
    ".+: File too large; no file may be that large: raise the shell's `ulimit -f`, or use another file system"
)


@pytest.mark.parametrize("limit", [0, 500, 20_000])
def test_full_disk_while_downloading(work, limit):
    """Not even a first byte, some of the first class's images, some of the last's."""
    work.put("things", members_of(make_set()))
    work.refused("download", FULL, file_limit=limit)


@pytest.mark.parametrize(("count", "limit"), [(4, 180), (400, 5_000)])
def test_full_disk_at_the_labels(work, count, limit):
    """With images of a single pixel the labels are the largest file, and the only one that doesn't fit."""
    data = make_set(size=1, count=count)
    work.params(dots={"source": "imagefolder", "image_size": 1, "sha256": fingerprints(data)})
    work.put("dots.zip", members_of(data))
    work.refused("download", FULL, key="dots", file_limit=limit)


def test_full_disk_at_a_single_file(tmp_path):
    """What stood there stays, and no part of the new content beside it."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_bytes(path, bytes(200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": b"old"}


@pytest.mark.parametrize("limit", [5_000, 40_000])
def test_full_disk_while_preparing(work, limit):
    """Inside the images, and in the preview picture, which is the last and largest file."""
    work.put("things", members_of(make_set()))
    assert work.run("download").returncode == 0
    before, result = work.everything(), work.run("prepare", file_limit=limit)
    assert result.returncode == 1 and re.fullmatch(f"error: {FULL}\n", result.stderr), result.stderr
    assert work.everything() == before


def test_prepare_fails_and_passes_as_a_whole(work):
    """Where one output can't be put in place, none is; with that mended, all are."""
    work.put("things", members_of(make_set()))
    assert work.run("download").returncode == 0
    (work.folder / "plots").rename(work.folder / "away")
    (work.folder / "plots").write_bytes(b"a file where a folder must be")
    before, result = work.everything(), work.run("prepare")
    assert (
        result.returncode == 1 and "Traceback" not in result.stderr and len(result.stderr.splitlines()) == 1
    )
    assert work.everything() == before
    (work.folder / "plots").unlink()
    result = work.run("prepare")
    assert (result.returncode, result.stderr) == (0, "")
    for name in ("train/images.npy", "validation/images.npy", "statistics.json"):
        assert (work.folder / "data/prepared/things" / name).stat().st_size > 100
    assert (work.folder / "plots/preview/things.png").is_file()


def test_prepare_of_a_damaged_download(work):
    """A download that was altered afterwards is named, and how to bring it back."""
    work.put("things", members_of(make_set()))
    assert work.run("download").returncode == 0
    path = work.folder / "data/raw/things/train/images.npy"
    path.write_bytes(path.read_bytes()[:1000])
    work.refused(
        "prepare",
        "prepare@things: data/raw/things/train is not what its stage left; `dvc checkout` brings it back, or .*",
    )
