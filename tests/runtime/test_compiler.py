"""Whether a model can be compiled: with compilers that are there, and don't work."""

import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import ExitStack

import pytest
import torch
import torch._inductor.config

from tiny import ROOT
from trainings import ADAMW, CPU, training_of
from vitscale.runtime.compiler import _reason, can_compile

needs_a_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def forgotten():
    """Each test's process hasn't compiled anything yet."""
    torch._dynamo.reset()
    can_compile.cache_clear()
    yield
    torch._dynamo.reset()
    can_compile.cache_clear()


REAL = f'exec {shutil.which("g++")} "$@"'
WITHOUT = 'for each; do shift; case "$each" in *{}*) ;; *) set -- "$@" "$each";; esac; done\n'
COMPILERS = {
    "ends at once": "exit 1",
    "says why": "echo 'g++: error: no licence' >&2; exit 1",
    "does nothing": "exit 0",
    "prints nonsense": "head -c 3000 /dev/urandom",
    "without headers": f'set -- -nostdinc "$@"\n{REAL}',
    "without Python's headers": WITHOUT.format(sysconfig.get_paths()["include"]) + REAL,
    "killed": "kill -9 $$",
    "no program": None,
    "a folder": None,
    "absent": None,
    "not executable": REAL,
    "empty": None,
    "works": REAL,
}


@pytest.fixture
def compiler(tmp_path):
    """Return a function that makes a compiler of COMPILERS torch's own."""

    def make(name: str) -> None:
        path, script = tmp_path / "cxx", COMPILERS[name]
        if name == "a folder":
            path.mkdir()
        elif name != "absent":
            path.write_text({"no program": "no program", "empty": ""}.get(name, f"#!/bin/sh\n{script}\n"))
            path.chmod(0o644 if name == "not executable" else 0o755)
        chosen = {
            "cpp.cxx": (None, str(path)),
            "cpp_cache_precompile_headers": False,
        }  # which take 10 seconds
        patches.enter_context(torch._inductor.config.patch(chosen))

    with ExitStack() as patches:
        yield make


@needs_a_compiler
@pytest.mark.parametrize("name", [name for name in COMPILERS if name != "works"])
def test_a_broken_compiler(name, compiler, capfd):
    """A compiler that is there but doesn't work, or lacks headers, ends the training in a traceback, or isn't spoken of."""
    compiler(name)
    assert can_compile(CPU.device) is False and can_compile(CPU.device) is False
    said = [line for line in capfd.readouterr().err.splitlines() if "isn't compiled" in line]
    assert len(said) == 1 and "CXX" in said[0] and "Traceback" not in said[0]


@needs_a_compiler
def test_a_compiler_that_broke(compiler, capfd):
    """What a compiler left on the disk, while it worked, hides that it is broken; or one that works isn't used."""
    compiler("works")
    before = torch.get_rng_state()
    assert can_compile(CPU.device) is True and "isn't compiled" not in capfd.readouterr().err
    assert torch.equal(torch.get_rng_state(), before)
    torch._dynamo.reset()
    can_compile.cache_clear()
    compiler("ends at once")
    assert can_compile(CPU.device) is False


def test_training_goes_on_uncompiled(split, compiler):
    """Without a compiler that works a training with `compile` ends, or ends elsewhere than an uncompiled one."""
    compiler("ends at once")
    losses = [training_of(split, recipe=ADAMW | {"compile": compiled}).epoch(0) for compiled in (True, False)]
    assert losses[0] == losses[1]


def test_an_empty_name_of_a_compiler(monkeypatch):
    """An empty CXX is taken for a compiler's name, while any other variable that is empty counts as unset."""
    code = "import os, vitscale.runtime.compiler; print(os.environ.get('CXX'))"
    for given, wanted in (("", "None"), ("clang++", "clang++")):
        monkeypatch.setenv("CXX", given)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
        )
        assert done.stdout.decode().strip() == wanted


def test_what_a_compiler_says():
    """The line that says why stands for nothing that a reader can mend."""
    long = "CppCompileError: C++ compile error\n\nCommand:\ng++ x\n\nOutput:\nx.h:3:9: fatal error: omp.h: No such file\n   3 |\n"
    assert _reason(Exception(long)) == "x.h:3:9: fatal error: omp.h: No such file"
    assert _reason(ValueError("\n first\nsecond")) == "first" and _reason(IndexError()) == "IndexError"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("a\nCUDA error: out of memory"),
    ],
    ids=["host", "torch", "CUDA"],
)
def test_a_lack_of_memory_is_no_missing_compiler(error, monkeypatch):
    """A GPU that is full has a training go on uncompiled, to end in other digits, or at its first batch."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(type(error)):
        can_compile(CPU.device)
