"""How our programs end: what a person, a file, a disk or a limit has caused is said in a line, no traceback.

`begin` is the first thing that a stage script or a command does, before it imports anything large.
"""

import errno
import io
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vitscale.base.errors import UserError, device_memory, shown
from vitscale.base.processes import PROCESSES

# What to do where memory is short: in a training, elsewhere, and on a device elsewhere.
SMALLER = (
    "lower the recipe's batch_size, or compute a batch in parts, one after the other: "
    "recipes.<name>.accumulate: 2"
)
MORE = "give it more (`ulimit -v`, the job's limit)"
FREE = "end what else uses the device, or take the CPU: VITSCALE_DEVICE=cpu"
READ_NO_MORE = 128 + signal.SIGPIPE  # the exit code of a program that this signal ends
ADDRESSES = 72_000_000_000  # bytes: 51 GB were too few, 72 GB enough
INSTALL = "`pip install -r requirements.txt` in the repository's root brings it"
NO_LOCKS = "its file system has no locks; use a folder on another one"
# What to do about an error of the system, by its number. What isn't here needs no more than its own words.
WAYS_OUT = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "your quota is used up: make room, or ask for more",
    errno.EFBIG: "no file may be that large: raise the shell's `ulimit -f`, or use another file system",
    errno.EACCES: "mend the permissions",
    errno.EPERM: "mend the permissions",
    errno.EROFS: "the file system is read-only: use a folder on another one",
    errno.ENOLCK: NO_LOCKS,
    errno.EOPNOTSUPP: "its file system can't do that; use a folder on another one",
    errno.EMFILE: "raise the shell's `ulimit -n`",
    errno.ENFILE: "the system has too many open files: end other programs",
    errno.EIO: "the disk or its connection fails: see the system's log",
    errno.ESTALE: "the file server has changed: mount its folder again",
    errno.ENAMETOOLONG: "choose a shorter name or folder",
    errno.ELOOP: "links lead in a circle: take one away",
    errno.ENOTDIR: "a file stands where a folder should be: move it away",
    errno.EISDIR: "a folder stands where a file should be: move it away",
    errno.EEXIST: "move away what stands there",
    errno.ENOTEMPTY: "move away what stands there",
    errno.EBUSY: "another program uses it: end that one",
    errno.ETXTBSY: "another program uses it: end that one",
    errno.ENOENT: "see that it is there, and the folders above it",
}
PROGRAMS = ("git", "dvc", "sh")  # those that we start
# What loaders, allocators and threads say where memory is short, as torch and others pass it on.
SHORT = (
    "can't allocate memory",
    "Cannot allocate memory",
    "cannot allocate memory",
    "failed to map segment",
    "can't start new thread",
    "bad_alloc",
)


class Stopped(BaseException):
    """A signal asks for the end; its number is the argument."""


def way_out(error: OSError) -> str:
    """Return what an error of the system was about, in its own words, and what to do about that cause."""
    names = " and ".join(os.fsdecode(each) for each in (error.filename, error.filename2) if each is not None)
    said = error.strerror or str(error) or type(error).__name__
    known = WAYS_OUT.get(error.errno or 0)
    if error.errno == errno.ENOENT and names in PROGRAMS:
        known = "this program is not installed, or not in PATH"
    elif error.errno == errno.ENOENT and not names:
        known = "the folder in which this was started is gone: `cd` into one that is there"
    return f"{f'{names}: ' if names else ''}{said}{f'; {known}' if known else ''}"


def memory(error: BaseException, trains: bool = False) -> str:
    """Return the line in which an error says that memory was short; "" where it says something else.

    Of a process that `trains` a recipe decides how much it takes.
    """
    if said := device_memory(error):
        return f"out of device memory ({said}); {SMALLER if trains else FREE}"
    short = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if not short and not (
        isinstance(error, RuntimeError | ImportError | OSError | SystemError)
        and any(words in str(error) for words in SHORT)
    ):
        return ""
    if isinstance(error, ImportError) or _importing(error):
        return f"out of memory while Python's packages were loaded; {MORE}"
    return f"out of memory; {SMALLER}" if trains else f"out of memory: this process needs more; {MORE}"


def _importing(error: BaseException) -> bool:
    """Tell whether an error arose while a module was imported."""
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        trace = trace.tb_next
    return False


def ending(error: BaseException) -> tuple[int, str] | None:
    """Return an exit code and lines that say why; None for a fault of our own, which keeps its traceback."""
    if isinstance(error, UserError):
        return 1, "\n".join(f"error: {line}" for line in str(error).splitlines())
    if isinstance(error, KeyboardInterrupt):
        return 130, f"\n{str(error) or 'stopped; run it again'}"
    if isinstance(error, Stopped):
        number = error.args[0]
        return 128 + number, f"stopped by {signal.Signals(number).name}; run it again"
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return READ_NO_MORE, ""  # `vitscale predict … | head`: nobody reads on
    if said := memory(error):
        return 1, f"error: {said}"
    if isinstance(error, OSError):
        return 1, f"error: {shown(way_out(error))}"
    if isinstance(error, subprocess.CalledProcessError):
        return 1, f"error: `{shlex.join(error.cmd)}` failed, with exit code {error.returncode}"
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("vitscale"):
        return 1, f"error: the package {error.name} is not installed; {INSTALL}"
    if isinstance(error, ImportError) and "vitscale" not in str(error.name):
        said = " ".join(str(error).split())
        return 1, f"error: {error.name or 'a package'} can't be loaded ({said}); {INSTALL}"
    return None


def _end(code: int, lines: str) -> SystemExit:
    """Return what ends the process with that code, and says why."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:  # a full disk, a pipe that nobody reads: Python would try again at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if code == 1:
        return SystemExit(lines)
    if lines:
        print(lines, file=sys.stderr, flush=True)
    return SystemExit(code)


@contextmanager
def in_words() -> Iterator[None]:
    """Run what may fail: an error that isn't a fault of our own ends the process in its line."""
    try:
        yield
        if sys.stdout:
            sys.stdout.flush()
    except BaseException as error:
        if (known := ending(error)) is None:
            raise
        raise _end(*known) from None


class _Lossy(io.FileIO):
    """A file that takes what can't be written too: a full disk, a pipe that nobody reads, a terminal gone."""

    def write(self, content: Any) -> int:
        try:
            written = super().write(content)
        except OSError:
            written = None
        return len(content) if written is None else written


def _hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if (known := ending(error)) is None:
        sys.__excepthook__(kind, error, trace)
    else:
        raise _end(*known)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    raise Stopped(number)


def require_drawing() -> None:
    """Raise UserError where a limit would have V8, which draws the pictures, end the process with a page."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESSES:
        raise UserError(
            f"pictures can't be drawn under a limit of {limit / 1e9:.1f} GB of address space: V8 reserves "
            f"{ADDRESSES / 1e9:.0f} GB, which it doesn't use; give `ulimit -v unlimited`"
        )


def begin(goes_on: bool = False) -> None:
    """Have this process end in words from here on, and no text fail that a terminal has no letters for.

    Where it `goes_on`, printing never fails: what a stage prints is for people, and its work is in files.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass  # a stream that was closed: the next file would take its number, and all that is printed
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))
        elif goes_on:
            stream.flush()
            raw = io.BufferedWriter(_Lossy(number, "w", closefd=False))
            each_line = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, "backslashreplace", **each_line))
        else:
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _hook
    for end in (signal.SIGTERM, signal.SIGHUP):
        # Python's handlers run between two lines of Python: a process that waits for others inside a
        # collective would go on until that returns. So of several processes each ends at once, without words.
        if PROCESSES == 1 and signal.getsignal(end) is signal.SIG_DFL:  # `nohup` has it ignored
            signal.signal(end, _stop)
