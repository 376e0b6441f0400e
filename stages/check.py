"""check: refuse a params.yaml that isn't whole and consistent, before another stage's outputs are touched."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.endings import begin

begin(goes_on=True)

from vitscale.base.files import write_bytes
from vitscale.pipeline.schema import Params
from vitscale.pipeline.stage import CHECKED, Stage, run


def main(stage: Stage) -> None:
    for section in Params.model_fields:
        stage.param(section)  # a Stage has checked them, as every stage's does
    write_bytes(stage.out(CHECKED), b"params.yaml is checked before anything else runs\n")


if __name__ == "__main__":
    run(main, __file__)
