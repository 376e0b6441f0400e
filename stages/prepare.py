"""prepare@<dataset>: split off validation images, take channel statistics, draw the augmentation policies."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.endings import begin

begin(goes_on=True)

import numpy as np

from vitscale.base.errors import UserError
from vitscale.base.files import naming, write_json
from vitscale.data.arrays import load_split
from vitscale.data.augment import Policy
from vitscale.data.prepare import channel_statistics, leaked, preview, split_off, write_part
from vitscale.pipeline.stage import Stage, run


def main(stage: Stage) -> None:
    split = load_split(stage.dep(f"data/raw/{stage.key}/train"))
    target, seed = stage.param("target"), stage.param("split_seed")
    test = load_split(stage.dep(f"data/raw/{target}/test"))
    if not len(test):
        raise UserError(f"target: {target} has no test split; name a data set that has one")
    in_test = leaked(split.images, test)
    if in_test is None:
        print(
            f"not compared with the test split of {target}, whose images have {test.images.shape[1]} pixels "
            f"a side, not {split.images.shape[1]}: some of it may stand in {stage.key}; no image is dropped"
        )
        dropped, in_test = None, np.zeros(len(split), dtype=bool)
    else:
        dropped = int(in_test.sum())
        print(f"{dropped} of {len(split)} images dropped: they stand in the test split of {target}")
    parts = split_off(split, ~in_test, stage.param(f"prepare.{stage.key}.validation"), seed)
    out = stage.out(f"data/prepared/{stage.key}")
    for name, indices in parts.items():
        write_part(split, indices, out / name)
    mean, std = channel_statistics(split, parts["train"])
    write_json(
        out / "statistics.json",
        {
            "mean": mean,
            "std": std,
            "dropped_images": dropped,  # null: not compared
            **{f"{name}_images": len(indices) for name, indices in parts.items()},
        },
    )
    policies = {name: Policy(**entry) for name, entry in stage.param("augment").items()}
    picture = preview(split, parts["train"], mean, policies, seed)
    with naming(path := stage.out(f"plots/preview/{stage.key}.png")):
        picture.save(path)


if __name__ == "__main__":
    run(main, __file__)
