"""A stage that runs out of memory ends in one line that names both ways out."""

import pytest
import torch

from vitscale.pipeline import stage


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
def test_out_of_memory_is_one_line(fail, words, monkeypatch):
    """A batch that doesn't fit ends in a traceback, or in a line that knows no way out but another training."""
    monkeypatch.setattr(stage, "Stage", lambda name, key: fail())
    with pytest.raises(SystemExit) as caught:
        stage.run(lambda stage: None, "stages/finetune.py")
    line = caught.value.code
    assert line.startswith(words) and len(line.splitlines()) == 1
    assert "batch_size" in line and line.endswith("recipes.<name>.accumulate: 2")


@pytest.mark.parametrize(
    "fail",
    [
        lambda: torch.ones(2) @ torch.ones(3),
        saying("CUDA error: the size"),
        saying("g++ error: out of memory of this size"),
    ],
    ids=["torch", "CUDA", "a compiler"],
)
def test_another_error_keeps_its_traceback(fail, monkeypatch):
    """Any other fault is said to be a lack of a GPU's memory."""
    monkeypatch.setattr(stage, "Stage", lambda name, key: fail())
    with pytest.raises(RuntimeError, match="size"):
        stage.run(lambda stage: None, "stages/finetune.py")
