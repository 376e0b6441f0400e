"""download@<dataset>: fetch a data set, verify its fingerprints, write it in one canonical form."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.base.endings import begin

begin(goes_on=True)

from vitscale.data.pins import kept_import, unpinned, verify
from vitscale.data.sources import SPLITS, Download, bring
from vitscale.pipeline.stage import Stage, run


def main(stage: Stage) -> None:
    entry = Download(**stage.param(f"download.{stage.key}"))
    out = [stage.out(f"data/raw/{stage.key}/{split}") for split in SPLITS][0].parent
    found = bring(stage.key, entry, out, kept_import(stage.key))
    verify(stage.key, entry.sha256, found)
    for line in unpinned(stage.key, entry.sha256, found):
        print(line)


if __name__ == "__main__":
    run(main, __file__)
