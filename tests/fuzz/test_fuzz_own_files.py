"""What our own stages leave: states of trainings, splits, models."""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from fuzzing import accepted, damaged, damages, fuzz
from made import build as build_config
from made import save_model
from tiny import PARAMS
from vitscale.data.arrays import SplitWriter, load_split
from vitscale.models.store import load_model
from vitscale.training.checkpoint import Checkpoint

ENTRY = {key: value for key, value in PARAMS["models"]["vit"].items() if key != "seed"}
CONFIG = ENTRY | {"classes": ["a", "b"], "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}


def files_of(make) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        return {file.name: file.read_bytes() for file in Path(name).iterdir()}


def _split(folder: Path) -> None:
    writer = SplitWriter(folder, 4, 2, ["a", "b"])
    writer.add(np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3), np.array([0, 0, 1, 1]))
    writer.close()


def _state(folder: Path) -> None:
    Checkpoint(folder / "state.pt").save({"epoch": 1, "model": {"weight": torch.ones(3)}, "best": 0.5})


KINDS = {
    "state": files_of(_state),
    "split": files_of(_split),
    "model": files_of(lambda folder: save_model(folder, CONFIG, build_config(CONFIG).state_dict())),
}
damages_of = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.sampled_from(sorted(KINDS[kind])).flatmap(
        lambda name: damages().map(lambda places: (kind, name, damaged(KINDS[kind][name], places)))
    )
)
SEEDS = [
    (kind, name, content)
    for kind in KINDS
    for name in KINDS[kind]
    for content in (b"", b"\xff", b"[" * 10**5, b"{}", KINDS[kind][name])
]


@fuzz(damages_of, 200, SEEDS)
def test_own_files(case):
    """A damaged file of our own ends in another error than the one that names its folder, or is taken for whole."""
    kind, name, content = case
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(io.StringIO()) as said:
        folder = Path(place)
        for file, whole in (KINDS[kind] | {name: content}).items():
            (folder / file).write_bytes(whole)
        if kind == "state":
            state = accepted(Checkpoint(folder / "state.pt").load, folder)
            is_whole = content == KINDS[kind][name]
            assert (state is not None) == is_whole and ("is damaged" in said.getvalue()) == (not is_whole)
        elif kind == "split":
            split = accepted(lambda: load_split(folder), folder, place)
            assert split is None or (len(split.images) == len(split.labels) and split.images.shape[3] == 3)
        else:
            model = accepted(lambda: load_model(folder), folder, place)
            assert model is None or model(torch.zeros(1, 3, 32, 32)).isfinite().all()
