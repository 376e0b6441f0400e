"""compare: gather the rows that params.yaml names."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # the code of this very checkout

from vitscale.files import write_bytes, write_csv
from vitscale.stage import Stage, run
from vitscale.summary import accuracy_table, curves, leftovers, summarise


def main(stage: Stage) -> None:
    rows, pretrain, published = stage.param("rows"), stage.param("pretrain"), stage.param("published")
    scores = stage.dep("metrics/rows")
    text = summarise(rows, pretrain, stage.param("weights"), published, stage.param("target"), scores)
    write_bytes(stage.out("metrics/summary.md"), text.encode())
    write_csv(stage.out("metrics/accuracy.csv"), ["row", "accuracy", "ci95_low", "ci95_high", "published"],
              accuracy_table(rows, published, scores))
    write_csv(stage.out("metrics/curves.csv"),
              ["stage", "entry", "epoch", "lr", "train_loss", "validation_loss", "validation_accuracy"],
              curves(rows, pretrain, stage.dep("metrics/history")))
    print(text)
    if stray := leftovers(rows, pretrain, scores, stage.dep("metrics/history")):
        where = os.path.relpath(".", ROOT)
        print(f"params.yaml has no entry for {', '.join(map(str, stray))}; in the repository's root "
              f"`python -m vitscale.prune{'' if where == '.' else f' --pipeline {where}'}` takes such leftovers away")


if __name__ == "__main__":
    run(main, __file__)
