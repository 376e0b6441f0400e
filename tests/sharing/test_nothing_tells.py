"""What leaves the machine says nothing of it."""

import getpass
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from exported import ROWS
from made import build
from tiny import ROOT, run, tiny
from vitscale.commands.export import write_onnx

CANARY = "kanarienvogel"
PNG = b"\x89PNG\r\n\x1a\n"


def layers(content: bytes) -> list[bytes]:
    """Return a file's bytes, and what is packed in it: members of a zip, streams of zlib and gzip, chunks of a PNG."""
    found = [content]
    if content.startswith(b"PK") and zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                found += [member.filename.encode(), member.comment, *layers(archive.read(member))]
    if content.startswith(PNG):
        place = len(PNG)
        while place < len(content):
            size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
            found += [] if kind == b"IDAT" else unzipped(content[place + 8 : place + 8 + size])
            place += size + 12
    elif content.startswith((b"\x1f\x8b", b"\x78")):
        found += unzipped(content)
    return found


def unzipped(content: bytes) -> list[bytes]:
    """Return what the streams of zlib or gzip in some bytes hold."""
    found = []
    for start in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", content):
        try:
            found.append(zlib.decompressobj(47).decompress(content[start.start() :]))
        except zlib.error:
            continue
    return found


def told(content: bytes, words: set[str]) -> set[str]:
    """Return the words that a file holds, whatever their case, in UTF-8 or UTF-16."""
    held = b"\0".join(each.lower() for each in layers(content))
    return {
        word
        for word in words
        if any(word.lower().encode(code) in held for code in ("utf-8", "utf-16-le", "utf-16-be"))
    }


def test_the_search_finds_what_is_packed():
    """The search below overlooks a name in a zip, a zlib stream, a PNG's text or UTF-16, so that it finds nothing."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    packed, arrays, picture, info = io.BytesIO(), io.BytesIO(), io.BytesIO(), PngInfo()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", CANARY * 9)
    np.savez_compressed(arrays, text=np.frombuffer(CANARY.encode() * 9, np.uint8))
    info.add_text("Comment", CANARY * 99, zip=True)
    Image.new("RGB", (2, 2)).save(picture, "PNG", pnginfo=info)
    for content in (
        CANARY.upper().encode(),
        CANARY.encode("utf-16"),
        zlib.compress(CANARY.encode() * 9),
        packed.getvalue(),
        arrays.getvalue(),
        picture.getvalue(),
    ):
        assert told(content, {CANARY}) == {CANARY}, content[:80]
        assert content.find(CANARY.encode()) < 0 or len(content) < 99


def test_an_onnx_file_tells_nothing(tmp_path):
    """torch writes a stack trace into every node: the paths of the checkout and of site-packages, so a home's user name."""
    write_onnx(build(ROWS["resnet18"]).eval(), tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    assert told(content, {str(ROOT), sys.prefix, str(Path.home()) + "/", "site-packages"}) == set()
    assert b"pytorch" in content and torch.__version__.encode() in content  # its producer


@pytest.fixture(scope="module")
def left(forked, tmp_path_factory):
    """A folder with what somebody sends away, whose home, checkout and name hold the canary word.

    There: the outputs of all stages, dvc.lock, an exported row, a report, a page of plots, and what `dvc push`,
    `vitscale runs push` and `dvc exp push` send to a remote and to git.
    """
    top = tmp_path_factory.mktemp(CANARY)
    home, folder, remote, sent = (
        top / f"{CANARY}-home",
        top / f"{CANARY}-checkout",
        top / "remote",
        top / "sent",
    )
    home.mkdir()
    sent.mkdir()
    who = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), f"{CANARY}-user")
    env = os.environ | who | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    env |= {"VITSCALE_CHECKPOINTS": str(home / "checkpoints"), "DVC_SITE_CACHE_DIR": str(home / "site")}
    env |= {"PYTHONPATH": str(folder / "src")}
    tiny(folder)
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")

    def do(*command: str) -> None:
        run(*command, cwd=folder, env=env)

    do("git", "init", "-q", "--bare", "-b", "main", str(top / "git"))
    do("git", "remote", "add", "origin", str(top / "git"))
    do("dvc", "config", "plots.html_template", "plots/page.html")
    do("dvc", "remote", "add", "-q", "--local", "-d", "storage", str(remote))
    do("dvc", "repro", "-q")
    do("git", "add", "-A")
    do("git", "commit", "-qm", "run")
    do("git", "push", "-q", "origin", "main")
    do("dvc", "exp", "run", "-q", "-n", "faster", "-S", "rows.vit-digits.lr_scale=30.0")
    do("dvc", "exp", "push", "-q", "origin", "faster")
    do("dvc", "push", "-q")
    do("python", "-m", "vitscale", "runs", "push")
    do("python", "-m", "vitscale", "report", "main", "--out", str(sent / "report"))
    do("python", "-m", "vitscale", "export", "vit-digits", str(sent / "export"))
    do("python", "-m", "vitscale", "plots")
    do("dvc", "plots", "diff", "-q", "main", "-o", str(sent / "dvc_plots"))
    for name in ("data", "models", "metrics", "plots"):
        shutil.copytree(folder / name, sent / name)
    shutil.copy(folder / "dvc.lock", sent)
    shutil.copytree(remote, sent / "remote")
    git = sent / "git"
    git.mkdir()
    names = run("git", "rev-list", "--all", "--objects", cwd=top / "git").stdout.split("\n")
    for name in filter(None, (line.split()[0] for line in names if line)):
        content = subprocess.run(
            ["git", "cat-file", "-p", name], cwd=top / "git", capture_output=True, check=True
        )
        (git / name).write_bytes(content.stdout)
    return top, sent


def test_nothing_that_leaves_tells_of_the_machine(left):
    """Something that is shared holds the checkout's path, a home, the user's or the machine's name, or where Python is.

    By design these stay on the machine and may hold paths: `.vitscale` (locks, timings), `timings.csv`, `.dvc/tmp` (DVC's
    logs, celery's too), checkpoints, and error lines on the terminal. A commit has the name that git was told to use.
    """
    top, sent = left
    words = {CANARY, str(top), str(ROOT), sys.prefix, f"{Path.home()}/", socket.gethostname()}
    words |= {getpass.getuser()} if len(getpass.getuser()) > 4 else set()
    words = {word for word in words if len(word) > 4}
    files = [path for path in sent.rglob("*") if path.is_file()]
    kinds = {path.relative_to(sent).parts[0] for path in files}
    assert kinds == {
        *("data", "models", "metrics", "plots", "dvc.lock", "remote", "git", "export", "report", "dvc_plots")
    }
    assert {path.suffix for path in files} >= {
        ".onnx",
        ".safetensors",
        ".png",
        ".svg",
        ".npy",
        ".html",
        ".md",
    }
    found = {
        path.relative_to(sent).as_posix(): words_in
        for path in files
        if (words_in := told(path.read_bytes() + path.name.encode(), words))
    }
    assert found == {}
