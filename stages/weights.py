"""weights@<start>: fetch a checkpoint that others trained and leave it as a start like any other."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.endings import begin

begin(goes_on=True)

from vitscale.base.entries import Weights
from vitscale.base.files import write_json
from vitscale.models.pretrained import fetch
from vitscale.models.store import save_model
from vitscale.pipeline.stage import Stage, run


def main(stage: Stage) -> None:
    config, state, found = fetch(stage.key, Weights(**stage.param(f"weights.{stage.key}")))
    folder = stage.out(f"models/start/{stage.key}")
    save_model(folder, config, state)
    write_json(
        folder / "origin.json", {"sha256": found}
    )  # which of the files that an entry allows it is from


if __name__ == "__main__":
    run(main, __file__)
