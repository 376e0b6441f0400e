"""How programs end: each cause of the system's in a line of its own, our own faults in a traceback."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from tiny import ROOT
from vitscale.base.endings import ending, in_words
from vitscale.base.errors import UserError

BEGUN = (
    "import sys; sys.path.insert(0, 'src')\nfrom vitscale.base.endings import begin, in_words\nbegin({})\n"
)


def start(code, goes_on=False, **options):
    command = [sys.executable, "-c", BEGUN.format(goes_on) + code]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT} | options
    return subprocess.Popen(command, preexec_fn=heard, **options)


def heard():
    """Hear what `nohup`, or a shell's `&`, has the tests themselves ignore."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "permissions"),
        (errno.EROFS, "read-only"),
        (errno.ENOLCK, "no locks"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "the system's log"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.ENOTDIR, "a file stands where"),
        (errno.EISDIR, "a folder stands where"),
        (errno.ENOENT, "see that it is there"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_each_cause_has_its_own_way_out(number, words):
    """Whatever the system refuses, the advice is to make room."""
    code, line = ending(OSError(number, os.strerror(number), "models/a\nb.pt"))
    assert code == 1 and line.startswith(f"error: models/a\\nb.pt: {os.strerror(number)}; ")
    assert words in line and ("make room" in line) == (number in (errno.ENOSPC, errno.EDQUOT))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "git"), "not installed"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "`cd` into one"),
        (subprocess.CalledProcessError(3, ["dvc", "config"]), "`dvc config` failed, with exit code 3"),
        (
            ImportError("lib.so: failed to map segment from shared object", name="torch"),
            "out of memory while",
        ),
        (OSError("lib.so: failed to map segment from shared object"), "out of memory"),
        (RuntimeError("can't start new thread"), "out of memory"),
        (
            ModuleNotFoundError("No module named 'onnx'", name="onnx"),
            "onnx is not installed; `pip install -r",
        ),
        (
            ImportError("libX.so.1: cannot open shared object", name="torch"),
            "torch can't be loaded (libX.so.1",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_limit_or_what_is_missing_is_one_line(error, words):
    """A memory limit, a missing program or package ends in a traceback."""
    code, line = ending(error)
    assert code == 1 and words in line and len(line.splitlines()) == 1


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), ImportError("x", name="vitscale.base")])
def test_a_fault_of_our_own_keeps_its_traceback(error):
    """A bug is told without its place."""
    assert ending(error) is None
    with pytest.raises(type(error)), in_words():
        raise error


def test_a_user_error_has_the_word_before_each_of_its_lines():
    with pytest.raises(SystemExit) as caught, in_words():
        raise UserError("one\ntwo")
    assert caught.value.code == "error: one\nerror: two"


def test_nobody_reads_on():
    """`vitscale predict … | head` ends in a traceback, or in Python's complaint when it writes out the rest."""
    process = start("with in_words():\n    while True: print('a line')")
    assert process.stdout.readline() == "a line\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


def test_a_full_disk_under_what_a_command_prints():
    """The loss of a command's answer shows at Python's end only, as an ignored exception and exit code 120."""
    with open("/dev/full", "w") as full:
        process = start("with in_words(): print('—')", stdout=full)
    [line] = process.stderr.read().splitlines()
    assert line.startswith("error: No space left on device; ") and process.wait() == 1


@pytest.mark.parametrize("where", ["full", "unread", "closed", "ascii"])
def test_what_a_stage_prints_never_fails_it(where):
    """A training of hours is lost since its terminal, its log's disk or its pipe has gone, or has no em dash."""
    code = "print('— \\udcff', flush=True); print('on', file=sys.stderr); open('/dev/null', 'w').fileno() > 2 or 1 / 0"
    if where == "closed":
        done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "-", sys.executable, "-c", BEGUN.format(True) + code],
                              cwd=ROOT)  # fmt: skip
        assert done.returncode == 0
        return
    reads, writes = os.pipe()
    out = open("/dev/full", "w") if where == "full" else os.fdopen(writes, "w")
    env = os.environ | {"PYTHONIOENCODING": "ascii"} if where == "ascii" else None
    if where == "unread":
        os.close(reads)
    process = start(code, True, stdout=out, env=env)
    assert process.stderr.read() == "on\n" and process.wait() == 0
    out.close()
    if where == "ascii":
        assert os.read(reads, 100) == b"\\u2014 \\udcff\n"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("SIGINT", 130, "stopped"),
        ("SIGTERM", 143, "stopped by SIGTERM"),
        ("SIGHUP", 129, "stopped by SIGHUP"),
    ],
)
def test_a_signal_while_packages_are_imported(name, code, words):
    """Ctrl-C while torch is imported prints a page, or a command that is ended leaves half of its files behind."""

    process = start("import time; print('there', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "there\n"
    process.send_signal(getattr(signal, name))
    [line] = process.stderr.read().strip().splitlines()
    assert line.startswith(words) and process.wait() == code


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_one_of_several_processes_ends_at_once(name):
    """A process inside a collective goes on until the others answer, or torchrun kills it after 30 s.

    Here a wait in C, which no signal ends: Python's handlers run when it returns.
    """
    import time

    several = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    meeting = {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    # A lock that is taken twice by one thread waits for ever, whatever signals come.
    code = (
        "import ctypes; c = ctypes.CDLL(None); lock = ctypes.create_string_buffer(64)\n"
        "print('there', flush=True); c.pthread_mutex_lock(lock); c.pthread_mutex_lock(lock)"
    )
    process = start(code, env=os.environ | several | meeting)
    try:
        assert process.stdout.readline() == "there\n"
        time.sleep(0.2)
        process.send_signal(getattr(signal, name))
        assert process.wait(5) == -getattr(signal, name)
    finally:
        process.kill()


@pytest.mark.parametrize("script", ["compare", "scaling"])
def test_a_limit_under_which_no_picture_can_be_drawn(script):
    """After all trainings V8 ends the last stage with a page of its own addresses."""
    command = f"ulimit -v 16000000; exec {sys.executable} {ROOT}/stages/{script}.py"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    [line] = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("error: pictures can't be drawn under a limit of 16.4 GB")


@pytest.mark.parametrize("script", sorted(ROOT.glob("stages/*.py")), ids=lambda path: path.stem)
def test_every_stage_begins_so(script):
    """A script imports what is large before an error there is said in a line."""
    lines = [line for line in script.read_text().splitlines() if line]
    large = ("import torch", "import numpy", "import vl", "from vitscale.pipeline.stage import ")
    heavy = [i for i, line in enumerate(lines) if line.startswith(large)]
    assert heavy and lines.index("begin(goes_on=True)") < min(heavy)
