"""A finished row as files that others use without this repository:

    python -m vitscale.export ROW DEST [--pipeline examples/digits]

DEST, a new folder, gets `model.onnx`; `README.md`, the model card; and, where transformers has the architecture (a ViT with a
class token, ResNet-18 with the ImageNet stem), what `pipeline("image-classification", model=DEST)` loads: `config.json`,
`model.safetensors`, `preprocessor_config.json`. Each is held against our own class probabilities before DEST appears.
"""

import argparse
import json
import logging
import re
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitscale.files import UserError, read_yaml, write_bytes
from vitscale.inference import fitted
from vitscale.models import Classifier, count_parameters, to_input
from vitscale.params import check
from vitscale.predict import load_row, probabilities
from vitscale.weights import TRANSFORMERS_VIT, vit_names

TOLERANCE = 1e-4  # of a class probability, in float32

DATA_LICENCES = {
    "cifar10": "CIFAR-10 (Krizhevsky 2009): its authors name no licence; cite the report",
    "cifar100": "CIFAR-100 (Krizhevsky 2009): its authors name no licence; cite the report",
    "digits": "Optical Recognition of Handwritten Digits (UCI, scikit-learn's copy): CC BY 4.0",
    "imagefolder": "a folder of images: its owner's terms",
}


def to_theirs(ours: dict[str, Tensor], names: dict[str, list[str]], patch_size: int) -> dict[str, Tensor]:
    """Return our ViT's state under transformers' names: what `weights.to_ours` takes."""
    kernel = "backbone.patch_embedding.weight"
    ours = ours | {kernel: ours[kernel].unflatten(1, (patch_size, patch_size, 3)).permute(0, 3, 1, 2)}
    return {each: part.contiguous() for name, parts in names.items() for each, part in zip(parts, ours[name].chunk(len(parts)))}


def resnet_name(name: str) -> str:
    """Return transformers' name for a tensor of our ResNet-18."""
    name = name.replace("head.", "classifier.1.")
    name = re.sub(r"backbone\.conv1\.", "resnet.embedder.embedder.convolution.", name)
    name = re.sub(r"backbone\.bn1\.", "resnet.embedder.embedder.normalization.", name)
    name = re.sub(r"backbone\.layer(\d)\.(\d)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.", name)
    name = re.sub(r"\.(conv|bn)(\d)\.", lambda m: f".layer.{int(m[2]) - 1}.{'convolution' if m[1] == 'conv' else 'normalization'}.", name)
    return name.replace("downsample.0", "shortcut.convolution").replace("downsample.1", "shortcut.normalization")


def transformers_model(model: Classifier, config: dict):
    """Return the same model as one of transformers' classes, or None where it has none."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

    labels = {"id2label": dict(enumerate(config["classes"])), "label2id": {name: i for i, name in enumerate(config["classes"])}}
    state = model.state_dict()
    if config["architecture"] == "vit" and config["pool"] == "class":
        state["backbone.positions"] = model.backbone.positions.detach()  # sine-cosine ones are in no state
        theirs = ViTForImageClassification(ViTConfig(
            hidden_size=config["dim"], num_hidden_layers=config["depth"], num_attention_heads=config["heads"],
            intermediate_size=config["mlp_dim"], image_size=config["image_size"], patch_size=config["patch_size"],
            layer_norm_eps=1e-6, **labels))
        state = to_theirs(state, vit_names(TRANSFORMERS_VIT, config["depth"]), config["patch_size"])
    elif config["architecture"] == "resnet18" and config["stem"] == "imagenet":
        theirs = ResNetForImageClassification(ResNetConfig(
            embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", **labels))
        state = {resnet_name(name): tensor for name, tensor in state.items()}
    else:
        return None
    theirs.load_state_dict(state)
    return theirs.eval()


def sample_images(count: int = 8) -> list[np.ndarray]:
    """Return smooth random images (48, 64, 3): of no model's size, so that resizing is compared too."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = 255 * torch.nn.functional.interpolate(coarse, (48, 64), mode="bilinear")
    return list(images.permute(0, 2, 3, 1).to(torch.uint8).numpy())


def write_transformers(model: Classifier, config: dict, folder: Path) -> bool:
    """Write what transformers loads, if it has the architecture. Raises UserError where its answers aren't ours."""
    from transformers import ViTImageProcessor, pipeline

    theirs = transformers_model(model, config)
    if theirs is None:
        return False
    size = config["image_size"]
    theirs.save_pretrained(folder)
    ViTImageProcessor(size={"height": size, "width": size}, resample=Image.Resampling[config["interpolation"].upper()],
                      image_mean=config["mean"], image_std=config["std"]).save_pretrained(folder)
    classify = pipeline("image-classification", model=str(folder), device="cpu")
    images = sample_images()
    answers = classify([Image.fromarray(image) for image in images], top_k=len(config["classes"]))
    scores = [{each["label"]: each["score"] for each in answer} for answer in answers]
    _compare("transformers", torch.tensor([[score[name] for name in config["classes"]] for score in scores]),
             probabilities(model, config, images, torch.device("cpu")))
    return True


def write_onnx(model: Classifier, config: dict, path: Path) -> None:
    """Write `pixel_values` (b, 3, s, s) to `logits` (b, classes). Raises UserError where onnxruntime's answers aren't ours."""
    import onnxruntime

    size, images = config["image_size"], sample_images()
    inputs = to_input(torch.cat([fitted(torch.from_numpy(image)[None], config) for image in images]), config, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (inputs,), path, input_names=["pixel_values"], output_names=["logits"], external_data=False,
                          dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = torch.cat([torch.from_numpy(session.run(None, {"pixel_values": part.numpy()})[0]) for part in inputs.split([1, len(inputs) - 1])])
    _compare("onnxruntime", logits.softmax(1), probabilities(model, config, images, torch.device("cpu")))


def _compare(name: str, found: Tensor, wanted: Tensor) -> None:
    difference = (found - wanted).abs().max().item()
    if not difference <= TOLERANCE:
        raise UserError(f"{name} gives class probabilities that differ from ours by {difference:.1e}; nothing is exported")


def card(row: str, params: dict, scores: dict, config: dict, in_transformers: bool) -> str:
    """Return the model card: data, protocol, accuracy with its interval, use, limits, licences."""
    entry, target = params["rows"][row], params["target"]
    pretrained, weights = params["pretrain"].get(entry["start"]), params["weights"].get(entry["start"])
    licences = {DATA_LICENCES[params["download"][name]["source"]] for name in [target, *([pretrained["data"]] if pretrained else [])]}
    if weights:
        origin = f"weights pretrained on {weights['data']}: {weights['name']} ({weights['source']})"
        licences.add(f"{weights['name']}: {weights['license']}; what its own training data allow holds too")
    elif pretrained:
        origin = f"pretraining on {pretrained['data']} ({pretrained['fraction']:.0%} of its training images, {pretrained['epochs']} epochs)"
    else:
        origin = "random weights, no pretraining"
    tuned = "the head alone was trained, on a frozen backbone" if entry["protocol"] == "linear_probe" else "all weights were fine-tuned"
    mean, std = ([round(value, 4) for value in config[name]] for name in ("mean", "std"))
    size = config["image_size"]
    use = [f"`model.onnx` takes `pixel_values`, float32 (batch, 3, {size}, {size}): RGB images resized to {size}x{size} "
           f"(whatever their shape; {config['interpolation']}, antialiased), divided by 255, less {mean}, over {std}. It gives `logits` (batch, {len(config['classes'])})."]
    if in_transformers:
        use += ["", "    from transformers import pipeline", "    pipeline(\"image-classification\", model=\"this folder\")(\"image.png\")"]
    return "\n".join([
        "---", "pipeline_tag: image-classification", "license: other",
        *(["library_name: transformers"] if in_transformers else []), "datasets:", f"- {target}", "metrics:", "- accuracy", "---", "",
        f"# {row}", "",
        f"{'A Vision Transformer' if config['architecture'] == 'vit' else 'ResNet-18'} with {scores['parameters'] / 1e6:.2f}M parameters "
        f"that tells {len(config['classes'])} classes of {target} apart: {', '.join(config['classes'])}.", "",
        "## Data and protocol", "",
        f"Start: {origin}. Then {tuned}, on {scores['train_images']} training images of {target}, for {entry['epochs']} epochs; the "
        f"best one (epoch {scores['best_epoch']}, {scores['validation_accuracy']:.2%}) was chosen on validation images split off from the "
        "training set. The test images were scored once.", "",
        "## Accuracy", "",
        f"{scores['accuracy']:.2%} of {target}'s test images (95% interval {scores['ci95_low']:.2%} to {scores['ci95_high']:.2%}), "
        f"expected calibration error {scores['ece']:.3f}.", "",
        "## Use", "", *use, "",
        "## Limits", "",
        f"It knows these {len(config['classes'])} classes only and gives any image to one of them. It was tested on images as {target} "
        "stores them and on no others, such as large photographs; neither was how it fares with groups of people, so it is not for decisions about them.", "",
        "## Licences of data and weights", "", *(f"- {licence}" for licence in sorted(licences))]) + "\n"


def export(row: str, destination: Path, pipeline: Path) -> bool:
    """Write a row's files; return whether transformers can load them. Raises UserError and leaves nothing where it can't."""
    params = read_yaml(pipeline / "params.yaml")
    check(params)
    if row not in params["rows"]:
        raise UserError(f"there is no row {row}; {pipeline / 'params.yaml'} has {', '.join(params['rows'])}")
    if destination.exists():
        raise UserError(f"{destination} is there already; give a new folder")
    if not destination.absolute().parent.is_dir():
        raise UserError(f"{destination.parent} is not there; make it first")
    path = pipeline / f"metrics/rows/{row}.json"
    if not path.exists():
        raise UserError(f"{path} is not there: the row isn't finished; run `dvc repro` in {pipeline}")
    model, config = load_row(row, pipeline)
    scores = json.loads(path.read_text())
    training = json.loads((pipeline / "models/finetuned" / row / "training.json").read_text())
    if {name: scores.get(name) for name in training} != training or scores["parameters"] != count_parameters(model):
        raise UserError(f"{path} is not of the model in {pipeline / 'models/finetuned' / row}; run `dvc repro` in {pipeline}")
    with tempfile.TemporaryDirectory(dir=destination.absolute().parent, prefix=f".{destination.name}.") as name:
        part = Path(name) / "export"
        part.mkdir()
        in_transformers = write_transformers(model.eval(), config, part)
        write_onnx(model, config, part / "model.onnx")
        write_bytes(part / "README.md", card(row, params, scores, config, in_transformers).encode())
        part.rename(destination)
    return in_transformers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vitscale.export", description="Export a finished row for transformers and ONNX.")
    parser.add_argument("row")
    parser.add_argument("destination", type=Path, metavar="DEST")
    parser.add_argument("--pipeline", type=Path, default=Path("."), help="the folder with the row's models/ (default: this one)")
    arguments = parser.parse_args()
    from transformers.utils import logging as transformers_logging

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        in_transformers = export(arguments.row, arguments.destination, arguments.pipeline)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.destination}: ONNX and model card" + (", and a folder that transformers loads" if in_transformers else
          "; transformers has no such architecture (it has ViTs with a class token and ResNet-18 with the ImageNet stem)"))


if __name__ == "__main__":
    main()
