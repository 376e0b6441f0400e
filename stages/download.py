"""download@<dataset>: fetch a data set, verify its fingerprints, write it in one canonical form."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code of this very checkout

from vitscale.data.sources import SPLITS, Download, open_source, verify, write_split
from vitscale.pipeline.stage import Stage, run


def main(stage: Stage) -> None:
    entry = Download(**stage.param(f"download.{stage.key}"))
    source = open_source(stage.key, entry)
    found = {
        split: write_split(source, split, stage.out(f"data/raw/{stage.key}/{split}")) for split in SPLITS
    }
    verify(stage.key, entry.sha256, found)


if __name__ == "__main__":
    run(main, __file__)
