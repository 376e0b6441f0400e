"""scaling@<name>: draw the curve of accuracy by pretraining images, and say what it shows."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.endings import begin, require_drawing

begin(goes_on=True)
require_drawing()

import vl_convert

from vitscale.base.files import write_bytes, write_metrics
from vitscale.pipeline.stage import Stage, run
from vitscale.results.drawn import with_dark
from vitscale.results.scaling import points
from vitscale.results.scaling_page import page, table
from vitscale.results.scaling_picture import drawing
from vitscale.results.study import Study
from vitscale.results.tables import figures_in


def main(stage: Stage) -> None:
    folders = stage.dep("metrics/rows"), stage.dep("metrics/history")
    study = Study.read(stage.param, figures_in(folders[0].parent))
    batch_sizes = {name: recipe["batch_size"] for name, recipe in stage.param("recipes").items()}
    found = points(study, stage.dep("data/prepared"), batch_sizes)
    published, target = study.published, study.target
    text = page(found, published, target)
    write_bytes(stage.out(f"metrics/{stage.key}.md"), text.encode())
    svg = with_dark(vl_convert.vegalite_to_svg(drawing(found, published, target)))
    write_bytes(stage.out(f"metrics/{stage.key}.svg"), svg.encode())
    write_metrics(stage.out(f"metrics/{stage.key}.json"), table(found))
    print(text)


if __name__ == "__main__":
    run(main, __file__)
