"""What fuzz tests share: how long they draw, what they hold a call to, and damage to bytes.

In the suite each draws a few examples, always the same. `VITSCALE_FUZZ_MINUTES=10 pytest -n 0 tests/fuzz` draws others
for ten minutes, and `VITSCALE_FUZZ_SEED` says where it begins.
"""

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from vitscale.base.errors import UserError

MINUTES = float(os.environ.get("VITSCALE_FUZZ_MINUTES") or 0)
FUZZERS = 8  # tests among which the minutes are shared
SECONDS, MEMORY = 10, 2 << 30  # that one call may take, on a busy machine, and the bytes that it may add
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")

watched: list[tuple[Path, list[str]]] = []  # the folder that the code may write to, and what it did elsewhere


def _hook(event: str, arguments: tuple) -> None:
    if not watched:
        return
    folder, seen = watched[-1]
    if event in STARTS:
        seen.append(f"{event} {arguments}")
    is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
    if is_write or event in CHANGES:
        paths = [each for each in arguments[:2] if isinstance(each, str | bytes | Path)][
            : 2 if "re" in event else 1
        ]
        above = (
            arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") and arguments[-1] != -1 else None
        )
        for path in map(os.fsdecode, paths):
            path = path if above is None else os.path.join(os.readlink(f"/proc/self/fd/{above}"), path)
            if not os.path.realpath(path).startswith(os.path.realpath(folder)) and path != os.devnull:
                seen.append(f"{event} {path}")


sys.addaudithook(_hook)


class Hangs(BaseException):
    """A call took too long."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold what runs inside to its time, its memory and its folder; to start a program is never allowed."""

    def stop(*_: object) -> None:
        raise Hangs(f"more than {SECONDS} seconds")

    with open("/proc/self/statm") as file:
        has = int(file.read().split()[0]) * resource.getpagesize()
    old, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    seen: list[str] = []
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, limits[1]))
    watched.append((folder, seen))
    try:
        yield
    finally:
        watched.pop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert not seen, seen


def accepted(call: Callable[[], Any], folder: Path, *names: str, of: type[Exception] = UserError) -> Any:
    """Return what a call returns, or None where it refuses as it should: lines that can be printed and name its file."""
    try:
        with held(folder):
            return call()
    except of as error:
        lines = str(error).splitlines()
        assert lines and all(line.strip() and line.isprintable() for line in lines), lines
        assert all(len(line) < 2000 for line in lines), [len(line) for line in lines]
        for name in names:
            assert all(name in line for line in lines), (name, lines)
        return None


def fuzz(strategy: st.SearchStrategy, examples: int, seeds: list | None = None) -> Callable:
    """Run a test on values that are drawn, after these seeds: faults of earlier days."""

    def decorate(test: Callable) -> Callable:
        def run(number: int | None, count: int) -> None:
            options = settings(
                max_examples=count,
                derandomize=number is None,
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )

            def body(value: Any) -> None:
                test(value)

            drawn = options(given(strategy)(body))
            (drawn if number is None else seed(number)(drawn))()

        def fuzzed() -> None:
            for each in seeds or []:
                test(each)
            end, number = (
                time.monotonic() + 60 * MINUTES / FUZZERS,
                int(os.environ.get("VITSCALE_FUZZ_SEED") or 0),
            )
            if not MINUTES:
                run(None, examples)
            while time.monotonic() < end:
                run(number, examples)
                number += 1

        fuzzed.__doc__, fuzzed.__name__ = test.__doc__, test.__name__
        return fuzzed

    return decorate


def damages(most: int = 3) -> st.SearchStrategy[list[tuple[float, int]]]:
    """Places of a content and what happens there: a byte xor 1 to 255, 256 it ends, 257 a piece stands twice, 258 it is gone."""
    return st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 258)), min_size=1, max_size=most
    )


def damaged(content: bytes, places: list[tuple[float, int]]) -> bytes:
    for place, what in places:
        at = int(place * len(content))
        piece = content[at : at + 16]
        if what < 256 and piece:
            content = content[:at] + bytes([piece[0] ^ what]) + content[at + 1 :]
        elif what == 256:
            content = content[:at]
        else:
            content = content[:at] + (piece + piece if what == 257 else b"") + content[at + 16 :]
    return content


# What no parameter should be, of every type.
VALUES: list = (
    [None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, -(10**30), 0.0, -0.0, 1e-320, 1e308, float("inf"), float("nan"),
     "", " ", "~", "nul\0", "a\nb", "\x1b[31m", "é" * 100, "x" * 10_000, "../../etc", "/etc/passwd", "$(touch canary)", "`id`", "; id",
     "${key}", "\u202e", "\ud800", [], [[]], [None], [10**30], list(range(2000)), {}, {"": 1}, {"a": {"b": {"c": []}}}, {"seed": 0}]
)  # fmt: skip
HOSTILE = st.sampled_from(VALUES)
