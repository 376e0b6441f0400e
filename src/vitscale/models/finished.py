"""Finished rows, ready to classify: trained here, by torch, or released with the clone, without it.

A released row is a folder in `models/released`: `model.onnx`, which takes `pixel_values` and gives `logits`
and `looks` as `models.looks` has them, and `config.json`, what has to be known beside it (`RELEASED`).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitscale.base.config import read_yaml
from vitscale.base.cpus import threads
from vitscale.base.errors import UserError, one_line, shown
from vitscale.base.files import read_json
from vitscale.models.values import RULES, Rule

if TYPE_CHECKING:  # torch takes seconds to import, and may not be installed
    from vitscale.models.store import Classifier

TRAINED, PULLED = "models/finetuned", "models/released"
PULL = f"`dvc --cd {PULLED} pull`"
AGAIN = (
    f"`dvc --cd {PULLED} pull --force` brings it back"  # without --force DVC keeps a file that was altered
)
STORED = 32  # px, where an entry of `download` names none; data.pins.Download's
# The keys of a released row's config.json. stored_size: side of the target's images, image_size: the model's.
RELEASED: dict[str, Rule] = {
    name: RULES[name] for name in ("classes", "image_size", "interpolation", "mean", "std")
} | {"stored_size": RULES["image_size"]}

Forward = Callable[[Sequence[np.ndarray]], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Answers:
    """What a row says of a batch.

    `probabilities` (b, classes) and `looks` (b, 1 or classes, h, w), float32, and `seen`, uint8
    (b, side, side, 3): what the model got.
    """

    probabilities: np.ndarray
    looks: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True)
class Finished:
    """A row that classifies uint8 images (h, w, 3), one batch a call.

    `side` is the model's, `stored_side` that of the target's images, both in pixels; `source` is "trained
    here" or "released".
    """

    row: str
    classes: list[str]
    side: int
    stored_side: int
    source: str
    forward: Forward  # images to logits, looks and what was seen

    def __call__(self, images: Sequence[np.ndarray]) -> Answers:
        """Return what the row says of the images."""
        logits, looks, seen = self.forward(images)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return Answers(powers / powers.sum(1, keepdims=True), looks, seen)


def has_torch() -> bool:
    """Tell whether torch is installed."""
    return find_spec("torch") is not None


def finished_rows(pipeline: Path) -> list[str]:
    """Return the rows that `load_finished` takes, in params.yaml's order; of several seeds ROW/seed-N.

    Raises UserError where there is no params.yaml.
    """
    params, found = read_yaml(pipeline / "params.yaml"), []
    released = {path.parent.name for path in (pipeline / PULLED).glob("*/model.onnx")}
    for row in [*params["rows"], *sorted(released - {*params["rows"]})]:
        folder = pipeline / TRAINED / row
        if has_torch() and folder.is_dir():
            from vitscale.models.store import trained_models

            found += [path.relative_to(pipeline / TRAINED).as_posix() for path in trained_models(folder)]
        elif row in released:
            found.append(row)
    return found


def load_finished(row: str, pipeline: Path) -> Finished:
    """Return a finished row: the one that was trained here, where torch is installed, else the released one.

    Raises UserError where there is neither, or its files are damaged.
    """
    if has_torch() and (pipeline / TRAINED / row).is_dir():
        return _trained(row, pipeline)
    if (pipeline / PULLED / row / "model.onnx").is_file():
        return load_released(row, pipeline / PULLED / row)
    raise UserError(_missing(row, pipeline))


def load_trained(row: str, pipeline: Path) -> "Classifier":
    """Return the model of a row that was trained here. Raises UserError where there is none."""
    from vitscale.models.store import load_model, trained_models

    folder = pipeline / TRAINED
    if not (folder / row).is_dir():
        raise UserError(_missing(row, pipeline))
    models = trained_models(folder / row)
    if len(models) > 1:
        each = ", ".join(path.relative_to(folder).as_posix() for path in models)
        raise UserError(f"{row} has a model for each of its seeds; give one of {each}")
    return load_model(models[0])


def _missing(row: str, pipeline: Path) -> str:
    """Return in a line what is there in place of a row, and the ways to it.

    Raises UserError where there is no params.yaml.
    """
    folder = pipeline / TRAINED
    if (folder / row).is_dir():
        ways = f"{folder / row} needs torch; `pip install -r requirements.txt` brings it"
    else:
        there = ", ".join(sorted(path.name for path in folder.glob("*") if path.is_dir())) or "no model"
        if row.split("/")[0] in read_yaml(pipeline / "params.yaml")["rows"]:
            fault, how = f"{folder / row} is not there", "; `dvc repro` makes it, `dvc pull` brings it"
        else:
            fault, how = f"{pipeline / 'params.yaml'} has no row {shown(row)}", ""
        ways = f"{fault}; {folder} has {there}{how}"
    if pulled := sorted(path.parent.name for path in (pipeline / PULLED).glob("*/model.onnx")):
        return f"{ways}; {pipeline / PULLED} has {', '.join(pulled)}"
    if (pipeline / PULLED / ".dvc").is_dir():
        return f"{ways}; {PULL} brings those that come with the clone"
    return ways


def _trained(row: str, pipeline: Path) -> Finished:
    """Return a row that was trained here."""
    import torch

    from vitscale.models.looks import Looks
    from vitscale.runtime.device import setup

    params, model = read_yaml(pipeline / "params.yaml"), load_trained(row, pipeline)
    config, device, lock = model.config, setup().device, Lock()
    wanted, looking = config.preprocessing, Looks(model.to(device).eval())

    def forward(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen = wanted.stacked(images)
        with lock, torch.no_grad():
            logits, looks = looking(wanted.to_input(seen.to(device)))
        return logits.cpu().numpy(), looks.cpu().numpy(), seen.byte().numpy()

    stored = params["download"][params["target"]].get("image_size", STORED)
    return Finished(row, config.classes, wanted.image_size, stored, "trained here", forward)


def session(path: Path) -> Any:
    """Return onnxruntime's session of a file, on the CPU. Raises onnxruntime's errors."""
    # Before the import: it else gives this machine a number and reports to Microsoft.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads() or 0  # 0: as many as it likes
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def load_released(row: str, folder: Path) -> Finished:
    """Return a row that came with the clone."""
    config = read_json(folder / "config.json", dict, AGAIN)
    try:
        for name, (passes, words) in RELEASED.items():
            if not passes(config.get(name)):
                raise ValueError(f"{name} of config.json is not {words}")
        model = session(folder / "model.onnx")
        side, count = config["image_size"], len(config["classes"])
        takes = [each.shape[1:] for each in model.get_inputs()]
        gives = [(each.name, each.shape[1]) for each in model.get_outputs()]
        if takes != [[3, side, side]] or gives[:1] != [("logits", count)] or gives[1][0] != "looks":
            raise ValueError("model.onnx takes or gives something else than config.json says")
        mean, std = np.float32(255) * np.array([config["mean"], config["std"]], dtype=np.float32)
        method = Image.Resampling[config["interpolation"].upper()]

        def forward(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            # Pillow's resizing is torch's of `models.preprocessing`, but for 1 or 2 of 255 in few values.
            sized = [np.asarray(Image.fromarray(each).resize((side, side), method)) for each in images]
            seen = np.stack(sized)
            inputs = np.ascontiguousarray(((seen - mean) / std).transpose(0, 3, 1, 2))
            logits, looks = model.run(None, {"pixel_values": inputs})
            return logits, looks, seen

        if not np.isfinite(forward([np.zeros((side, side, 3), np.uint8)] * 2)[0]).all():
            raise ValueError("model.onnx gives no finite numbers")
    except (UserError, ImportError, MemoryError):  # of these the model is not the cause
        raise
    except Exception as error:  # onnxruntime has a dozen kinds
        raise UserError(f"{folder} holds no usable model ({one_line(error)}); {AGAIN}") from error
    return Finished(row, config["classes"], side, config["stored_size"], "released", forward)
