"""compare: gather the rows that params.yaml names."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # the code of this very checkout

from vitscale.base.endings import begin, require_drawing

begin(goes_on=True)
require_drawing()

import vl_convert

from vitscale.base.files import write_bytes, write_metrics
from vitscale.data.pins import unpinned_in
from vitscale.pipeline.stage import Stage, run
from vitscale.results.drawn import with_dark
from vitscale.results.picture import drawing
from vitscale.results.study import Study
from vitscale.results.summary import accuracy_table, curves, headline, leftovers, summarise
from vitscale.results.tables import figures_in, write_csv

EPOCH = ["epoch", "lr", "train_loss", "validation_loss", "validation_accuracy"]


def main(stage: Stage) -> None:
    folders = stage.dep("metrics/rows"), stage.dep("metrics/history")
    study = Study.read(stage.param, figures_in(folders[0].parent))
    text = summarise(study)
    write_bytes(stage.out("metrics/summary.md"), text.encode())
    bounds = ["row", "accuracy", "ci95_low", "ci95_high", "published"]
    write_csv(stage.out("metrics/accuracy.csv"), bounds, accuracy_table(study))
    write_csv(stage.out("metrics/curves.csv"), ["stage", "entry", *EPOCH], curves(study))
    svg = with_dark(vl_convert.vegalite_to_svg(drawing(study)))
    write_bytes(stage.out("metrics/accuracy.svg"), svg.encode())
    write_metrics(stage.out("metrics/headline.json"), headline(study))
    print(text)
    for line in unpinned_in(stage.param("download"), Path()):
        print(line)
    if stray := leftovers(study, folders[0].parent):
        where = os.path.relpath(".", ROOT)
        prune = f"vitscale prune{'' if where == '.' else f' --pipeline {where}'}"
        print(
            f"params.yaml has no entry for {', '.join(map(str, stray))}; in the repository's root `{prune}` "
            "takes away what dvc.lock records of such leftovers, the rest is yours to delete"
        )
    here = os.getcwd()
    if os.environ.get("DVC_ROOT", here) == here:  # else this is an experiment's own folder, which goes away
        print(
            "next: metrics/summary.md has this table, `dvc plots show` draws it, "
            "`vitscale demo` tries the models on images"
        )


if __name__ == "__main__":
    run(main, __file__)
