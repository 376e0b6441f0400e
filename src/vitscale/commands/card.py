"""The model card of an exported row: data, protocol, accuracy with its interval, use, limits, licences."""

from vitscale.base.entries import Pretraining, Row, Weights
from vitscale.commands.markdown import plain
from vitscale.data.sources import Download
from vitscale.models.store import ModelConfig
from vitscale.models.vit import VitConfig

# The hub's names of data sets that it has.
HUB_DATA = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
DATA_LICENCES = {
    "cifar10": "CIFAR-10 (Krizhevsky 2009): its authors name no licence; cite the report",
    "cifar100": "CIFAR-100 (Krizhevsky 2009): its authors name no licence; cite the report",
    "tinyimagenet": "Tiny ImageNet (Stanford CS231n): names no licence; ImageNet's images are for research",
    "digits": "Optical Recognition of Handwritten Digits (UCI, scikit-learn's copy): CC BY 4.0",
    "imagefolder": "a folder of images: its owner's terms",
}


def _data(start: str, params: dict) -> list[str]:
    """Return the data sets that a row was trained on here, the target first."""
    return [params["target"], *([params["pretrain"][start]["data"]] if start in params["pretrain"] else [])]


def metadata(row: str, params: dict, accuracy: float, in_transformers: bool) -> str:
    """Return what the hub reads of a card, as YAML: `model-index` has the accuracy on the test images."""
    from huggingface_hub import EvalResult, ModelCardData

    start, target, task = Row(**params["rows"][row]).start, params["target"], "image-classification"
    ids = [HUB_DATA.get(params["download"][name]["source"], name) for name in _data(start, params)]
    base = Weights(**params["weights"][start]) if start in params["weights"] else None
    result = EvalResult(
        task_type=task, dataset_type=ids[0], dataset_name=target, dataset_split="test",
        metric_type="accuracy", metric_value=round(accuracy, 4),
    )  # fmt: skip
    return ModelCardData(
        pipeline_tag=task,
        license="other",
        library_name="transformers" if in_transformers else None,
        base_model=base.name if base and base.source == "huggingface" else None,
        datasets=list(dict.fromkeys(ids)),
        metrics=["accuracy"],
        model_name=row,
        eval_results=[result],
    ).to_yaml()


def _origin(start: str, params: dict) -> str:
    """Say where a row's weights come from."""
    if start in params["weights"]:
        weights = Weights(**params["weights"][start])
        return f"weights pretrained on {weights.data}: {plain(weights.name)} ({weights.source})"
    if start in params["pretrain"]:
        entry = Pretraining(**params["pretrain"][start])
        share = f"{entry.fraction:.0%} of its training images, {entry.epochs} epochs"
        return f"pretraining on {entry.data} ({share})"
    return "random weights, no pretraining"


def _licences(start: str, params: dict) -> list[str]:
    """Return the licences of the data and the weights that a row has seen."""
    found = {DATA_LICENCES[params["download"][name]["source"]] for name in _data(start, params)}
    if start in params["weights"]:
        weights = Weights(**params["weights"][start])
        found.add(
            f"{plain(weights.name)}: {plain(weights.license)}; what its own training data allow holds too"
        )
    return sorted(found)


def card(row: str, params: dict, figures: dict, config: ModelConfig, in_transformers: bool) -> str:
    """Return a row's model card; `figures` are those of its scores and of its training."""
    entry, target, wanted, classes = (
        Row(**params["rows"][row]),
        params["target"],
        config.preprocessing,
        config.classes,
    )
    kind, looks = "ResNet-18", "Grad-CAM, a map for each class"
    if isinstance(config.architecture, VitConfig):
        stem = " behind a convolutional stem" if config.architecture.stem_channels else ""
        kind, looks = f"A Vision Transformer{stem}", "attention rollout of its patches"
    tuned = (
        "the head alone was trained, on a frozen backbone"
        if entry.is_probe
        else "all weights were fine-tuned"
    )
    mean, std = ([round(value, 4) for value in values] for values in (wanted.mean, wanted.std))
    size, side = wanted.image_size, Download(**params["download"][target]).image_size
    pipeline = (
        "\n    from transformers import pipeline"
        '\n    pipeline("image-classification", model="this folder")("image.png")\n'
    )
    licences = "\n".join(f"- {licence}" for licence in _licences(entry.start, params))
    return f"""---
{metadata(row, params, figures["accuracy"], in_transformers)}
---

# {row}

{kind} with {figures["parameters"] / 1e6:.2f}M parameters that tells {len(classes)} classes of {target} \
apart: {", ".join(map(plain, classes))}.

## Data and protocol

Start: {_origin(entry.start, params)}. Then {tuned}, on {figures["train_images"]} training images of \
{target}, for {entry.epochs} epochs; the best one (epoch {figures["best_epoch"]}, \
{figures["validation_accuracy"]:.2%}) was chosen on validation images split off from the training set. \
The test images were scored once.

## Accuracy

{figures["accuracy"]:.2%} of {target}'s test images (95% interval {figures["ci95_low"]:.2%} to \
{figures["ci95_high"]:.2%}), expected calibration error {figures["ece"]:.3f}.

## Use

Give it images as {target} stores them: of any other, the centre square, scaled to {side}x{side} pixels \
(Pillow's `ImageOps.fit(image, ({side}, {side}), Image.Resampling.BICUBIC)`). `model.onnx` takes \
`pixel_values`, float32 (batch, 3, {size}, {size}): such RGB images resized to {size}x{size} \
({wanted.interpolation}, antialiased, rounded), divided by 255, less {mean}, over {std}. \
It gives `logits` (batch, {len(classes)}) and `looks`, where in an image it looks: {looks}.
{pipeline if in_transformers else ""}
## Limits

It knows these {len(classes)} classes only and gives any image to one of them. It was tested on images \
as {target} stores them and on no others, such as large photographs; neither was how it fares with \
groups of people, so it is not for decisions about them.

## Licences of data and weights

{licences}
"""
