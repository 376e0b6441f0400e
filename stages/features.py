"""features@<start>: what a start's backbone makes of the target's images, for probes without augmentation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.endings import begin

begin(goes_on=True)

from vitscale.base.files import write_json
from vitscale.data.arrays import load_split, write_features
from vitscale.models.store import load_model
from vitscale.pipeline.stage import Stage, run
from vitscale.runtime.device import setup
from vitscale.runtime.watch import watched
from vitscale.training.inference import predict


def main(stage: Stage) -> None:
    compute, target = setup(stage.param("precision"), aloud=True), stage.param("target")
    folder, out = stage.dep(f"data/prepared/{target}"), stage.out(f"data/features/{stage.key}/{target}")
    model = load_model(stage.dep(f"models/start/{stage.key}"), classes=[], statistics=folder)
    for part in ("train", "validation"):
        split = load_split(folder / part)
        write_features(out / part, predict(model, split.images, compute).numpy(), split)
    write_json(out / "statistics.json", {"mean": model.config.mean, "std": model.config.std})


if __name__ == "__main__":
    with watched():
        run(main, __file__)
