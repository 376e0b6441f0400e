"""The official archives, in small: the same bytes as class folders, and nothing unchecked is ever read."""

import hashlib
import io
import os
import pickle
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml

from archives import documented, make_set, members_of, write_folder, write_zip, written
from tiny import ROOT
from vitscale.base.errors import UserError
from vitscale.data.sources import SPLITS, Download, open_source, write_split

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


@pytest.mark.mirror
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar_has_the_pinned_fingerprint(name, tmp_path):
    """The test split in VITSCALE_MIRROR is the one that params.yaml pins."""
    entry = yaml.safe_load((ROOT / "params.yaml").read_text())["download"][name]
    assert (
        write_split(open_source(name, Download(**entry)), "test", tmp_path / "test")
        == entry["sha256"]["test"]
    )
