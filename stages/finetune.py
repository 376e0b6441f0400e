"""finetune@<row>: put a new head on a start and train it, or the head alone, on the target or features."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.endings import begin

begin(goes_on=True)

from vitscale.base.entries import Row
from vitscale.pipeline.entry import train_entry
from vitscale.pipeline.stage import Stage, run
from vitscale.runtime.watch import watched


def main(stage: Stage) -> None:
    entry = Row(**stage.param(f"rows.{stage.key}"))
    train_entry(
        stage,
        entry,
        start=f"models/start/{entry.start}",
        data=f"data/{entry.inputs}/{stage.param('target')}",
        out=f"models/finetuned/{stage.key}",
    )


if __name__ == "__main__":
    with watched():
        run(main, __file__)
