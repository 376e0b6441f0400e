"""Curves while a training runs: TensorBoard's events, and DVCLive's files for DVC's extension of VS Code.

They are written beside the outputs by what only listens (`loop.Listener`), so no stage lists this module.
"""

import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vitscale.base.endings import way_out
from vitscale.base.errors import UserError, shown
from vitscale.base.files import discard
from vitscale.base.processes import RANK
from vitscale.base.progress import say
from vitscale.models.preprocessing import Preprocessing
from vitscale.training.loop import Epoch, Listener

SAMPLES, WIDE = 16, 4  # images in TensorBoard's grid, and in a row of it
# What each figure of an epoch is called there.
NAMES = {
    "train_loss": "train/loss",
    "validation_loss": "validation/loss",
    "validation_accuracy": "validation/accuracy",
    "lr": "train/learning_rate",
}
SPEED = "train/images_per_second"
LIVE = Path("metrics/live")  # DVC reads this folder, and no stage has it
DVC_YAML = "metrics: [metrics.json]\nplots:\n  - plots/metrics: {x: step}\n"
STEP_COMPLETED = ".dvc/tmp/exps/run/DVCLIVE_STEP_COMPLETED"  # by this file the extension hears of a step


class _Writer(Listener, Protocol):
    def close(self) -> None: ...


class TensorBoard:
    """Write each epoch's figures, and training images as the model gets them, as TensorBoard's events.

    TensorBoard drops what stands from a file's first step on in earlier files of the folder: a training that
    was killed goes on in its curve, and another one of the same entry takes its place.
    """

    def __init__(self, folder: Path, preprocessing: Preprocessing):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise UserError(
                "VITSCALE_TENSORBOARD needs the package tensorboard, which isn't installed: "
                "`pip install tensorboard`, or leave the variable unset"
            ) from None
        self.folder, self.preprocessing, self.side = folder, preprocessing, 0
        self.events, self.summaries, self.records = event_pb2, summary_pb2, RecordWriter
        self.file: Any = None

    def begin(self, history: list[Epoch]) -> None:
        """Open a new file of events; where it is the folder's first, earlier epochs go into it too."""
        self.folder.mkdir(parents=True, exist_ok=True)
        first, self.next = not any(self.folder.glob("*.tfevents.*")), len(history) + 1
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = self.records(open(self.folder / name, "xb"))
        self._write(file_version="brain.Event:2")
        start = self.events.SessionLog(status=self.events.SessionLog.START)
        self._write(session_log=start, step=self.next)
        for figures in history if first else []:
            self._figures(figures)
        self.file.flush()

    def step(self, images: Tensor) -> None:
        """Write a grid of the first images, and of the first that have another side."""
        if images.ndim != 4 or images.shape[-1] == self.side:
            return
        self.side = images.shape[-1]
        some = images[: min(SAMPLES, len(images) // WIDE * WIDE) or 1].detach().float().cpu()
        given = self.preprocessing
        mean, std = (torch.tensor(each)[:, None, None] for each in (given.mean, given.std))
        pixels = ((some * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        grid = torch.cat([torch.cat(list(row), 1) for row in pixels.split(WIDE)])
        from PIL import Image

        png = io.BytesIO()
        Image.fromarray(grid.numpy()).save(png, "PNG")
        height, width, _ = grid.shape
        image = self.summaries.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png.getvalue()
        )
        self._value(self.next, tag="train/images", image=image)
        self.file.flush()

    def epoch(self, figures: Epoch, images_per_second: float) -> None:
        """Write an epoch's figures."""
        self._figures(figures)
        self._value(figures.epoch, tag=SPEED, simple_value=images_per_second)
        self.file.flush()
        self.next = figures.epoch + 1

    def close(self) -> None:
        """Close the file, where a training got so far."""
        if self.file is not None:
            self.file.close()

    def _figures(self, figures: Epoch) -> None:
        for field, name in NAMES.items():
            self._value(figures.epoch, tag=name, simple_value=asdict(figures)[field])

    def _value(self, step: int, **value: Any) -> None:
        summary = self.summaries.Summary(value=[self.summaries.Summary.Value(**value)])
        self._write(step=step, summary=summary)

    def _write(self, **content: Any) -> None:
        event = self.events.Event(wall_time=time.time(), **content)
        self.file.write(event.SerializeToString())


class Live:
    """Write each epoch's figures as DVCLive does, with a dvc.yaml by which DVC finds them.

    They are there while a training runs: `dvc exp run` would put what is left into its experiment. After
    `kill -9` they stay until the next training.
    """

    def __init__(self, run: str):
        self.run, self.root = run, Path(os.environ.get("DVC_ROOT") or ".")  # an experiment's has another

    def begin(self, history: list[Epoch]) -> None:
        """Write the epochs that are known."""
        self.close()
        for figures in history:
            self._figures(figures)

    def step(self, images: Tensor) -> None:
        """Write nothing."""

    def epoch(self, figures: Epoch, images_per_second: float) -> None:
        """Write an epoch's figures."""
        self._figures(figures)
        metrics: dict[str, Any] = {"run": self.run, "step": figures.epoch}
        known = {name: asdict(figures)[field] for field, name in NAMES.items()} | {SPEED: images_per_second}
        for name, value in known.items():
            group, _, last = name.partition("/")
            metrics.setdefault(group, {})[last] = value
        (LIVE / "metrics.json").write_text(json.dumps(metrics, indent=4) + "\n", encoding="utf-8")
        (LIVE / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
        if (self.root / ".dvc").is_dir():
            signal = self.root / STEP_COMPLETED
            signal.parent.mkdir(parents=True, exist_ok=True)
            signal.write_text(json.dumps({"pid": os.getpid(), "step": figures.epoch}), encoding="utf-8")

    def close(self) -> None:
        """Take away what is written here, and nothing else."""
        plots = [LIVE / f"plots/metrics/{name}.tsv" for name in NAMES.values()]
        for path in [LIVE / "dvc.yaml", LIVE / "metrics.json", *plots, self.root / STEP_COMPLETED]:
            discard(path)
        for folder in sorted(
            {path for plot in plots for path in plot.parents if LIVE in [path, *path.parents]}, reverse=True
        ):
            with suppress(OSError):  # something else is in it
                folder.rmdir()

    def _figures(self, figures: Epoch) -> None:
        for field, name in NAMES.items():
            path = LIVE / f"plots/metrics/{name}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            head = "" if path.exists() else f"step\t{path.stem}\n"
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"{head}{figures.epoch}\t{asdict(figures)[field]}\n")


class Curves:
    """Several writers; one that can't write any more, as its disk is full, says so and is left out."""

    def __init__(self, writers: list[_Writer]):
        self.writers = writers

    def begin(self, history: list[Epoch]) -> None:
        """Have all begin. Raises OSError where one can't write at all."""
        for writer in self.writers:
            writer.begin(history)

    def step(self, images: Tensor) -> None:
        """Tell all of a step."""
        self._tell(lambda writer: writer.step(images))

    def epoch(self, figures: Epoch, images_per_second: float) -> None:
        """Tell all of an epoch."""
        self._tell(lambda writer: writer.epoch(figures, images_per_second))

    def close(self) -> None:
        """Have all close."""
        self._tell(lambda writer: writer.close())

    def _tell(self, tell: Callable[[_Writer], None]) -> None:
        for writer in list(self.writers):
            try:
                tell(writer)
            except OSError as error:
                self.writers.remove(writer)
                with suppress(OSError):
                    writer.close()
                kind = type(writer).__name__
                say(f"warning: no more curves for {kind}: {shown(way_out(error))}; the training goes on")


@contextmanager
def curves_for(run: str, preprocessing: Preprocessing) -> Iterator[list[Listener]]:
    """Yield what writes the curves of a training, named `run`, that the environment asks for.

    VITSCALE_TENSORBOARD is a folder, in which the training has the folder `run`; VITSCALE_DVCLIVE is 1.
    Raises UserError where tensorboard isn't installed.
    """
    folder, writers = os.environ.get("VITSCALE_TENSORBOARD"), list[_Writer]()
    if folder and not RANK:
        writers.append(TensorBoard(Path(folder) / run, preprocessing))
    if os.environ.get("VITSCALE_DVCLIVE", "0") not in ("", "0") and not RANK:
        writers.append(Live(run))
    if not writers:
        yield []
        return
    curves = Curves(writers)
    try:
        yield [curves]
    finally:
        curves.close()
