"""A stage that runs out of memory ends in one line: a training's names both ways out, another's none of a recipe."""

import sys
from contextlib import nullcontext

import pytest
import torch

from tiny import ROOT
from vitscale.base.endings import MORE, ending
from vitscale.pipeline import stage
from vitscale.pipeline.graph import declared, pipeline_in


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """Return how a stage script ends whose work fails so."""
    monkeypatch.chdir(tmp_path)
    stages = declared(*pipeline_in(ROOT))

    class Stage:
        def __init__(self, name, key):
            self.label = next(label for label in stages if label.partition("@")[0] == name)
            self.declared, self.partial = stages[self.label], tmp_path / "partial"

    monkeypatch.setattr(sys, "argv", ["script"])
    monkeypatch.setattr(stage, "Stage", Stage)
    monkeypatch.setattr(stage, "locked", lambda *_: nullcontext())
    monkeypatch.setattr(stage, "stage_of_dvc", lambda: "")
    monkeypatch.setattr(stage, "Inputs", lambda path: None)

    def run(fail, name="finetune"):
        with pytest.raises(SystemExit) as caught:
            stage.run(lambda stage: fail(), f"stages/{name}.py")
        assert len(caught.value.code.splitlines()) == 1
        return caught.value.code

    return run


def allocate():
    torch.empty(10**15)


def on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has 15 GiB")


def in_python():
    raise MemoryError


def saying(words: str):
    def fail():
        raise RuntimeError(words)

    return fail


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (allocate, "error: out of memory; "),
        (in_python, "error: out of memory; "),
        (on_a_gpu, "error: out of device memory (CUDA out of memory. Tried to allocate 2 GiB.); "),
        *(
            (saying(f"{before}{words} there\nand more"), f"error: out of device memory ({words} there); ")
            for before in ("", "backend='inductor' raised:\n")
            for words in (
                "CUDA error: out of memory",
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
                "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
                "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
                "Triton Error [CUDA]: out of memory",
                "Cuda failure 2 'out of memory'",
                "MPS backend out of memory (MPS allocated: 5 GB)",
            )
        ),
    ],
    ids=lambda value: value[7:60] if isinstance(value, str) else "",
)
def test_out_of_memory_is_one_line(fail, words, ended):
    """A batch that doesn't fit ends in a traceback, or in a line that knows no way out but another training."""
    line = ended(fail)
    assert line.startswith(words)
    assert "batch_size" in line and line.endswith("recipes.<name>.accumulate: 2")


@pytest.mark.parametrize("name", ["download", "prepare", "evaluate", "compare"])
@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (in_python, "error: out of memory: this process needs more; give it more ("),
        (
            on_a_gpu,
            "error: out of device memory (CUDA out of memory. Tried to allocate 2 GiB.); end what else",
        ),
    ],
    ids=["memory", "a GPU's"],
)
def test_a_stage_that_trains_nothing(name, fail, words, ended):
    """An import, or a table, is said to need a smaller batch_size, which it doesn't have."""
    line = ended(fail, name)
    assert line.startswith(words) and "recipe" not in line and "batch" not in line


def test_a_command_that_runs_out_of_memory():
    """`vitscale export` is said to need a smaller batch_size."""
    code, line = ending(MemoryError())
    assert code == 1 and line == f"error: out of memory: this process needs more; {MORE}"


@pytest.mark.parametrize(
    "fail",
    [
        lambda: torch.ones(2) @ torch.ones(3),
        saying("CUDA error: the size"),
        saying("g++ error: out of memory of this size"),
    ],
    ids=["torch", "CUDA", "a compiler"],
)
def test_another_error_keeps_its_traceback(fail, ended):
    """Any other fault is said to be a lack of a GPU's memory."""
    with pytest.raises(RuntimeError, match="size"):
        ended(fail)
