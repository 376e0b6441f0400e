"""What stages say about damaged, hostile or missing input: one line for each fault, and nothing half-done left behind."""

import hashlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, features

from vitscale.base.errors import UserError
from vitscale.base.files import write_bytes
from vitscale.data.sources import SPLITS, Download, open_source

CHECKOUT = Path(__file__).resolve().parents[1]
CLASSES = ("bird", "cat", "dog")
UNKNOWN = {"train": None, "test": None}
WRONG = 64 * "0"


# ---- a pipeline's folder, a mirror beside it, and what other stages have left there ----


def make_set(size: int = 32, count: int = 4) -> dict:
    """Return {split: {class: uint8 (count, size, size, 3)}}."""
    rng = np.random.default_rng(0)
    return {
        split: {name: rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8) for name in CLASSES}
        for split in SPLITS
    }


def fingerprints(data: dict) -> dict[str, str]:
    """A sha256 over class id (one byte) and pixels, in the order (class id, pixels)."""
    return {
        split: hashlib.sha256(
            b"".join(
                bytes([label]) + pixels
                for label, name in enumerate(sorted(by_class))
                for pixels in sorted(image.tobytes() for image in by_class[name])
            )
        ).hexdigest()
        for split, by_class in data.items()
    }


def encode(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def members_of(data: dict) -> dict[str, bytes]:
    return {
        f"{split}/{name}/{i}.png": encode(image)
        for split, by_class in data.items()
        for name, images in by_class.items()
        for i, image in enumerate(images)
    }


@dataclass
class Work:
    folder: Path  # the pipeline's
    mirror: Path
    top: Path  # above both: nothing outside of it is ever written

    def params(self, **download) -> None:
        """Write a params.yaml whose target is the image folder `things`; `download` adds or replaces entries."""
        content = yaml.safe_load((CHECKOUT / "examples/digits/params.yaml").read_text())
        things = {"source": "imagefolder", "image_size": 32, "sha256": fingerprints(make_set())}
        content["download"] = {"things": things} | download
        content["prepare"], content["target"] = {"things": {"validation": 0.25}}, "things"
        for entry in content["pretrain"].values():
            entry["data"] = "things"
        (self.folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def put(self, name: str, members: dict[str, bytes]) -> Path:
        """Put files into the mirror, as a zip if the name says so; return its path."""
        where = self.mirror / name
        if where.suffix == ".zip":
            with zipfile.ZipFile(where, "w") as archive:
                for member, content in members.items():
                    archive.writestr(member, content)
        else:
            for member, content in members.items():
                path = where / member
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir() if member.endswith("/") else path.write_bytes(content)
        return where

    def run(
        self, stage: str, key: str = "things", file_limit: int | None = None
    ) -> subprocess.CompletedProcess:
        """Run a stage script; with `file_limit` no file may grow beyond so many bytes, as on a full disk."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VITSCALE_")}
        environment |= {
            "VITSCALE_MIRROR": str(self.mirror),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        limit = (
            None
            if file_limit is None
            else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        )
        return subprocess.run(
            [sys.executable, CHECKOUT / "stages" / f"{stage}.py", key],
            cwd=self.folder,
            env=environment,
            preexec_fn=limit,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def everything(self) -> dict[str, bytes | None]:
        """All files and folders but for the locks and the empty folder that partial outputs are built in."""
        own = self.folder / ".vitscale"
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in self.top.rglob("*")
            if path not in (own, own / "locks", own / "partial") and own / "locks" not in path.parents
        }

    def refused(self, stage: str, *expected: str, key: str = "things", file_limit: int | None = None) -> None:
        """Assert that a stage fails with exactly these lines (regular expressions) and leaves everything as it was."""
        before = self.everything()
        result = self.run(stage, key, file_limit)
        lines, patterns = result.stderr.splitlines(), [f"error: {each}" for each in expected]
        assert len(lines) == len(patterns) and all(map(re.fullmatch, patterns, lines)), result.stderr
        assert "Traceback" not in result.stdout
        assert result.returncode == 1
        after = self.everything()
        assert {
            path for path in before.keys() | after.keys() if before.get(path, 0) != after.get(path, 0)
        } == set()


@pytest.fixture
def work(tmp_path) -> Work:
    work = Work(tmp_path / "some" / "where" / "pipeline", tmp_path / "mirror", tmp_path)
    work.folder.mkdir(parents=True)
    work.mirror.mkdir()
    shutil.copy(CHECKOUT / "dvc.yaml", work.folder)
    (work.folder / "root.yaml").write_text(json.dumps({"root": str(CHECKOUT)}))
    for name in (
        "data/raw/things/train/images.npy",
        "data/raw/other/train/images.npy",
        "data/prepared/other/statistics.json",
        "data/prepared/things/train/labels.npy",
        "models/start/vit-scratch/config.json",
        "plots/preview/other.png",
        ".vitscale/partial/prepare@other/data/prepared/other/train/images.npy",
    ):
        (work.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (work.folder / name).write_bytes(f"sentinel of {name}".encode())
    work.params()
    return work


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


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
            source = open_source("things", Download(source="imagefolder", image_size=2, sha256={}))
            if not {image.tobytes() for split in SPLITS for image in source.images(split, 0)} <= known:
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


# ---- images ----


def avif_without_its_colours() -> bytes:
    content = encode(make_set()["train"]["cat"][0], "AVIF")
    at = content.index(b"mdat") + 4
    return content[:at] + bytes(len(content) - at)


def dds_of_unknown_kind() -> bytes:
    content = bytearray(encode(make_set()["train"]["cat"][0], "DDS"))
    content[80:84] = (2**20).to_bytes(4, "little")
    return bytes(content)


UNDECODABLE = {
    "text": lambda: b"these are not the pixels you are looking for\n",
    "empty": lambda: b"",
    "half a PNG": lambda: encode(make_set()["train"]["cat"][0])[:1500],
    "a PNG's altered byte": lambda: damaged(encode(make_set()["train"]["cat"][0]), 1500),
    "a JPEG's first bytes": lambda: encode(make_set()["train"]["cat"][0], "JPEG")[:200],
    "an emptied AVIF": avif_without_its_colours,
    "an unknown DDS": dds_of_unknown_kind,
}


@pytest.mark.parametrize("kind", UNDECODABLE)
def test_what_does_not_decode(tmp_path, monkeypatch, kind):
    """Every way that an image can be none: a UserError of one line that names it."""
    if "AVIF" in kind and not features.check("avif"):
        pytest.skip("Pillow is built without AVIF")
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path))
    for split in SPLITS:
        (tmp_path / "things" / split / "dog").mkdir(parents=True)
        (tmp_path / "things" / split / "dog" / "3.png").write_bytes(UNDECODABLE[kind]())
    source = open_source("things", Download(source="imagefolder", image_size=32, sha256={}))
    with pytest.raises(UserError) as caught:
        source.images("test", 0)
    where = re.escape(f"{tmp_path}/things: test/dog/3.png")
    assert re.fullmatch(
        f"{where} can't be decoded as an image \\(.+\\); replace it or take it out", str(caught.value)
    )


@pytest.mark.parametrize("name", ["things", "things.zip"])
def test_one_image_that_does_not_decode(work, name):
    """The last image of all: everything before it was already written, aside."""
    where = work.put(name, members_of(make_set()) | {"test/dog/3.png": UNDECODABLE["half a PNG"]()})
    work.refused(
        "download",
        f"{where}: test/dog/3\\.png can't be decoded as an image \\(.+\\); replace it or take it out",
    )


def test_gray_transparent_and_palette_images_become_rgb(work):
    """Gray is repeated, a palette looked up, transparency dropped; pixel for pixel."""
    rng = np.random.default_rng(5)
    gray, alpha, index = (rng.integers(0, 256, (32, 32), dtype=np.uint8) for _ in range(3))
    rgb = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    paletted = Image.frombytes("P", (32, 32), index.tobytes())
    paletted.putpalette(palette.tobytes())
    gray_rgb = gray[..., None].repeat(3, 2)
    bits = np.where(gray[..., None] > 127, 255, 0).astype(np.uint8).repeat(3, 2)
    files = {
        "gray": (encode(gray), gray_rgb),
        "gray_alpha": (encode(Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])), gray_rgb),
        "one_bit": (encode(Image.fromarray(bits[..., 0]).convert("1", dither=Image.Dither.NONE)), bits),
        "palette": (encode(paletted), palette[index]),
        "palette_alpha": (encode(paletted, transparency=7), palette[index]),
        "rgba": (encode(np.dstack([rgb, alpha])), rgb),
    }
    data = {split: {name: image[None] for name, (_, image) in files.items()} for split in SPLITS}
    work.put(
        "things",
        {f"{split}/{name}/0.png": content for split in SPLITS for name, (content, _) in files.items()},
    )
    work.params(things={"source": "imagefolder", "image_size": 32, "sha256": fingerprints(data)})
    result = work.run("download")
    assert (result.returncode, result.stderr) == (0, "")
    images = np.load(work.folder / "data/raw/things/test/images.npy")
    assert images.shape == (len(files), 32, 32, 3)
    for found, (name, (_, expected)) in zip(images, sorted(files.items())):
        assert np.array_equal(found, expected), name


def test_sixteen_bit_gray_is_scaled_or_refused(tmp_path, monkeypatch):
    """A 16-bit image keeps its shades or is refused; it must not silently turn white."""
    shades = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path))
    for split in SPLITS:
        (tmp_path / "things" / split / "cat").mkdir(parents=True)
        (tmp_path / "things" / split / "cat" / "0.png").write_bytes(encode(shades))
    try:
        image = open_source("things", Download(source="imagefolder", image_size=32, sha256={})).images(
            "train", 0
        )[0]
    except UserError as error:
        assert "train/cat/0.png" in str(error)
    else:
        assert np.abs(image[..., 0].astype(int) - shades / 257).max() <= 1


def test_cifar_mirror_of_another_size(work):
    """Images of CIFAR are never scaled: 28x28 ones are not CIFAR."""
    work.params(cifar10={"source": "cifar10", "sha256": UNKNOWN})
    where = work.put("cifar10", members_of(make_set(28)))
    work.refused("download", f"{where}: train/bird/0\\.png has 28x28 pixels, not 32x32", key="cifar10")


# ---- the shape of a data set ----


@pytest.mark.parametrize("name", ["things", "things.zip"])
@pytest.mark.parametrize("hidden", [False, True])
def test_an_empty_class_folder(work, name, hidden):
    """A class folder without an image, or with none but a hidden file."""
    extra = {f"{split}/cow/" if not hidden else f"{split}/cow/.DS_Store": b"" for split in SPLITS}
    if hidden:
        extra = {f"{split}/cow/": b"" for split in SPLITS} | extra if name.endswith(".zip") else extra
    where = work.put(name, members_of(make_set()) | extra)
    work.refused("download", f"{where}: the class folder train/cow holds no image; fill it or take it out")


@pytest.mark.parametrize("name", ["things", "things.zip"])
@pytest.mark.parametrize("missing", SPLITS)
def test_a_missing_split(work, name, missing):
    where = work.put(
        name,
        {
            member: content
            for member, content in members_of(make_set()).items()
            if not member.startswith(missing)
        },
    )
    work.refused(
        "download", f"{where} has no {missing}/ with class folders; it needs {{train,test}}/<class>/<image>"
    )


def test_another_layout(work):
    """Everything one folder too deep, as an archive of the parent folder has it."""
    where = work.put(
        "things.zip", {f"things/{member}": content for member, content in members_of(make_set()).items()}
    )
    work.refused(
        "download", f"{where} has no train/ with class folders; it needs {{train,test}}/<class>/<image>"
    )


@pytest.mark.parametrize("name", ["things", "things.zip"])
def test_other_classes_in_test_than_in_train(work, name):
    members = members_of(make_set())
    where = work.put(
        name, {member.replace("test/dog", "test/wolf"): content for member, content in members.items()}
    )
    work.refused(
        "download", f"{where}: train/ and test/ must have the same classes; only one of them has dog, wolf"
    )


def test_nothing_in_the_mirror(work):
    """Two lines: what was looked for, and what to set."""
    before = work.everything()
    result = work.run("download")
    assert result.returncode == 1 and work.everything() == before
    assert result.stderr == (
        f"{work.mirror} has neither things/ nor things.zip\n"
        "error: things: set VITSCALE_MIRROR to a folder that has things/ or things.zip\n"
    )


# ---- fingerprints ----


@pytest.mark.parametrize("wrong", [("train",), ("test",), SPLITS])
def test_wrong_fingerprint(work, wrong):
    """Both values are printed, for each split that is another one."""
    work.put("things", members_of(make_set()))
    right = fingerprints(make_set())
    work.params(
        things={"source": "imagefolder", "image_size": 32, "sha256": right | dict.fromkeys(wrong, WRONG)}
    )
    work.refused(
        "download",
        *(
            f"things/{split} is not the data set of params\\.yaml: download\\.things\\.sha256\\.{split} is "
            f"{WRONG}, found {right[split]}"
            for split in wrong
        ),
    )


def test_missing_fingerprint_is_printed_to_be_pasted(work):
    """With null the stage fails; with what it printed pasted, it passes."""
    work.put("things", members_of(make_set()))
    entry = {"source": "imagefolder", "image_size": 32}
    work.params(things=entry | {"sha256": UNKNOWN})
    work.refused(
        "download",
        *(
            f"download\\.things\\.sha256\\.{split} is not given; to pin what was found, paste [0-9a-f]{{64}}"
            for split in SPLITS
        ),
    )
    printed = dict(
        re.findall(
            r"sha256\.(\w+) is not given; to pin what was found, paste (\w+)", work.run("download").stderr
        )
    )
    assert printed == fingerprints(make_set())
    work.params(things=entry | {"sha256": printed})
    result = work.run("download")
    assert (result.returncode, result.stderr) == (0, "")


# ---- params.yaml ----


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"lr: \xff\xfe\n", "params\\.yaml .+"),
        (b"\x1f\x8b\x08\x00binary", "params\\.yaml .+"),
        (b"lr: [1, 2\n", "params\\.yaml is not valid YAML: .+"),
        (b"lr: 2026-02-31\n", "params\\.yaml .+"),
        (b"", "params\\.yaml holds no mapping of names to values"),
        (b"- lr\n", "params\\.yaml holds no mapping of names to values"),
        (None, "params\\.yaml: No such file or directory; run this in a folder that has one"),
    ],
    ids=["not UTF-8", "binary", "unclosed", "no such day", "empty", "a list", "absent"],
)
def test_unreadable_params(work, content, expected):
    path = work.folder / "params.yaml"
    path.unlink() if content is None else path.write_bytes(content)
    work.refused("download", expected)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"source": "imagefolder", "sha256": UNKNOWN},
            "download\\.extra\\.image_size: missing; every parameter must be given",
        ),
        ({"source": "nowhere", "sha256": UNKNOWN}, "download\\.extra\\.source: must be one of .+"),
        (
            {"source": "cifar10", "sha256": {"train": "abc", "test": None}},
            "download\\.extra\\.sha256\\.train: .+",
        ),
        ({"source": "cifar10", "sha256": UNKNOWN, "url": "x"}, "download\\.extra\\.url: no such parameter"),
        ({"source": "digits", "classes": [1, 1], "sha256": UNKNOWN}, "download\\.extra\\.classes.*: .+"),
    ],
    ids=["missing", "unknown source", "no sha256", "unknown key", "a class twice"],
)
def test_faulty_download_entry(work, entry, expected):
    """Any stage refuses it, even one of another entry."""
    work.put("things", members_of(make_set()))
    work.params(extra=entry)
    work.refused(
        "download",
        f"params\\.yaml: {expected}",
        "put that right, then `dvc repro`, or `git checkout params.yaml && dvc repro` .*",
    )


@pytest.mark.parametrize("stage", ["download", "prepare"])
def test_unknown_key(work, stage):
    """A key that the stage's section lacks; it never becomes a path."""
    work.refused(stage, f"{stage} has no entry ../things; params\\.yaml has things", key="../things")


# ---- no room ----

FULL = "(.+: )?File too large; make room or mend the permissions, then run it again"


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
        "prepare", "data/raw/things/train holds no usable split \\(.+\\); `dvc checkout` brings outputs back"
    )
