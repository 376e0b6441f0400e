"""Make the models anew that come with the clone: what `dvc --cd models/released pull` brings.

    python -m tools.release vit-cifar100 resnet18-cifar100 [--pipeline .]

Each row, which must be finished, becomes an ONNX file whose weights are float16 and are computed with as
float32, with its model card; beside them stand the first 1,000 test images. A row whose test accuracy
float16 moves by more than 0.05 points is refused, or one that is further than 0.2 from its metrics, which may
have been scored in bfloat16; so are more than 30 MB in all.
Rows that are not named are no longer released. The remote is a folder in git: commit what `git status` shows.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from vitscale.base.endings import begin, in_words

if __name__ == "__main__":
    begin()

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.base.files import take_away, write_bytes, write_json
from vitscale.commands.card import card
from vitscale.commands.export import finished_row, write_onnx
from vitscale.commands.main import add_pipeline
from vitscale.data.arrays import Split, SplitWriter, load_split
from vitscale.data.sources import Download
from vitscale.models.finished import PULLED, Finished, load_released
from vitscale.results.tables import by_class

IMAGES = "test-images"
COUNT = 1000
MOST_BYTES = 30_000_000
MOVED = 0.0005  # of the test accuracy, by float16
NEAR = (
    0.002  # to the metrics' test accuracy: bfloat16, by which a CPU may have scored, moved a row's by 0.0005
)
BATCH = 250


def halve(path: Path) -> None:
    """Store an ONNX file's matrices and kernels as float16; what computes with them gets float32."""
    model = onnx.load(path)
    casts = []
    for weights in model.graph.initializer:
        if weights.data_type == TensorProto.FLOAT and len(weights.dims) > 1:
            name, half = weights.name, numpy_helper.to_array(weights).astype(np.float16)
            weights.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [weights.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    write_bytes(path, model.SerializeToString())


def answers(finished: Finished, split: Split) -> np.ndarray:
    """Return the class (n,) that a row gives each of a split's images."""
    images = list(split.images)
    parts = [finished(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate([part.probabilities.argmax(1) for part in parts])


def write_row(row: str, folder: Path, pipeline: Path, split: Split) -> str:
    """Write a row's files into a new folder; return a line for people.

    Raises UserError where the row isn't finished, or where its test accuracy is not what its metrics have.
    """
    if "/" in row:
        raise UserError(f"{row} is one of several trainings; release a row that has one")
    model, params, figures = finished_row(row, pipeline)
    config, wanted = model.config, model.config.preprocessing
    folder.mkdir()
    write_onnx(model, folder / "model.onnx")
    write_bytes(folder / "README.md", card(row, params, figures, config, False).encode())
    stored = Download(**params["download"][params["target"]]).image_size
    names = {"classes": config.classes, "image_size": wanted.image_size, "stored_size": stored}
    statistics = {"interpolation": wanted.interpolation, "mean": wanted.mean, "std": wanted.std}
    write_json(folder / "config.json", names | statistics)
    whole = answers(load_released(row, folder), split)
    halve(folder / "model.onnx")
    half = answers(load_released(row, folder), split)
    found: dict = by_class(split.labels, half, split.classes)
    if figures["test_labels_sha256"] != found["test_labels_sha256"] or config.classes != split.classes:
        raise UserError(f"{row} was scored on other test images than {pipeline} has; run `dvc repro` there")
    accuracies = [figures["accuracy"], *((each == split.labels).mean() for each in (whole, half))]
    scored, float32, float16 = (f"{each:.2%}" for each in accuracies)
    if not (abs(accuracies[2] - accuracies[1]) <= MOVED and abs(accuracies[1] - accuracies[0]) <= NEAR):
        raise UserError(
            f"{row} gets {float32} of the test images with weights in float32, {float16} in float16, at most "
            f"{MOVED:.2%} apart; its metrics have {scored}, at most {NEAR:.1%} from the first, else nothing "
            "is released"
        )
    before, now = (np.concatenate([*each["predicted"].values()]) for each in (figures, found))
    return (
        f"{row}: of {len(split)} test images {scored} in its metrics, {float32} in float32, {float16} with "
        f"weights in float16; {np.not_equal(before, now).sum()} answers are not those of its metrics, "
        f"{(whole != half).sum()} not those of float32"
    )


def dvc(folder: Path, *arguments: str) -> None:
    """Run DVC in the release's own project."""
    subprocess.run(["dvc", "--cd", str(folder), *arguments], check=True)


def write_images(folder: Path, split: Split) -> None:
    """Write the first of a split's images into a new folder, as a split."""
    images = split.images[:COUNT]
    writer = SplitWriter(folder, len(images), images.shape[1], split.classes)
    writer.add(images, split.labels[:COUNT])
    writer.close()


def release(rows: list[str], pipeline: Path) -> None:
    """Put the rows and test images into the release, and the release into its remote.

    Raises UserError and changes nothing where a row can't be released, or all are too large.
    """
    place, params = pipeline / PULLED, read_yaml(pipeline / "params.yaml")
    if not (place / ".dvc").is_dir():
        raise UserError(f"{place} is no DVC project, as that of the repository's root is")
    split = load_split(pipeline / f"data/raw/{params['target']}/test")
    scratch = place / ".dvc/tmp"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        new = Path(name)
        for row in rows:
            print(write_row(row, new / row, pipeline, split), flush=True)
        write_images(new / IMAGES, split)
        total = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
        if total > MOST_BYTES:
            raise UserError(
                f"{', '.join(rows)} have {total} bytes in all, more than {MOST_BYTES}; name fewer"
            )
        for file in place.glob("[!.]*.dvc"):
            dvc(place, "remove", "-q", file.name)
            take_away(file.with_suffix(""))
        for folder in new.iterdir():
            folder.rename(place / folder.name)
    dvc(place, "add", "-q", *rows, IMAGES)
    dvc(place, "push", "-q")
    dvc(place, "gc", "-q", "-w", "-c", "-f")  # out of cache and remote what was released before
    print(f"{place}: {total / 1e6:.1f} MB in all; now commit it: `git add {place}`")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="+", metavar="ROW")
    add_pipeline(parser)
    arguments = parser.parse_args()
    release(list(dict.fromkeys(arguments.rows)), arguments.pipeline)


if __name__ == "__main__":
    with in_words():
        main()
