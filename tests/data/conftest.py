"""A mirror, a stage's folder and the official site, for the tests of data."""

import importlib.util
import json
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from splits import put
from tiny import ROOT
from vitscale.data.arrays import Split
from vitscale.pipeline.stage import run
from works import Work


@pytest.fixture
def work(forked, tmp_path) -> Work:
    work = Work(tmp_path / "some" / "where" / "pipeline", tmp_path / "mirror", tmp_path)
    work.folder.mkdir(parents=True)
    work.mirror.mkdir()
    shutil.copy(ROOT / "dvc.yaml", work.folder)
    (work.folder / "root.yaml").write_text(json.dumps({"root": str(ROOT)}))
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


@pytest.fixture
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
    monkeypatch.setenv("VITSCALE_DOWNLOADS", str(tmp_path / "downloads"))
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    yield hosts
    assert hosts == []
    assert list((tmp_path / "temp").glob("tmp*")) == []  # no download stays behind outside the workspace


@pytest.fixture
def pipeline(tmp_path):
    """Return a function that makes a pipeline's folder of a target's and an upstream set's raw splits."""

    def make(
        name: str, target: Split, test: Split, upstream: Split | None = None, share: float = 0.25, **changes
    ) -> Path:
        folder = tmp_path / name
        put(folder / "data/raw/target/train", target)
        put(folder / "data/raw/target/test", test)
        put(folder / "data/raw/upstream/train", upstream or target)
        params = yaml.safe_load((ROOT / "examples/digits/params.yaml").read_text())
        entry = {"source": "imagefolder", "image_size": 32, "sha256": {"train": None, "test": None}}
        params |= {
            "target": "target",
            "download": {"target": entry, "upstream": entry},
            "prepare": {"target": {"validation": share}, "upstream": {"validation": share}},
        }
        for training in params["pretrain"].values():
            training["data"] = "upstream"
        params["rows"] = {
            name: row for name, row in params["rows"].items() if row["inputs"] == "prepared"
        }  # with any policy
        (folder / "params.yaml").write_text(yaml.safe_dump(params | changes))
        for name in ("dvc.yaml", "root.yaml"):
            shutil.copy(ROOT / name, folder)
        return folder

    return make


@pytest.fixture
def prepare(monkeypatch):
    """Return a function that runs the real stage script in this process (torch is loaded once), for the bytes it leaves."""
    path = ROOT / "stages/prepare.py"
    spec = importlib.util.spec_from_file_location("stage_prepare", path)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec.loader.exec_module(script)

    def call(folder: Path, key: str = "target") -> dict[str, bytes]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["prepare.py", key])
        run(script.main, str(path))
        places = (folder / "data/prepared" / key, folder / "plots")
        return {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for place in places
            for file in sorted(place.rglob("*"))
            if file.is_file()
        }

    return call


@pytest.fixture
def soon():
    """In this test what waits for ever, or reads without an end, ends in an error after a minute."""

    def ring(*_):
        raise AssertionError("it takes more than a minute")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
