"""pretrain@<start>: train a model from its initial weights on a pretraining set, on CUDA if there is one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.endings import begin

begin(goes_on=True)

from vitscale.base.entries import Pretraining
from vitscale.pipeline.entry import train_entry
from vitscale.pipeline.stage import Stage, run
from vitscale.runtime.watch import watched


def main(stage: Stage) -> None:
    entry = Pretraining(**stage.param(f"pretrain.{stage.key}"))
    train_entry(
        stage,
        entry,
        start=f"models/start/{entry.model}-scratch",
        data=f"data/prepared/{entry.data}",
        out=f"models/start/{stage.key}",
    )


if __name__ == "__main__":
    with watched():
        run(main, __file__)
