"""What a finished row sees in images:

    python -m vitscale.predict ROW IMAGE… [--json] [--pipeline examples/digits]

IMAGE is a file of any size and mode, or a folder, of which every image is taken. Prints class, probability and the five most
probable classes of each. An image that can't be read is named, the rest go on, and the exit code is 1. In float32.
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


def read_image(path: Path) -> np.ndarray:
    """Return an image file as uint8 (h, w, 3). Raises UserError where it can't be read."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits a channel, which Pillow would cut off at 255
                image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
            return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise whatever their library raises
        raise UserError(f"{path} can't be read as an image ({' '.join(str(error).split())})") from error


def image_files(paths: list[Path]) -> list[Path]:
    """Return the files, with a folder's images (by their names' endings) in its place. Raises UserError for an empty folder."""
    endings, files = Image.registered_extensions(), []
    for path in paths:
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in endings) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path} holds no image")
        files += inside
    return files


@torch.no_grad()
def probabilities(model: Classifier, config: dict, images: list[np.ndarray], device: torch.device) -> Tensor:
    """Return the class probabilities (n, classes) of uint8 images (h, w, 3) of any sizes."""
    inputs = torch.cat([fitted(torch.from_numpy(image)[None].to(device), config) for image in images])
    return model.to(device).eval()(to_input(inputs, config, config["image_size"])).softmax(1).cpu()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vitscale.predict", description="Classify images with a finished row.")
    parser.add_argument("row")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--json", action="store_true", help="a list of objects in place of the table")
    parser.add_argument("--pipeline", type=Path, default=Path("."), help="the folder with the row's models/ (default: this one)")
    arguments = parser.parse_args()
    answers, failed = [], False
    try:
        device = compute.setup()
        model, config = load_model(arguments.pipeline / "models/finetuned" / arguments.row)
        files = image_files(arguments.images)
        for start in range(0, len(files), BATCH_SIZE):
            readable, images = [], []
            for path in files[start:start + BATCH_SIZE]:
                try:
                    images.append(read_image(path))
                    readable.append(path)
                except UserError as error:
                    print(f"error: {error}", file=sys.stderr, flush=True)
                    failed = True
            if images:
                best = probabilities(model, config, images, device).topk(min(5, len(config["classes"])))
                for path, values, indices in zip(readable, best.values.tolist(), best.indices.tolist()):
                    top = [{"class": config["classes"][i], "probability": value} for i, value in zip(indices, values)]
                    answers.append({"image": str(path), **top[0], "top5": top})
    except UserError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
    else:
        width = max([len(answer["image"]) for answer in answers] + [5])
        print(f"{'image':{width}}  {'class':20}  probability  top 5")
        for answer in answers:
            top = ", ".join(f"{each['class']} {each['probability']:.1%}" for each in answer["top5"])
            print(f"{answer['image']:{width}}  {answer['class']:20}  {answer['probability']:11.1%}  {top}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
