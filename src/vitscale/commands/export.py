"""Export a finished row as files that others use without this repository.

DEST, a new folder, gets `model.onnx`; `README.md`, the model card; and, where transformers has the
architecture (a ViT with one class token, ResNet-18 with the ImageNet stem), what
`pipeline("image-classification", model=DEST)` loads: `config.json`, `model.safetensors`,
`preprocessor_config.json`. Each is held against our own class probabilities before DEST appears.
"""

import argparse
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.base.files import discard, lock, naming, take_away, write_bytes
from vitscale.commands import push
from vitscale.commands.card import card
from vitscale.commands.main import add_pipeline
from vitscale.models.finished import TRAINED, load_trained, session
from vitscale.models.hub_names import TRANSFORMERS_VIT, resnet_name, vit_names
from vitscale.models.looks import Looks
from vitscale.models.store import Classifier, count_parameters, trained_models
from vitscale.models.vit import VisionTransformer, VitConfig
from vitscale.pipeline.consistency import check
from vitscale.results.tables import read_metrics
from vitscale.runtime.device import Compute
from vitscale.training.inference import predict

TOLERANCE = 1e-4  # of a class probability, in float32


def to_theirs(ours: dict[str, Tensor], names: dict[str, list[str]], patch_size: int) -> dict[str, Tensor]:
    """Return our ViT's state under transformers' names: what `hub_names.vit_state` takes."""
    kernel = "backbone.patch_embedding.weight"
    ours = ours | {kernel: ours[kernel].unflatten(1, (patch_size, patch_size, 3)).permute(0, 3, 1, 2)}
    return {
        each: part.contiguous()
        for name, parts in names.items()
        for each, part in zip(parts, ours[name].chunk(len(parts)), strict=True)
    }


def transformers_model(model: Classifier) -> Any:
    """Return the same model as one of transformers' classes, or None where it has none."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

    architecture, classes, state = model.config.architecture, model.config.classes, model.state_dict()
    labels: Any = {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
    }
    if isinstance(architecture, VitConfig):
        if architecture.prefix != 1 or architecture.stem_channels:
            return None
        state["backbone.positions"] = cast(
            VisionTransformer, model.backbone
        ).positions.detach()  # sine-cosine ones are in no state
        theirs: Any = ViTForImageClassification(
            ViTConfig(
                hidden_size=architecture.dim, num_hidden_layers=architecture.depth,
                num_attention_heads=architecture.heads, intermediate_size=architecture.mlp_dim,
                image_size=architecture.image_size, patch_size=architecture.patch_size,
                layer_norm_eps=architecture.layer_norm_eps, **labels,
            )
        )  # fmt: skip
        state = to_theirs(state, vit_names(TRANSFORMERS_VIT, architecture.depth), architecture.patch_size)
    else:
        if architecture.stem != "imagenet":
            return None
        sizes: Any = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
        theirs = ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic", **labels))
        state = {resnet_name(name): tensor for name, tensor in state.items()}
    theirs.load_state_dict(state)
    return theirs.eval()


def sample_images(count: int = 8) -> list[np.ndarray]:
    """Return smooth random images (48, 64, 3): of no model's size, so that resizing is compared too."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = 255 * torch.nn.functional.interpolate(coarse, (48, 64), mode="bilinear")
    return list(images.permute(0, 2, 3, 1).to(torch.uint8).numpy())


def write_transformers(model: Classifier, folder: Path) -> bool:
    """Write what transformers loads, if it has the architecture.

    Raises UserError where its answers aren't ours.
    """
    from transformers import ViTImageProcessor, pipeline

    theirs = transformers_model(model)
    if theirs is None:
        return False
    wanted, classes, images = model.config.preprocessing, model.config.classes, sample_images()
    try:
        theirs.save_pretrained(folder)
    except SafetensorError as error:  # of a full disk; in Rust's words, with no number
        raise UserError(f"{folder / 'model.safetensors'} can't be written ({error}); make room") from error
    ViTImageProcessor(
        size={"height": wanted.image_size, "width": wanted.image_size},
        resample=Image.Resampling[wanted.interpolation.upper()],
        image_mean=wanted.mean,
        image_std=wanted.std,
    ).save_pretrained(folder)
    classify = pipeline("image-classification", model=str(folder), device="cpu")
    answers = classify([Image.fromarray(image) for image in images], top_k=len(classes))
    scores = [{each["label"]: each["score"] for each in answer} for answer in answers]
    _compare("transformers", torch.tensor([[score[name] for name in classes] for score in scores]), model)
    return True


def write_onnx(model: Classifier, path: Path) -> None:
    """Write `pixel_values` (b, 3, s, s) to `logits` (b, classes) and `looks`, as `models.looks` has them.

    Nothing in it says where or by whom it was made. Raises UserError where onnxruntime's answers aren't ours.
    """
    from onnxscript.ir.passes.common import ClearMetadataAndDocStringPass

    wanted, looking = model.config.preprocessing, Looks(model).eval()
    inputs = wanted.to_input(wanted.stacked(sample_images()))
    names: Any = {"input_names": ["pixel_values"], "output_names": ["logits", "looks"]}
    any_batch = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            looking, (inputs,), **names, dynamic_shapes=any_batch, dynamo=True, verbose=False
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # torch writes a stack trace, with this checkout's path
    with naming(path):
        program.save(path)
    written = session(path)
    parts = [written.run(None, {"pixel_values": part.numpy()}) for part in inputs.split([1, len(inputs) - 1])]
    logits, looks = (torch.from_numpy(np.concatenate(each)) for each in zip(*parts, strict=True))
    _compare("onnxruntime", logits.softmax(1), model)
    with torch.no_grad():
        ours = looking(inputs)[1]
    if not torch.allclose(looks, ours, rtol=TOLERANCE, atol=TOLERANCE):
        raise UserError("onnxruntime looks elsewhere than our model; nothing is exported")


def _compare(name: str, found: Tensor, model: Classifier) -> None:
    """Raise UserError unless others' class probabilities of the sample images are those of our model."""
    wanted = predict(model, sample_images(), Compute(torch.device("cpu"))).softmax(1)
    difference = (found - wanted).abs().max().item()
    if not difference <= TOLERANCE:
        raise UserError(
            f"{name} gives class probabilities that differ from ours by {difference:.1e}; nothing is exported"
        )


def finished_row(row: str, pipeline: Path) -> tuple[Classifier, dict, dict]:
    """Return a finished row's model, params.yaml, and the figures of its scores and of its training.

    Raises UserError where it isn't finished, or the figures are not of the model.
    """
    params, name = read_yaml(pipeline / "params.yaml"), row.split("/")[0]
    check(params)
    if name not in params["rows"]:
        raise UserError(f"there is no row {name}; {pipeline / 'params.yaml'} has {', '.join(params['rows'])}")
    path = pipeline / f"metrics/rows/{name}.json"
    if not path.exists():
        raise UserError(f"{path} is not there: the row isn't finished; run `dvc repro` in {pipeline}")
    model, folder = load_trained(row, pipeline).eval(), pipeline / TRAINED / row
    scores, training = read_metrics(path) or {}, read_metrics(folder / "training.json") or {}
    history = read_metrics(pipeline / f"metrics/history/finetune/{name}.json") or {}
    if "/" in row:  # one of several seeds
        number = trained_models(folder.parent).index(folder)
        scores, history = scores | scores["trainings"][number], history["trainings"][number]
    same_training = training and {name: history.get(name) for name in training} == training
    if not same_training or scores["parameters"] != count_parameters(model):
        raise UserError(
            f"{path} and its history are not of the model in {folder}; run `dvc repro` in {pipeline}"
        )
    return model, params, scores | training


def export(row: str, destination: Path, pipeline: Path) -> bool:
    """Write a row's files; return whether transformers can load them.

    Raises UserError and leaves nothing where it can't.
    """
    if destination.exists():
        raise UserError(f"{destination} is there already; give a new folder")
    if not destination.absolute().parent.is_dir():
        raise UserError(f"{destination.parent} is not there; make it first")
    model, params, figures = finished_row(row, pipeline)
    with built_beside(destination) as part:
        in_transformers = write_transformers(model, part)
        write_onnx(model, part / "model.onnx")
        text = card(row.split("/")[0], params, figures, model.config, in_transformers)
        write_bytes(part / "README.md", text.encode())
    return in_transformers


@contextmanager
def built_beside(destination: Path) -> Iterator[Path]:
    """Give a new folder, and move it to where the export is to stand once it is whole.

    What an export to there has left that was killed goes first. Raises UserError where one is under way.
    """
    hidden = destination.absolute().with_name(f".{destination.name}.vitscale-export")
    held, part = lock(hidden / "lock", "export to another one"), hidden / "export"
    if held is None:
        raise UserError(f"another process exports to {destination}; wait for it to end")
    try:
        take_away(part)
        part.mkdir()
        yield part
        part.rename(destination)
    finally:
        take_away(part)
        discard(hidden / "lock")
        held.release()
        with suppress(OSError):  # there is something of somebody else's in it, or the next export
            hidden.rmdir()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("row", metavar="ROW")
    parser.add_argument("destination", type=Path, metavar="DEST")
    push.add_arguments(parser)
    add_pipeline(parser)


def main(arguments: argparse.Namespace) -> None:
    """Run the command. Raises UserError where the row isn't finished, answers aren't ours or a push fails."""
    push.prepare(arguments.push, arguments.private)
    from transformers.utils import logging as transformers_logging

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    in_transformers = export(arguments.row, arguments.destination, arguments.pipeline)
    print(
        f"{arguments.destination}: ONNX and model card"
        + (
            ", and a folder that transformers loads"
            if in_transformers
            else "; transformers has no such architecture (it has ViTs with one class token and ResNet-18 "
            "with the ImageNet stem)"
        )
    )
    if arguments.push:
        url = push.push(arguments.destination, arguments.push, arguments.private, arguments.row)
        print(f"{url}: pushed")
