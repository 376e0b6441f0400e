"""Run a stage script and kill the process, as `kill -9` does, at a named point: python killer.py POINT SCRIPT [KEY]."""

import os
import runpy
import signal
import sys
from pathlib import Path

point, script = sys.argv[1:3]
sys.argv = sys.argv[2:]
sys.path.insert(0, str(Path(script).resolve().parents[1] / "src"))

from vitscale.pipeline import stage
from vitscale.training import checkpoint, loop


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def mid_epoch():
    step = loop.Training.step

    def dying(self, images, targets, number):
        if number == self.batches.steps_per_epoch + 1:  # the second step of the second epoch
            die()
        return step(self, images, targets, number)

    loop.Training.step = dying


def writing_a_checkpoint():
    write, written = checkpoint.write_bytes, []

    def dying(path, content):
        if written:
            path.with_name(path.name + ".0123abcd.part").write_bytes(content[: len(content) // 2])
            die()
        written.append(path)
        write(path, content)

    checkpoint.write_bytes = dying


def writing_outputs():
    replace, moved = os.replace, []

    def dying(source, target):
        if str(source).startswith(".vitscale/partial"):
            if moved and not str(target).startswith(".vitscale"):
                die()
            if not str(target).startswith(".vitscale"):
                moved.append(target)
        replace(source, target)

    stage.os.replace = dying


{"mid-epoch": mid_epoch, "writing a checkpoint": writing_a_checkpoint, "writing outputs": writing_outputs}[
    point
]()
runpy.run_path(script, run_name="__main__")
