"""init@<model>: seeded initial weights, so that training from scratch is a start like any other."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.endings import begin

begin(goes_on=True)

import torch

from vitscale.models.store import ModelConfig, build, save_model
from vitscale.pipeline.stage import Stage, run


def main(stage: Stage) -> None:
    entry = stage.param(f"models.{stage.key}")
    config = ModelConfig.untrained(entry)
    torch.manual_seed(stage.param("seed") + entry["seed"])
    save_model(stage.out(f"models/start/{stage.key}-scratch"), config, build(config).state_dict())


if __name__ == "__main__":
    run(main, __file__)
