"""scaling: draw the curve of accuracy by pretraining images, and say what it shows."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

import vl_convert

from vitscale.files import write_bytes, write_metrics
from vitscale.scaling import drawing, page, points, table
from vitscale.stage import Stage, run


def main(stage: Stage) -> None:
    params = {name: stage.param(name) for name in ("models", "pretrain", "rows")}
    published, target = stage.param("published"), stage.param("target")
    found = points(params, stage.dep("data/prepared"), stage.dep("metrics/rows"), stage.dep("metrics/history"))
    text = page(found, published, target)
    write_bytes(stage.out(f"metrics/{stage.key}.md"), text.encode())
    write_bytes(stage.out(f"metrics/{stage.key}.svg"), vl_convert.vegalite_to_svg(drawing(found, published, target)).encode())
    write_metrics(stage.out(f"metrics/{stage.key}.json"), table(found))
    print(text)


if __name__ == "__main__":
    run(main, __file__)
