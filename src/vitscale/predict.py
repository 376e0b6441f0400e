"""What a finished row sees in images:

    python -m vitscale.predict ROW IMAGE… [--json] [--pipeline examples/digits]

IMAGE is a file of any size, or a folder, of which every image is taken. Prints class, probability and the five most probable
classes of each. An image that can't be read is named, the rest go on, and the exit code is 1. Images are resized to the model's
square, whatever their shape, and go through the model in float32.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vitscale import compute
from vitscale.files import UserError
from vitscale.inference import fitted
from vitscale.models import Classifier, load_model, to_input

BATCH_SIZE = 32
ENDINGS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")  # taken from folders


def read_image(path: Path) -> np.ndarray:
    """Return an image file as uint8 (h, w, 3). Raises UserError where it can't be read."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # Pillow would cut it off at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"mode {image.mode}: numbers of unknown range")
            return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise whatever their library raises
        raise UserError(f"{path} can't be read as an image ({' '.join(str(error).split())})") from error


def image_files(path: Path) -> list[Path]:
    """Return a file, or the images in a folder and those below. Raises UserError for a folder without."""
    if not path.is_dir():
        return [path]
    inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
    if not inside:
        raise UserError(f"{path} holds no image ({' '.join(ENDINGS)})")
    return inside


def probabilities(model: Classifier, config: dict, images: list[np.ndarray], device: torch.device) -> Tensor:
    """Return the class probabilities (n, classes) of uint8 images (h, w, 3) of any sizes."""
    return classify(model, config, torch.cat([fitted(torch.from_numpy(image)[None], config) for image in images]), device)


@torch.no_grad()
def classify(model: Classifier, config: dict, images: Tensor, device: torch.device) -> Tensor:
    """Return the class probabilities (n, classes), on the CPU, of `fitted` images (n, s, s, 3)."""
    return model.to(device).eval()(to_input(images.to(device), config, config["image_size"])).softmax(1).cpu()


def load_row(row: str, pipeline: Path) -> tuple[Classifier, dict]:
    """Return a finished row's model and config. Raises UserError where there is none."""
    folder = pipeline / "models/finetuned"
    if not (folder / row).is_dir():
        there = ", ".join(sorted(path.name for path in folder.glob("*") if path.is_dir())) or "no model"
        raise UserError(f"{folder / row} is not there; {folder} has {there}; `dvc repro` makes it, `dvc pull` brings it")
    return load_model(folder / row)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vitscale.predict", description="Classify images with a finished row.")
    parser.add_argument("row")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--json", action="store_true", help="a list of objects in place of the table")
    parser.add_argument("--pipeline", type=Path, default=Path("."), help="the folder with the row's models/ (default: this one)")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    failed, files, answers = False, [], []

    def fail(error: UserError) -> None:
        nonlocal failed
        failed = True
        print(f"error: {error}", file=sys.stderr, flush=True)

    try:
        device = compute.setup()
        model, config = load_row(arguments.row, arguments.pipeline)
    except UserError as error:
        sys.exit(f"error: {error}")
    for path in arguments.images:
        try:
            files += image_files(path)
        except UserError as error:
            fail(error)
    width = max([len(str(path)) for path in files] + [5])
    if files and not arguments.json:
        print(f"{'image':{width}}  {'class':20}  probability  top 5")
    for start in range(0, len(files), BATCH_SIZE):
        readable, images = [], []
        for path in files[start:start + BATCH_SIZE]:
            try:
                images.append(fitted(torch.from_numpy(read_image(path))[None], config))  # small at once: photographs are large
                readable.append(path)
            except UserError as error:
                fail(error)
        if not images:
            continue
        best = classify(model, config, torch.cat(images), device).topk(min(5, len(config["classes"])))
        for path, values, indices in zip(readable, best.values.tolist(), best.indices.tolist()):
            top = [{"class": config["classes"][i], "probability": value} for i, value in zip(indices, values)]
            answers.append({"image": str(path), **top[0], "top5": top})
            if not arguments.json:
                text = ", ".join(f"{each['class']} {each['probability']:.1%}" for each in top)
                print(f"{str(path):{width}}  {top[0]['class']:20}  {top[0]['probability']:11.1%}  {text}", flush=True)
    if arguments.json:
        print(json.dumps(answers, indent=2))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
