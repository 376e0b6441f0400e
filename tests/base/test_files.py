"""Locks: one holder at a time, whatever becomes of it; files: whole, and nothing but files deleted."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitscale.base import files
from vitscale.base.errors import UserError
from vitscale.base.files import lock, locked, take_away
from vitscale.training.checkpoint import checkpoint_for

HOLDER = """
import sys, time
from pathlib import Path
from vitscale.base.files import locked
with locked(Path(sys.argv[1]), "nothing"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Return a function that starts a process which asks for a lock, holds it, and lets go once its input ends."""
    processes = []

    def start() -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        source = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "folder/lock")]
        processes.append(subprocess.Popen(command, text=True, env=source, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        with process:
            process.kill()


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_second_process_says_so_and_waits(holder, tmp_path, end):
    """Two processes hold a lock, a killed one's is never free again, or one waits without a word."""
    first = holder()
    assert first.stdout.readline() == "held\n"
    second = holder()
    said = second.stderr.readline()
    assert "another process is at the same work" in said and str(tmp_path / "folder/lock") in said
    assert lock(tmp_path / "folder/lock", "nothing") is None
    first.kill() if end == "kill" else first.stdin.close()
    assert second.stdout.readline() == "held\n"
    assert lock(tmp_path / "folder/lock", "nothing") is None


def test_a_lock_file_stays(tmp_path):
    """A lock is free as long as its holder works, or its file goes with it: one who waits would hold a file without a name."""
    path = tmp_path / "lock"
    with locked(path, "nothing"):
        before = path.stat().st_ino
        assert lock(path, "nothing") is None
    held = lock(path, "nothing")
    assert held is not None and path.stat().st_ino == before
    path.unlink()
    assert lock(path, "nothing") is not None  # under that name nobody held one


def test_an_error_lets_go(tmp_path):
    """A stage that fails keeps its lock, so that the next one in the same process waits for ever."""
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", "nothing"):
        1 / 0  # noqa: B018
    assert lock(tmp_path / "lock", "nothing") is not None


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks(code, tmp_path, monkeypatch):
    """Where there are no locks a stage ends in a traceback, waits for ever, or goes on as if it had one."""

    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path))
    with pytest.raises(UserError) as caught, checkpoint_for("finetune@x", "a" * 64):
        pass
    [said] = str(caught.value).splitlines()
    assert (
        str(tmp_path / f"vitscale-states/finetune@x-{'a' * 32}.lock") in said
        and "VITSCALE_CHECKPOINTS" in said
    )


def test_a_lock_that_fails_names_its_file(tmp_path, monkeypatch):
    """A disk that fails under a lock says so of no file."""

    def flock(file, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError) as caught:
        lock(tmp_path / "lock", "nothing")
    assert caught.value.filename == str(tmp_path / "lock")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """A lock that may not be made is taken for one that another process holds: the stage waits for ever."""

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        lock(tmp_path / "lock", "nothing")


WRITER = """
import sys
from pathlib import Path
from vitscale.base.files import write_bytes
for _ in range(100):
    write_bytes(Path(sys.argv[1]), sys.argv[2].encode() * 500_000)
"""


def test_two_writers_of_a_file(tmp_path):
    """Two processes that write a file at the same time mix their contents, or one fails as its part is gone."""
    source = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "file")]
    writers = [subprocess.Popen([*command, each], env=source) for each in "ab"]
    while any(each.poll() is None for each in writers):
        if (tmp_path / "file").exists():
            content = (tmp_path / "file").read_bytes()
            assert len(content) == 500_000 and len(set(content)) == 1
    assert [each.returncode for each in writers] == [0, 0] and os.listdir(tmp_path) == ["file"]


def test_take_away(tmp_path):
    """What a link leads to, or what a link in a folder leads to, is deleted with it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for link in ("link", "folder/link"):
        (tmp_path / link).symlink_to(tmp_path / "mine")
    for name in ("link", "folder", "nothing"):
        take_away(tmp_path / name)
    assert os.listdir(tmp_path) == ["mine"] and os.listdir(tmp_path / "mine") == ["file"]
