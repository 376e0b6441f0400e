"""Batches that a thread makes ahead, as where images stream to a GPU; the thread runs here on the CPU, with CUDA acted."""

import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tiny import ROOT
from trainings import OFF, Nowhere, raw, training_of
from vitscale.training.batches import ahead
from vitscale.training.loop import fit

MIXED = OFF | {"crop_padding": 2, "flip": True, "trivial_augment": True, "mixup": 0.2, "cutmix": 1.0}


def test_the_next_is_made_while_this_one_is_used():
    """The thread waits for the caller, so that nothing is gained; runs far ahead, so that memory fills; or mixes the order."""
    made, ready = [], [threading.Event() for _ in range(6)]

    def make(item: int) -> int:
        made.append(item)
        ready[item].set()
        return 10 * item

    for i, each in enumerate(ahead(make, range(6))):
        assert each == 10 * i
        if i < 5:
            assert ready[i + 1].wait(10)
        time.sleep(0.01)
        assert made == list(range(min(i + 2, 6)))
    assert list(ahead(make, [])) == []


def test_an_error_is_raised_at_its_turn():
    """What goes wrong in the thread is lost, or comes before the batches that were made."""
    found = []
    with pytest.raises(ZeroDivisionError):
        for each in ahead(lambda item: 6 // (2 - item), range(5)):
            found.append(each)
    assert found == [3, 6]


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each is not threading.main_thread()]


def test_the_thread_ends_with_the_epoch():
    """Each epoch leaves a thread behind, or an epoch that is left midway does."""
    before = threads()
    assert list(ahead(abs, range(5))) == list(range(5)) and threads() == before
    batches = ahead(abs, range(5))
    next(batches)
    batches.close()
    assert threads() == before


FAILED = """
import sys
sys.path.insert(0, {src!r})
from vitscale.training.batches import ahead
for each in ahead(abs, range(100)):
    if each == 3:
        raise {error}
"""


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "ValueError('a step')"])
def test_a_failed_step_ends_the_program(error):
    """After a step that fails, or Ctrl-C, the program hangs, since the thread still waits for work."""
    code = FAILED.format(src=str(ROOT / "src"), error=error)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert ended.returncode != 0 and error.partition("(")[0] in ended.stderr


@pytest.fixture
def acted(monkeypatch) -> list:
    """Act CUDA's streams and pinned memory; return what is done, in order."""
    done: list = []
    main = SimpleNamespace(wait_event=lambda event: done.append(("wait", event)))
    side = SimpleNamespace(record_event=lambda: done.append("made") or len(done))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(done.append("on the side")))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: done.append("pinned") or tensor)
    monkeypatch.setattr(
        Tensor, "record_stream", lambda tensor, stream: done.append(("recorded", stream is main))
    )
    return done


def test_a_streamed_training_has_the_same_bytes(split, acted):
    """The batches that are made ahead are other ones, or come in another order."""
    results = []
    for streamed in (False, True):
        training = training_of(split, policy=MIXED)
        training.batches.streamed = streamed
        results.append(fit(training, split, Nowhere()))
    assert raw(results[0].state) == raw(results[1].state) and results[0].history == results[1].history
    assert acted.count("pinned") == 8


def test_a_streamed_batch_is_waited_for(split, acted):
    """The step reads a batch before it has been copied, or its memory is given to the next batch while the step reads it."""
    training = training_of(split)
    training.batches.streamed = True
    for _ in training.batches.epoch(0):
        acted.append("step")
    taken = [each for each in acted if each == "step" or each[0] in ("wait", "recorded")]
    events = [each[1] for each in taken if each[0] == "wait"]
    wanted = [[("wait", event), ("recorded", True), ("recorded", True), "step"] for event in events]
    assert taken == sum(wanted, []) and len(events) == len(set(events)) == 4
    assert [each for each in acted if each in ("on the side", "pinned", "made")] == 4 * [
        "on the side",
        "pinned",
        "made",
    ]


def test_a_cpu_has_no_thread(split, monkeypatch):
    """On a CPU, where a thread gains nothing, batches are made by one."""
    monkeypatch.setattr("vitscale.training.batches.ahead", None)
    before = threads()
    for _ in training_of(split).batches.epoch(0):
        assert threads() == before
