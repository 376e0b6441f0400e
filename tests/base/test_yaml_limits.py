"""YAML files that take all memory, all time or the stack: one line with the limit, in a process of its own."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import ROOT
from vitscale.base.config import parse_yaml
from vitscale.base.errors import UserError
from vitscale.base.files import read_small


def bomb(first: str, each: str) -> str:
    """Return ten lists or mappings, each of ten of the one before."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {each.replace('@', f'*a{i - 1}')}" for i in range(1, 12)]
    return "\n".join(lines)


FILES = {
    "lists": (bomb("[x]", "[" + ",".join(["@"] * 10) + "]"), "goes beyond 104857 values"),
    "merges": (bomb("{a: x}", "{<<: [" + ",".join(["@"] * 10) + "]}"), "goes beyond 104857 values"),
    "a chain of merges": (
        "a0: &a0 {a: x}\n" + "".join(f"a{i}: &a{i} {{<<: *a{i - 1}, k{i}: 1}}\n" for i in range(1, 5000)),
        "goes beyond 104857 values",
    ),
    "itself": ("a: &a [*a]", "has *a inside of what it stands for"),
    "brackets": ("a: " + "[" * 10**5, "nested more than 50 deep"),
    "braces": ("a: " + "{a: " * 10**5, "nested more than 50 deep"),
    "dashes": ("- " * 10**5, "nested more than 50 deep"),
    "a long number": ("a: " + "9" * 10**6, "a value of 1000000 characters, more than 4096"),
    "numbers of one hash": (
        "".join(f"{i * (2**61 - 1)}: 1\n" for i in range(1, 20000)),
        "a key of more than 60 bits",
    ),
    "a long tag": ("a: !" + "x" * 10**5 + " 1", "is not valid YAML"),
    "50 MB": ("a: [" + "1," * 25 * 10**6 + "1]", "has 50000006 bytes, more than the 1048576"),
}
READ = """
import sys
from pathlib import Path
from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
try:
    read_yaml(Path(sys.argv[1]))
except UserError as error:
    print(error)
"""


def limit():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (4, 4))


def read(path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        env={"PYTHONPATH": str(ROOT / "src")},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("kind", FILES)
def test_a_hostile_file_is_one_line(tmp_path, kind):
    """It takes gigabytes or minutes, or ends the process by a signal."""
    text, words = FILES[kind]
    (tmp_path / "params.yaml").write_text(text)
    line = read(tmp_path / "params.yaml")
    assert line.startswith(f"{tmp_path}/params.yaml") and words in line
    assert line.count("\n") == 1 and len(line) < 700


def test_a_pipe_is_one_line(tmp_path):
    """A pipe in place of the file is waited for, for ever."""
    os.mkfifo(tmp_path / "params.yaml")
    assert "is no file but a pipe" in read(tmp_path / "params.yaml")


def test_aliases_are_read(tmp_path):
    """An alias or a merge of everyday use is refused."""
    (tmp_path / "params.yaml").write_text("x: &x {a: 1}\ny: [*x, *x]\nz: {<<: *x, b: 2}\n")
    assert read(tmp_path / "params.yaml") == ""


def test_a_text_from_git_is_held_too():
    """A params.yaml of 50 MB in another revision, which is no file here, is parsed."""
    with pytest.raises(UserError, match="^params.yaml of v1 has 2000003 bytes, more than the 1048576"):
        parse_yaml(b"a: " + b"x" * 2_000_000, "params.yaml of v1")


def test_a_lock_may_be_larger():
    """The dvc.lock of a large pipeline, which DVC writes, is refused as a params.yaml of its size is."""
    lines = "".join(f"k{i}: {'x' * 1000}\n" for i in range(2000))
    assert len(parse_yaml(lines.encode(), "dvc.lock")) == 2000


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux has /proc")
def test_a_file_that_has_no_size_is_held():
    """A file that grows while it is read, or one of /proc, whose size is 0, is read to its end."""
    with pytest.raises(UserError, match="^/proc/self/maps has 101 bytes, more than the 100"):
        read_small(Path("/proc/self/maps"), 100)
