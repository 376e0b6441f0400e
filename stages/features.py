"""features@<start>: what a start's backbone makes of each image of the target, for linear probes without augmentation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale import compute
from vitscale.arrays import load_split, write_features
from vitscale.files import write_json
from vitscale.inference import predict
from vitscale.models import load_model, with_statistics
from vitscale.stage import Stage, run


def main(stage: Stage) -> None:
    device = compute.setup()
    target = stage.param("target")
    model, config = load_model(stage.dep(f"models/start/{stage.key}"), classes=[])
    folder, out = stage.dep(f"data/prepared/{target}"), stage.out(f"data/features/{stage.key}/{target}")
    config = with_statistics(config, folder)
    for part in ("train", "validation"):
        split = load_split(folder / part)
        write_features(out / part, predict(model.to(device), config, split, stage.param("precision"), device).numpy(), split)
    write_json(out / "statistics.json", {name: config[name] for name in ("mean", "std")})


if __name__ == "__main__":
    run(main, __file__)
