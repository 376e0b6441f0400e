"""weights@<start>: fetch a checkpoint that others trained and leave it as a start like any other."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.entries import Weights
from vitscale.models.pretrained import fetch
from vitscale.models.store import build, save_model
from vitscale.pipeline.stage import Stage, run


def main(stage: Stage) -> None:
    config, state = fetch(stage.key, Weights(**stage.param(f"weights.{stage.key}")))
    build(config).load_state_dict(state)  # every parameter is filled and every tensor used, or this raises
    save_model(stage.out(f"models/start/{stage.key}"), config, state)


if __name__ == "__main__":
    run(main, __file__)
