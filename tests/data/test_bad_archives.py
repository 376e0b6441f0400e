"""What stages say about damaged and hostile archives: one line for each fault, and nothing half-done left behind."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from archives import splits
from vitscale.base.errors import UserError
from vitscale.data.sources import SPLITS
from works import CLASSES, damaged, encode, make_set, members_of


# ---- the measure of all that follows: whole input passes, and replaces what an earlier run left ----
@pytest.mark.parametrize("name", ["things", "things.zip"])
def test_whole_input_passes(work, name):
    work.put(name, members_of(make_set()))
    junk = (
        work.folder / ".vitscale/partial/download@things/data/raw/things/train/junk"
    )  # of a run that was killed
    junk.parent.mkdir(parents=True)
    junk.write_bytes(b"junk")
    before = work.everything()
    result = work.run("download")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    after = {path: content for path, content in work.everything().items() if content is not None}
    made = {
        f"{work.folder}/data/raw/things/{split}/{file}"
        for split in SPLITS
        for file in ("classes.json", "images.npy", "labels.npy")
    }
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == made | {f"{work.folder}/timings.csv", str(junk)}
    assert not junk.exists()
    images = np.load(work.folder / "data/raw/things/test/images.npy")
    assert images.tobytes() == b"".join(
        pixels for each in CLASSES for pixels in sorted(image.tobytes() for image in make_set()["test"][each])
    )


# ---- damaged and hostile archives ----
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_truncated_zip(work, keep):
    archive = work.put("things.zip", members_of(make_set()))
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * len(content))])
    work.refused("download", f"{archive} is no whole zip archive \\(.+\\); copy it again")


@pytest.mark.parametrize("compression", ["STORED", "DEFLATED", "BZIP2", "LZMA"])
def test_altered_byte_in_a_zip_member(work, compression):
    archive = work.mirror / "things.zip"
    with zipfile.ZipFile(archive, "w", getattr(zipfile, f"ZIP_{compression}")) as file:
        for member, content in members_of(make_set()).items():
            file.writestr(member, content)
        info = file.getinfo("train/cat/2.png")
    start = info.header_offset + 30 + len(info.filename)
    archive.write_bytes(damaged(archive.read_bytes(), start + info.compress_size // 2))
    work.refused("download", f"{archive}: train/cat/2\\.png is damaged \\(.+\\); copy the archive again")


@pytest.mark.parametrize("compression", ["STORED", "LZMA"])
def test_any_altered_byte_of_a_zip_is_noticed_or_harmless(tmp_path, monkeypatch, compression):
    """Each byte of a small archive in turn: a UserError of one line that names the archive, or no pixel altered.

    (An altered length in the archive's directory can hide an image; the fingerprint sees that.)
    """
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path))
    archive, data = (
        tmp_path / "things.zip",
        {split: {"cät": images["cat"]} for split, images in make_set(2, 2).items()},
    )
    known = {image.tobytes() for images in data.values() for image in images["cät"]}
    with zipfile.ZipFile(archive, "w", getattr(zipfile, f"ZIP_{compression}")) as file:
        for member, content in members_of(data).items():
            file.writestr(member, content)
    good, wrong, noticed = archive.read_bytes(), {}, 0
    for at in range(len(good)):
        archive.write_bytes(damaged(good, at))
        try:
            made = splits("things", {"source": "imagefolder", "image_size": 2}, tmp_path / str(at))
            if not {image.tobytes() for each in made.values() for image in each.images} <= known:
                wrong.setdefault("other pixels", at)
        except UserError as error:
            noticed += 1
            if str(archive) not in str(error) or len(str(error).splitlines()) != 1:
                wrong.setdefault(str(error), at)
        except Exception as error:
            wrong.setdefault(repr(error)[:60], at)
    assert noticed > len(good) / 2
    assert wrong == {}  # a fault and the first byte that shows it


@pytest.mark.parametrize(
    "member",
    [
        "../x.png",
        "train/cat/../../../../x.png",
        "../../../../../../../tmp/x.png",
        "/tmp/x.png",
        "TOP/x.png",
        "..\\x.png",
        "train\\cat\\0.png",
    ],
)
def test_zip_member_names_that_point_elsewhere(work, member):
    """Refused by name, and nothing is written anywhere."""
    member = member.replace("TOP", str(work.top))
    outside = Path("/tmp/x.png")
    assert not outside.exists()
    archive = work.put(
        "things.zip", members_of(make_set()) | {member: encode(np.zeros((32, 32, 3), np.uint8))}
    )
    work.refused(
        "download",
        re.escape(f"{archive}: the member {member!r} points out of the archive; don't use this file"),
    )
    assert not outside.exists()
