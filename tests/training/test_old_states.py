"""Old states: what trainings left is deleted after days, nothing else ever is, and none fails for it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitscale.base import files
from vitscale.base.errors import UserError
from vitscale.base.files import lock
from vitscale.training import checkpoint as checkpoint_module
from vitscale.training.checkpoint import KEEP_DAYS, checkpoint_for

OLD = f"finetune@y-{'c' * 32}"
ENDINGS = (".pt", ".pt.0123abcd.part", ".lock")


def age(path: Path, days: float) -> None:
    past = time.time() - days * 86_400
    os.utime(path, (past, past), follow_symlinks=False)


def train(key: str = "a") -> None:
    """Begin and end a training, after which old states are looked for."""
    with checkpoint_for("finetune@x", key * 64):
        pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of states, with those of a training that is long gone."""
    monkeypatch.setenv("VITSCALE_CHECKPOINTS", str(tmp_path))
    states = tmp_path / "vitscale-states"
    states.mkdir()
    for ending in ENDINGS:
        (states / f"{OLD}{ending}").write_bytes(b"")
        age(states / f"{OLD}{ending}", KEEP_DAYS + 1)
    return states


def left(folder: Path) -> set[str]:
    return {path.name.removeprefix(OLD) for path in folder.glob(f"{OLD}*")}


def test_old_states_go(folder):
    """States, parts of them and their locks pile up."""
    train()
    assert [path.name for path in folder.iterdir()] == [f"finetune@x-{'a' * 32}.lock"]


@pytest.mark.parametrize("young", ENDINGS)
def test_a_state_is_kept_for_days(folder, young):
    """A training that is stopped over a holiday begins again when another one has ended."""
    age(folder / f"{OLD}{young}", KEEP_DAYS - 1)
    train()
    assert left(folder) == set(ENDINGS) and KEEP_DAYS >= 7


@pytest.mark.parametrize("where", [".", "vitscale-states"])
def test_only_our_own_go(folder, tmp_path, where):
    """Somebody's own model in that folder is deleted since its name ends like a state's."""
    names = [
        "mymodel.pt",
        "mymodel.pt.part",
        "a.lock",
        "finetune@y-c.pt",
        f"{OLD}.pt.bak",
        f"{OLD}.pt.part",
        f"{OLD}0.pt",
        f"my {OLD}.pt",
    ]
    if where == ".":  # there, of earlier versions too
        names.append(f"{OLD}.pt")
    for name in names:
        (tmp_path / where / name).write_bytes(b"mine")
        age(tmp_path / where / name, 1000)
    train()
    assert all((tmp_path / where / name).read_bytes() == b"mine" for name in names)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", ["link", "broken link", "folder"])
def test_links_and_folders_of_such_names(folder, tmp_path, ending, kind):
    """A link is followed and what it leads to deleted, or a folder of a state's name fails the training."""
    path, mine = folder / f"{OLD}{ending}", tmp_path / "mine.pt"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(mine)
    if kind == "link":
        mine.write_bytes(b"mine")
        age(mine, KEEP_DAYS + 1)
    age(path, KEEP_DAYS + 1)
    train()
    assert left(folder) == set(ENDINGS) and (kind != "link" or mine.read_bytes() == b"mine")


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
@pytest.mark.parametrize("call", ["lstat", "unlink", "iterdir"])
def test_what_vanishes_or_is_somebody_elses_fails_no_training(folder, monkeypatch, error, call):
    """A training that is over fails since another process deletes the same file, or may not delete it."""
    real = getattr(Path, call)

    def failing(path, *options, **named):
        if OLD in path.name or call == "iterdir":
            raise error(2, "no", str(path))
        return real(path, *options, **named)

    monkeypatch.setattr(Path, call, failing)
    train()


@pytest.mark.parametrize("error", [PermissionError("no"), UserError("no locks")], ids=["refused", "no locks"])
def test_a_lock_that_is_refused_keeps_its_training_alone(folder, monkeypatch, error):
    """A training that is over fails, or leaves the other old states, since the system refuses one state's lock."""
    other, real = f"finetune@z-{'d' * 32}.pt", checkpoint_module.lock
    (folder / other).write_bytes(b"")
    age(folder / other, KEEP_DAYS + 1)
    refused = []

    def once(path, way_out):
        if not refused:
            refused.append(path)
            raise error
        return real(path, way_out)

    monkeypatch.setattr(checkpoint_module, "lock", once)
    train()
    gone = [name for name in (f"{OLD}.pt", other) if not (folder / name).exists()]
    assert len(gone) == 1 and gone != [refused[0].with_suffix(".pt").name]


def test_a_training_that_is_under_way_keeps_its_state(folder):
    """A state of which a process reads or writes is deleted under it, for the age of its last epoch."""
    held = lock(folder / f"{OLD}.lock", "nothing")
    age(folder / f"{OLD}.lock", KEEP_DAYS + 1)
    train()
    assert left(folder) == set(ENDINGS)
    held.release()
    train()
    assert not left(folder)


def test_an_epoch_that_ends_meanwhile_keeps_its_state(folder, monkeypatch):
    """A state that was written between the look at its age and the lock is deleted all the same."""
    real = checkpoint_module.lock

    def after_an_epoch(path, way_out):
        (folder / f"{OLD}.pt").write_bytes(b"new")
        return real(path, way_out)

    monkeypatch.setattr(checkpoint_module, "lock", after_an_epoch)
    train()
    assert left(folder) == set(ENDINGS)


def test_a_part_of_a_killed_process_goes(folder):
    """Each kill in the middle of a write leaves a file as large as the state."""
    for key in ("a", "b"):
        (folder / f"finetune@x-{key * 32}.pt.0123abcd.part").write_bytes(b"")
    train()
    assert {path.name for path in folder.glob("finetune@x*part")} == {
        f"finetune@x-{'b' * 32}.pt.0123abcd.part"
    }


# Each process takes the lock of one training again and again, and deletes that lock as old ones are deleted.
TAKERS = """
import os, sys, time
from pathlib import Path
from vitscale.base.files import discard, lock
path, inside = Path(sys.argv[1]), Path(sys.argv[2])
end = time.monotonic() + 2
count = 0
while time.monotonic() < end:
    held = lock(path, "nothing")
    if held is None:
        continue
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another process is inside
    time.sleep(0.0001)
    os.unlink(inside)
    discard(path)
    held.release()
    count += 1
print(count)
"""


def test_a_deleted_lock_keeps_two_apart(tmp_path):
    """A process that waited for a lock which was deleted holds a file without a name, and another one a new one."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TAKERS, str(tmp_path / "lock"), str(tmp_path / "inside")],
            env=os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ends = [process.communicate() for process in processes]
    assert not any("Error" in said for _, said in ends), ends
    assert sum(int(count) for count, _ in ends) > 100
