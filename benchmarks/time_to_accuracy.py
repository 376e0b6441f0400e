"""Seconds from prepared data to a validation accuracy, pretraining included.

    python -m benchmarks.time_to_accuracy [--row vit-cifar100] [--accuracy 0.65] [--params
    benchmarks/time_to_accuracy.yaml] [--json]

It runs the pipeline's own stage scripts (`init`, `pretrain`, `finetune`; their start-up counts) in a
temporary folder, with parameters of its own, on the data that `dvc repro prepare@…` left in data/prepared,
and stops the clock at the end of the first epoch of fine-tuning that reaches the accuracy on validation
images. Exit code 1: no epoch did.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from vitscale.base.endings import begin, in_words

if __name__ == "__main__":
    begin()

from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.pipeline.consistency import check

ROOT = Path(__file__).resolve().parents[1]


def lay_out(folder: Path, params_file: Path, prepared: Path) -> dict:
    """Make a pipeline folder with the given params.yaml on data that are prepared already.

    Return the parameters.
    """
    params = read_yaml(params_file)
    check(params)
    for name in sorted({params["target"], *(entry["data"] for entry in params["pretrain"].values())}):
        if not (prepared / name).is_dir():
            raise UserError(f"{prepared / name} is not there; `dvc repro prepare@{name}` makes it")
    (folder / "params.yaml").write_bytes(params_file.read_bytes())
    (folder / "root.yaml").write_text(json.dumps({"root": str(ROOT), "vit": "none", "resnet18": "none"}))
    (folder / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    (folder / "data").mkdir()
    (folder / "data/prepared").symlink_to(prepared.resolve())
    return params


def run_stage(folder: Path, stage: str, key: str):
    """Run a stage script; yield each validation accuracy as its epoch ends.

    Raises UserError where it fails.
    """
    environment = os.environ | {"VITSCALE_CHECKPOINTS": str(folder / "checkpoints")}
    with subprocess.Popen(
        [sys.executable, ROOT / f"stages/{stage}.py", key],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
    ) as process:
        for line in process.stdout:
            print(f"{stage}@{key}: {line}", end="", file=sys.stderr, flush=True)
            if found := re.search(r"validation accuracy ([\d.]+)%", line):
                yield float(found[1]) / 100
    if process.returncode:
        raise UserError(f"{stage}@{key} failed with exit code {process.returncode}")


def measure(row: str, accuracy: float, params_file: Path, prepared: Path = ROOT / "data/prepared") -> dict:
    """Return the seconds to the accuracy (None: not reached), each stage's, and the best accuracy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = lay_out(folder, params_file, prepared)
        if row not in params["rows"]:
            raise UserError(f"{params_file} has no row {row}; it has {', '.join(params['rows'])}")
        start = params["rows"][row]["start"]
        pretraining = params["pretrain"].get(start)
        model = pretraining["model"] if pretraining else start.removesuffix("-scratch")
        stages = [("init", model), *([("pretrain", start)] if pretraining else []), ("finetune", row)]
        begin, reached, best, seconds = time.perf_counter(), None, 0.0, {}
        for stage, key in stages:
            before = time.perf_counter()
            for found in run_stage(folder, stage, key):
                if stage == "finetune":
                    best = max(best, found)
                    if reached is None and found >= accuracy:
                        reached = time.perf_counter() - begin
            seconds[f"{stage}@{key}"] = time.perf_counter() - before
    return {
        "row": row,
        "accuracy": accuracy,
        "seconds": reached,
        "best_validation_accuracy": best,
        "stages": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", default="vit-cifar100")
    parser.add_argument(
        "--accuracy", type=float, default=0.65, help="on validation images, 0 to 1 (default: 0.65)"
    )
    parser.add_argument("--params", type=Path, default=ROOT / "benchmarks/time_to_accuracy.yaml")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = measure(args.row, args.accuracy, args.params)
    if args.json:
        print(json.dumps(result, indent=2))
    elif result["seconds"] is None:
        print(
            f"{args.row}: {args.accuracy:.0%} was not reached; the best epoch came to "
            f"{result['best_validation_accuracy']:.2%}"
        )
    else:
        print(
            f"{args.row}: {args.accuracy:.0%} after {result['seconds']:.0f} s; the best epoch came to "
            f"{result['best_validation_accuracy']:.2%}"
        )
    sys.exit(result["seconds"] is None)


if __name__ == "__main__":
    with in_words():
        main()
