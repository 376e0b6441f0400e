"""Whatever a data set comes from, the same images give the same bytes; and nothing unchecked is ever read."""

import hashlib
import io
import json
import os
import pickle
import socket
import tarfile
import tempfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from vitscale.base.errors import UserError
from vitscale.data.sources import SPLITS, Download, open_source, write_split

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = {"source": "imagefolder", "image_size": 32, "sha256": {"train": None, "test": None}}
OFFICIAL = {
    "cifar10": {
        "base": "cifar-10-batches-py",
        "train": [f"data_batch_{i}" for i in range(1, 6)],
        "test": ["test_batch"],
        "meta": "batches.meta",
        "names": "label_names",
        "labels": "labels",
    },
    "cifar100": {
        "base": "cifar-100-python",
        "train": ["train"],
        "test": ["test"],
        "meta": "meta",
        "names": "fine_label_names",
        "labels": "fine_labels",
    },
}


# ---- helpers ----


def make_set(seed: int = 0, classes: tuple = ("bird", "cat", "dog"), count: int = 4, size: int = 32) -> dict:
    """Return {split: {class: uint8 (n, size, size, 3)}}; in each class the last image is a copy of the first."""
    rng = np.random.default_rng(seed)
    data = {
        split: {
            name: rng.integers(0, 256, (count + i, size, size, 3), dtype=np.uint8)
            for i, name in enumerate(classes)
        }
        for split in SPLITS
    }
    for by_class in data.values():
        for images in by_class.values():
            images[-1] = images[0]
    return data


def encode(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def members_of(data: dict, names=lambda i: f"{i:04d}.png", kind: str = "PNG") -> dict[str, bytes]:
    return {
        f"{split}/{label}/{names(i)}": encode(image, kind)
        for split, by_class in data.items()
        for label, images in by_class.items()
        for i, image in enumerate(images)
    }


def write_folder(where: Path, members: dict[str, bytes]) -> None:
    for name, content in members.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(content)


def write_zip(where: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(where, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def documented(by_class: dict[str, np.ndarray], width: int = 1) -> str:
    """The fingerprint as shared/data/unpack.py says it: the class id in one byte, then the pixels, sorted in a class."""
    content = b""
    for label, images in enumerate(by_class[name] for name in sorted(by_class)):
        for pixels in sorted(image.tobytes() for image in images):
            content += label.to_bytes(width, "big") + pixels
    return hashlib.sha256(content).hexdigest()


def written(name: str, entry: dict, out: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Open and write a source; return its fingerprints and the bytes of all files it gave."""
    source = open_source(name, Download(**entry))
    found = {split: write_split(source, split, out / split) for split in SPLITS}
    return found, {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"


@pytest.fixture(autouse=True)
def attempts(monkeypatch, tmp_path):
    """No test here leaves this machine: list the hosts that were asked for, none but by a test that clears the list."""
    hosts: list[str] = []
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def guarded_resolve(host, *rest, **options):
        if host in ("127.0.0.1", "localhost"):
            return resolve(host, *rest, **options)
        hosts.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def guarded_connect(self, address):
        if not isinstance(address, tuple) or address[0] != "127.0.0.1":
            hosts.append(str(address))
            raise OSError(101, "Network is unreachable")
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", guarded_resolve)
    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    yield hosts
    assert hosts == []
    assert list((tmp_path / "temp").glob("tmp*")) == []  # no download stays behind outside the workspace


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
    litter = ["README.txt", "train/.DS_Store", "train/cat/.DS_Store", "__MACOSX/train/cat/0.png", "test/.cache/0.png", "extra/cat/0.png"]
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


@pytest.mark.parametrize(("classes", "width"), [(256, 1), (257, 4)])
def test_class_ids_beyond_one_byte(mirror, tmp_path, classes, width):
    """Up to 256 classes an id takes one byte, beyond that four."""
    data = make_set(classes=tuple(f"{i:03d}" for i in range(classes)), count=1, size=2)
    data = {
        split: {name: images[:1] for name, images in by_class.items()} for split, by_class in data.items()
    }
    write_zip(mirror / "many.zip", members_of(data))
    found, files = written("many", FOLDER | {"image_size": 2}, tmp_path / "out")
    assert found == {split: documented(data[split], width) for split in SPLITS}
    assert np.load(io.BytesIO(files["test/labels.npy"])).tolist() == list(range(classes))


def test_imagefolder_takes_the_centre_square(mirror):
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
    source = open_source("odd", Download(**FOLDER))
    assert source.classes == ["turned", "wide"]
    assert np.array_equal(source.images("train", 0)[0], np.rot90(centre, -1))
    assert np.array_equal(source.images("train", 1)[0], centre)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_file_beside_the_class_folders_is_no_class(mirror, form):
    """An overview picture that lies in train/ and test/ is ignored or refused, but not made a class of one image."""
    members = members_of(make_set()) | {
        f"{split}/overview.png": encode(np.zeros((32, 32, 3), np.uint8)) for split in SPLITS
    }
    write_folder(mirror / "things", members) if form == "folder" else write_zip(
        mirror / "things.zip", members
    )
    try:
        classes = open_source("things", Download(**FOLDER)).classes
    except UserError as error:
        assert "overview.png" in str(error)
    else:
        assert classes == ["bird", "cat", "dog"]


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
    source = open_source("digits", Download(**{"source": "digits", "classes": chosen, "sha256": {}}))
    assert source.classes == ["7", "2"] and source.image_size == 32
    for label, digit in enumerate(chosen):
        members = data.images[data.target == digit]
        images = {split: source.images(split, label) for split in SPLITS}
        assert {split: len(each) for split, each in images.items()} == {
            split: source.counts[split][label] for split in SPLITS
        }
        test = members[3::4]
        train = np.delete(members, np.s_[3::4], axis=0)
        for split, originals in (("train", train), ("test", test)):
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
    entries = yaml.safe_load((CHECKOUT / "examples/digits/params.yaml").read_text())["download"]
    assert len(entries) == 2
    for name, entry in entries.items():
        found, files = written(name, entry, tmp_path / name)
        assert found == entry["sha256"]
        images, labels = (np.load(io.BytesIO(files[f"test/{part}.npy"])) for part in ("images", "labels"))
        by_class = {str(i): images[labels == i] for i in range(5)}
        assert found["test"] == documented(by_class)


# ---- the official archives, in small ----


class Executed:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def official_files(name: str, data: dict) -> dict[str, bytes]:
    """Return the files of an official archive of these images: the classes mixed, channels first, pickled."""
    form, classes = OFFICIAL[name], sorted(data["train"])
    files = {form["meta"]: pickle.dumps({form["names"]: classes}, protocol=2)}
    for split in SPLITS:
        images = np.concatenate([data[split][label] for label in classes])
        labels = np.repeat(np.arange(len(classes)), [len(data[split][label]) for label in classes])
        order = np.random.default_rng(7).permutation(len(labels))
        for file, part in zip(form[split], np.array_split(order, len(form[split]))):
            rows = images[part].transpose(0, 3, 1, 2).reshape(len(part), -1)
            content = {"data": rows, form["labels"]: labels[part].tolist(), "coarse_labels": [0] * len(part)}
            files[file] = pickle.dumps(content, protocol=2)
    return files


def tar_gz(base: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{base}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def site(monkeypatch):
    """Return a stand-in for the official site: call it with what it serves and with what torchvision is told to expect.

    (torchvision can't fetch a file:// URL, so this is a server on 127.0.0.1.)
    """
    import torchvision.datasets

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body: bool):
            server.requests.append(self.path)
            if server.status == "garbage":
                self.wfile.write(b"<html>log in first</html>\r\n\r\n")
                return
            self.send_response(server.status)
            self.send_header("Content-Length", str(server.promised))
            self.end_headers()
            if with_body:
                self.wfile.write(server.content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()

    def serve(
        name: str,
        served: bytes,
        archive: bytes,
        files: dict[str, bytes],
        status=200,
        promised: int | None = None,
    ):
        """Serve `served`; torchvision knows the MD5s of `archive` and of the `files`."""
        server.content, server.status = served, status
        server.promised = len(served) if promised is None else promised
        form, kind = OFFICIAL[name], {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name]
        patched = getattr(torchvision.datasets, kind)
        monkeypatch.setattr(patched, "url", f"http://127.0.0.1:{server.server_port}/{name}.tar.gz")
        monkeypatch.setattr(patched, "tgz_md5", md5(archive))
        for split in SPLITS:
            monkeypatch.setattr(patched, f"{split}_list", [[file, md5(files[file])] for file in form[split]])
        monkeypatch.setattr(
            patched, "meta", {"filename": form["meta"], "key": form["names"], "md5": md5(files[form["meta"]])}
        )
        return server.requests

    yield serve
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_official_archive_equals_class_folders(name, site, tmp_path, monkeypatch):
    """The same images through torchvision from an archive and from PNGs in class folders give the same bytes."""
    data = make_set()
    files = official_files(name, data)
    archive = tar_gz(OFFICIAL[name]["base"], files)
    requests = site(name, archive, archive, files)
    entry = {"source": name, "sha256": {"train": None, "test": None}}
    monkeypatch.delenv("VITSCALE_MIRROR", raising=False)
    from_archive = written(name, entry, tmp_path / "archive")
    assert requests.count(f"/{name}.tar.gz") >= 1
    asked = len(requests)
    write_folder(tmp_path / "mirror" / name, members_of(data))
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path / "mirror"))
    assert written(name, entry, tmp_path / "folder") == from_archive
    assert len(requests) == asked
    assert from_archive[0] == {split: documented(data[split]) for split in SPLITS}


@pytest.mark.parametrize(
    "fault", ["one byte", "truncated", "cut off", "other archive", "other member", "404", "garbage"]
)
def test_altered_archive_is_refused_before_it_is_unpickled(fault, site, tmp_path, monkeypatch):
    """A pickle that does something when it is loaded is never loaded; the message is one line that says what to do."""
    monkeypatch.delenv("VITSCALE_MIRROR", raising=False)
    marker = tmp_path / "executed"
    files = official_files("cifar10", make_set())
    base = OFFICIAL["cifar10"]["base"]
    evil = files | {
        name: pickle.dumps({"data": Executed(marker), "labels": []})
        for name in ("data_batch_1", "test_batch")
    }
    evil_archive = tar_gz(base, evil)
    pickle.loads(evil["data_batch_1"])
    assert marker.exists()  # so it would show
    marker.rmdir()
    status, promised, known = 200, None, evil
    if fault == "one byte":
        middle = len(evil_archive) // 2
        served, archive = (
            evil_archive[:middle] + bytes([evil_archive[middle] ^ 1]) + evil_archive[middle + 1 :],
            evil_archive,
        )
    elif fault == "truncated":
        served, archive = evil_archive[:-100], evil_archive
    elif fault == "cut off":  # the connection ends before what was promised
        served, archive, promised = evil_archive[:-100], evil_archive, len(evil_archive)
    elif fault == "other archive":
        served, archive, known = evil_archive, tar_gz(base, files), files
    elif (
        fault == "other member"
    ):  # were an archive's own MD5 forged, that of each file in it would still tell
        served, archive, known = evil_archive, evil_archive, files
    else:
        served, archive, status = evil_archive, evil_archive, 404 if fault == "404" else "garbage"
    site("cifar10", served, archive, known, status, promised)
    with pytest.raises(UserError) as caught:
        open_source("cifar10", Download(**{"source": "cifar10", "sha256": {}}))
    assert not marker.exists()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("cifar10 can't be fetched from its official site (")
    assert message.endswith(
        "); try again, or set VITSCALE_MIRROR to a folder that has cifar10/ or cifar10.zip"
    )


# ---- where a source is looked for ----


def test_mirror_folder_before_zip_before_official_site(site, mirror, tmp_path, capsys):
    """Take them away one by one, and the next is used; of what is absent a line on standard error tells."""
    data = {form: make_set(seed) for seed, form in enumerate(("folder", "zip", "official"))}
    write_folder(mirror / "cifar10", members_of(data["folder"]))
    write_zip(mirror / "cifar10.zip", members_of(data["zip"]))
    files = official_files("cifar10", data["official"])
    archive = tar_gz(OFFICIAL["cifar10"]["base"], files)
    requests = site("cifar10", archive, archive, files)

    def found() -> str:
        source = open_source("cifar10", Download(**{"source": "cifar10", "sha256": {}}))
        return write_split(source, "test", tmp_path / "out")

    assert found() == documented(data["folder"]["test"])
    (mirror / "cifar10").rename(mirror / "away")
    assert found() == documented(data["zip"]["test"])
    assert requests == [] and capsys.readouterr().err == ""
    (mirror / "cifar10.zip").rename(mirror / "away.zip")
    assert found() == documented(data["official"]["test"])
    assert requests != []
    assert f"{mirror} has neither cifar10/ nor cifar10.zip\n" in capsys.readouterr().err


def test_entries_of_one_source_are_looked_up_by_name(mirror, tmp_path):
    """The mirror is asked for the entry's name, so a second data set of the same source can stand beside the first."""
    data = make_set(3)
    write_folder(mirror / "cifar10-again", members_of(data))
    write_folder(mirror / "cifar10", members_of(make_set(4)))
    assert written("cifar10-again", {"source": "cifar10"}, tmp_path / "out")[0] == {
        split: documented(data[split]) for split in SPLITS
    }


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("setting", [None, "", "/nowhere"])
def test_no_network_and_no_mirror(name, setting, monkeypatch, attempts):
    """One line that says what to set; the official site was asked and nothing else."""
    monkeypatch.delenv("VITSCALE_MIRROR", raising=False)
    if setting is not None:
        monkeypatch.setenv("VITSCALE_MIRROR", setting)
    with pytest.raises(UserError) as caught:
        open_source(name, Download(**{"source": name, "sha256": {}}))
    assert set(attempts) == {"www.cs.toronto.edu"}
    attempts.clear()
    assert str(caught.value) == (
        f"{name} can't be fetched from its official site (<urlopen error [Errno {socket.EAI_AGAIN}] Temporary failure in name "
        f"resolution>); try again, or set VITSCALE_MIRROR to a folder that has {name}/ or {name}.zip"
    )


@pytest.mark.parametrize("mirrored", [False, True])
def test_imagefolder_needs_a_mirror(mirrored, monkeypatch, tmp_path):
    """An imagefolder has no official site: one line says what to set."""
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path) if mirrored else "")
    with pytest.raises(UserError) as caught:
        open_source("things", Download(**FOLDER))
    assert str(caught.value) == "things: set VITSCALE_MIRROR to a folder that has things/ or things.zip"


@pytest.mark.mirror
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar_has_the_pinned_fingerprint(name, tmp_path):
    """The test split in VITSCALE_MIRROR is the one that params.yaml pins."""
    entry = yaml.safe_load((CHECKOUT / "params.yaml").read_text())["download"][name]
    assert (
        write_split(open_source(name, Download(**entry)), "test", tmp_path / "test")
        == entry["sha256"]["test"]
    )
