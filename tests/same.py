"""A stage by hand in one process, and whether two trainings went the same way."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tiny import run


def alone(folder: Path, stage: str, key: str):
    return run("python", f"stages/{stage}.py", key, cwd=folder)


def history(folder: Path, stage: str) -> np.ndarray:
    epochs = json.loads((folder / f"metrics/history/{stage}/vit-digits.json").read_text())["epochs"]
    return np.array([list(epoch.values()) for epoch in epochs], dtype=float)


def assert_same_training(one: Path, two: Path, stage: str, place: str, start: str) -> None:
    """Both went the same way from the same start, to what rounding makes of it: other gradients would lead far apart."""
    figures = [history(folder, stage) for folder in (one, two)]
    assert len(figures[0]) >= 1 and np.allclose(
        *figures, rtol=5e-3, atol=0
    )  # no image of the 54 may be told otherwise
    before, first, second = (
        load_file(path / "model.safetensors")
        for path in (one / "models/start" / start, one / place / "vit-digits", two / place / "vit-digits")
    )
    assert first.keys() == second.keys()
    trained = [name for name in first if name in before and not name.startswith("head.")]
    for names in (trained, ["head.weight", "head.bias"]):
        begin = [before[name] if name in trained else 0 for name in names]  # a new head is zero
        apart, moved = (
            np.sqrt(sum(np.square(x).sum() for x in each))
            for each in (
                [first[name] - second[name] for name in names],
                [first[name] - x for name, x in zip(names, begin)],
            )
        )
        assert apart <= 0.02 * moved
