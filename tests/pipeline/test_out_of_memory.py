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


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (allocate, "error: out of memory; "),
        (in_python, "error: out of memory; "),
        (on_a_gpu, "error: out of device memory (CUDA out of memory. Tried to allocate 2 GiB.); "),
    ],
)
def test_out_of_memory_is_one_line(fail, words, monkeypatch):
    """A batch that doesn't fit ends in a traceback, or in a line that knows no way out but another training."""
    monkeypatch.setattr(stage, "Stage", lambda name, key: fail())
    with pytest.raises(SystemExit) as caught:
        stage.run(lambda stage: None, "stages/finetune.py")
    line = caught.value.code
    assert line.startswith(words) and len(line.splitlines()) == 1
    assert "batch_size" in line and line.endswith("recipes.<name>.accumulate: 2")


def test_another_error_keeps_its_traceback(monkeypatch):
    """Any other fault of torch's is said to be a lack of memory."""

    def fail():
        torch.ones(2) @ torch.ones(3)

    monkeypatch.setattr(stage, "Stage", lambda name, key: fail())
    with pytest.raises(RuntimeError, match="size"):
        stage.run(lambda stage: None, "stages/finetune.py")
