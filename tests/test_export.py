"""What others get: exported folders against our own probabilities on real photographs, and classes on the command line."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import pipeline

from made import CPU, build, preprocessing, save_model
from tiny import PARAMS, ROOT
from vitscale.base.errors import UserError
from vitscale.base.files import write_json
from vitscale.commands import export as exporting
from vitscale.commands.export import export
from vitscale.data.arrays import load_split
from vitscale.models.store import count_parameters, load_model
from vitscale.training.inference import predict

COMMON = {
    "image_size": 32,
    "classes": ["cat", "dog", "frog", "ship"],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.25],
}
VIT = COMMON | {
    "architecture": "vit",
    "patch_size": 8,
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 32,
    "pool": "class",
    "positions": "learned",
    "dropout": 0.1,
    "stochastic_depth": 0.1,
    "interpolation": "bicubic",
}
RESNET = COMMON | {"architecture": "resnet18", "stem": "imagenet", "interpolation": "bilinear"}
ROWS = {
    "vit": VIT,
    "vit-sincos": VIT | {"positions": "sincos", "image_size": 48},
    "resnet18": RESNET,
    "vit-mean": VIT | {"pool": "mean"},
    "resnet18-cifar": RESNET | {"stem": "cifar"},
}
SCORES = {"accuracy": 0.8133, "ci95_low": 0.8055, "ci95_high": 0.8208, "loss": 0.6, "ece": 0.0321, "macs": 1}
CHOSEN = {"validation_accuracy": 0.824, "best_epoch": 8, "train_images": 47_500}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A pipeline's folder whose rows are random models of each architecture."""
    folder = tmp_path_factory.mktemp("finished")
    rows = {name: PARAMS["rows"]["vit-digits"] | {"start": "vit-scratch"} for name in ROWS} | {
        "not-run": PARAMS["rows"]["vit-digits"]
    }
    rows["vit"] = rows["vit"] | {"start": "hub"}
    rows["resnet18"] = rows["resnet18"] | {"start": "vit-digits", "protocol": "linear_probe"}
    weights = {
        "hub": {
            "source": "huggingface",
            "name": "someone/a-vit",
            "revision": "0" * 40,
            "sha256": None,
            "data": "imagenet1k",
            "license": "Apache-2.0",
        }
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"rows": rows, "weights": weights}))
    draws = torch.Generator().manual_seed(1)
    for name, config in ROWS.items():
        model = build(config)
        state = {
            key: value
            if not value.is_floating_point()
            else 1 + torch.rand(value.shape, generator=draws)
            if "running_var" in key
            else torch.randn(value.shape, generator=draws)
            * (0.5 if value.ndim < 2 else 2 / value[0].numel() ** 0.5)
            for key, value in model.state_dict().items()
        }
        save_model(folder / "models/finetuned" / name, config, state)
        write_json(folder / "models/finetuned" / name / "training.json", CHOSEN)
        write_json(folder / f"metrics/history/finetune/{name}.json", CHOSEN | {"epochs": []})
        write_json(folder / f"metrics/rows/{name}.json", SCORES | {"parameters": count_parameters(model)})
    return folder


@pytest.fixture(scope="module")
def photographs():
    """Real photographs in several sizes, and a square the size of the model."""
    china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    return [
        china,
        flower,
        china.crop((0, 0, 200, 400)),
        flower.resize((32, 32)),
        china.resize((48, 48)),
        flower.resize((20, 16)),
        Image.fromarray(255 - np.array(flower)),
    ]


@pytest.mark.parametrize("row", ROWS)
def test_exports_give_our_probabilities(finished, photographs, tmp_path, row):
    """transformers or onnxruntime give other class probabilities than we do on photographs, or a row isn't exported."""
    known = export(row, tmp_path / "out", finished)
    assert known == (row in ("vit", "vit-sincos", "resnet18"))
    model = load_model(finished / "models/finetuned" / row)
    images = [np.array(image) for image in photographs]
    wanted = predict(model, images, CPU).softmax(1)
    assert wanted.std(0).max() > 0.01  # the images are told apart
    taken = preprocessing(ROWS[row])
    inputs = torch.cat([taken.to_input(taken.fitted(torch.from_numpy(image)[None])) for image in images])
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {"pixel_values": inputs.numpy()})[0]
    assert (torch.from_numpy(logits).softmax(1) - wanted).abs().max() < 1e-4
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"model.onnx", "README.md"} | (
        {"config.json", "model.safetensors", "preprocessor_config.json"} if known else set()
    )
    if known:
        classify = pipeline("image-classification", model=str(tmp_path / "out"), device="cpu")
        for image, probability in zip(photographs, wanted):
            found = {answer["label"]: answer["score"] for answer in classify(image, top_k=None)}
            assert found == pytest.approx(dict(zip(model.config.classes, probability.tolist())), abs=1e-4)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            "vit",
            [
                "A Vision Transformer",
                "someone/a-vit",
                "Apache-2.0",
                "imagenet1k",
                "all weights",
                "transformers import pipeline",
            ],
        ),
        (
            "resnet18",
            ["ResNet-18", "pretraining on digits (50%", "the head alone", "transformers import pipeline"],
        ),
        ("vit-mean", ["random weights"]),
    ],
)
def test_the_card(finished, tmp_path, row, words):
    """The card lacks the data, the protocol, the accuracy with its interval or the licences, or names another start."""
    export(row, tmp_path / "out", finished)
    text = (tmp_path / "out/README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["pipeline_tag"] == "image-classification" and front["datasets"] == ["digits"]
    for each in [
        *words,
        "81.33%",
        "80.55% to 82.08%",
        "82.40%",
        "47500",
        "epoch 8",
        "cat, dog, frog, ship",
        "CC BY 4.0",
        "chosen on validation",
    ]:
        assert each in text, each
    assert row != "vit-mean" or "transformers" not in text


def test_what_cant_be_exported_is_one_line(finished, tmp_path, monkeypatch):
    """A row that isn't there or isn't finished, a folder in the way or an export that differs ends otherwise than in one line."""
    (tmp_path / "taken").mkdir()
    for row, destination, words in (
        ("nope", "a", "vit-sincos"),
        ("not-run", "a", "the row isn.t finished"),
        ("vit", "taken", "taken is there already"),
    ):
        with pytest.raises(UserError, match=words):
            export(row, tmp_path / destination, finished)
    with pytest.raises(UserError, match="nowhere is not there"):
        export("vit", tmp_path / "nowhere/a", finished)
    path = finished / "metrics/history/finetune/vit.json"
    before = path.read_text()
    path.write_text(before.replace('"best_epoch": 8', '"best_epoch": 7'))
    with pytest.raises(UserError, match="not of the model"):
        export("vit", tmp_path / "a", finished)
    path.write_text(before)
    to_theirs, samples = (
        exporting.to_theirs,
        iter([exporting.sample_images(), exporting.sample_images()[::-1]]),
    )
    monkeypatch.setattr(
        exporting,
        "to_theirs",
        lambda *args: (
            lambda state: state | {"classifier.bias": state["classifier.bias"] + torch.arange(4) / 500}
        )(to_theirs(*args)),
    )
    with pytest.raises(UserError, match="transformers gives"):
        export("vit", tmp_path / "b", finished)
    monkeypatch.setattr(
        exporting, "sample_images", lambda: next(samples)
    )  # onnxruntime's images aren't those that we see
    with pytest.raises(UserError, match="onnxruntime gives"):
        export("vit-mean", tmp_path / "b", finished)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def command(module: str, *arguments: str, cwd=ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "vitscale", module, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"VITSCALE_DEVICE": "cpu", "PYTHONPATH": str(ROOT / "src")},
    )


def test_export_command(finished, tmp_path):
    """`vitscale export` doesn't say what came out, or fails with a traceback."""
    done = command("export", "vit-mean", tmp_path / "out", "--pipeline", finished)
    assert done.returncode == 0 and done.stdout.strip() == (
        f"{tmp_path / 'out'}: ONNX and model card; transformers has no such architecture (it has ViTs with a class token and "
        "ResNet-18 with the ImageNet stem)"
    ), done.stderr
    done = command("export", "vit-mean", tmp_path / "out", "--pipeline", finished)
    assert done.returncode == 1 and re.fullmatch(
        "error: .* is there already; give a new folder", done.stderr.strip()
    )


@pytest.fixture
def pictures(tmp_path, photographs):
    """A folder of images in many modes and sizes, some of which can't be read."""
    folder, flower = tmp_path / "pictures", photographs[1]
    (folder / "deeper").mkdir(parents=True)
    flower.save(folder / "photo.jpg")
    flower.convert("L").save(folder / "deeper/gray.png")
    flower.convert("P").save(folder / "palette.gif")
    flower.convert("RGBA").save(folder / "alpha.PNG")
    flower.convert("CMYK").save(folder / "print.tiff")
    flower.convert("1").save(folder / "bits.bmp")
    Image.fromarray(np.asarray(flower.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    flower.resize((1, 1)).save(folder / "dot.webp")
    exif = Image.Exif()
    exif[0x0112] = 6  # lay it on its side
    flower.save(folder / "turned.jpg", exif=exif)
    (folder / "folder.png").mkdir()
    (folder / "notes.txt").write_text("no image")
    return folder


def test_predict_reads_any_image(finished, pictures):
    """A size or mode isn't taken, a file that is no image is, or the 16 bits of a channel are cut off."""
    done = command("predict", "resnet18", pictures, "--json", "--pipeline", finished)
    assert done.returncode == 0, done.stderr
    answers = {answer["image"].rsplit("/", 1)[-1]: answer for answer in json.loads(done.stdout)}
    assert sorted(answers) == [
        "alpha.PNG",
        "bits.bmp",
        "deep.png",
        "dot.webp",
        "gray.png",
        "palette.gif",
        "photo.jpg",
        "print.tiff",
        "turned.jpg",
    ]
    for answer in answers.values():
        assert len(answer["top5"]) == 4 and sum(
            each["probability"] for each in answer["top5"]
        ) == pytest.approx(1)
        assert answer["top5"][0] == {"class": answer["class"], "probability": answer["probability"]}
        assert [each["probability"] for each in answer["top5"]] == sorted(
            (each["probability"] for each in answer["top5"]), reverse=True
        )
    assert answers["deep.png"]["probability"] == pytest.approx(answers["gray.png"]["probability"], abs=1e-6)
    model = load_model(finished / "models/finetuned/resnet18")
    for name in sorted({*answers} - {"gray.png", "deep.png"}):
        image = Image.open(pictures / name).convert("RGB")
        turned = np.array(image.rotate(-90, expand=True) if name == "turned.jpg" else image)
        wanted = predict(model, [turned], CPU).softmax(1)[0]
        assert answers[name]["probability"] == pytest.approx(wanted.max().item(), abs=1e-6), name
        assert answers[name]["class"] == model.config.classes[wanted.argmax()]
    flat = predict(model, [np.array(Image.open(pictures / "turned.jpg"))], CPU).softmax(1)[0].max().item()
    assert abs(answers["turned.jpg"]["probability"] - flat) > 1e-5  # else turning wouldn't be seen


def test_predict_names_what_it_cant_read_and_goes_on(finished, pictures):
    """An unreadable image stops the others, isn't named, or leaves the exit code at 0."""
    (pictures / "broken.png").write_bytes((pictures / "deeper/gray.png").read_bytes()[:300])
    (pictures / "empty").mkdir()
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(pictures / "float.tiff")
    done = command(
        "predict",
        "vit",
        pictures / "empty",
        pictures / "broken.png",
        pictures / "photo.jpg",
        pictures / "none.jpg",
        pictures / "notes.txt",
        pictures / "float.tiff",
        "--pipeline",
        finished,
    )
    errors = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(errors) == 5
    assert all(
        name in line
        for name, line in zip(("empty", "broken.png", "none.jpg", "notes.txt", "float.tiff"), errors)
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and re.match(
        r"\S*photo\.jpg +(cat|dog|frog|ship) +\d+\.\d% +\w+ \d+\.\d%, ", lines[1]
    )


def test_predict_says_what_is_missing_in_one_line(finished, tmp_path):
    """A row without a model, or a folder without images, ends in a traceback."""
    for arguments, words in (
        (("nope", tmp_path), "models/finetuned/nope is not there; "),
        (("vit", tmp_path), "holds no image"),
    ):
        done = command("predict", *arguments, "--pipeline", finished)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr, (
            done.stderr
        )


def test_predictions_are_those_of_evaluation(from_the_hub, tmp_path):
    """The command sees other classes in the test images than the pipeline's evaluation, in float32 too, does."""
    split = load_split(from_the_hub / "data/raw/digits/test")
    for i, image in enumerate(split.images):
        Image.fromarray(image).save(tmp_path / f"{i:04}.png")
    kept = json.loads((from_the_hub / "metrics/rows/hub.json").read_text())["predicted"]
    of_class = {name: iter(numbers) for name, numbers in kept.items()}
    evaluated = [split.classes[next(of_class[split.classes[label]])] for label in split.labels]
    found = [
        answer["class"]
        for answer in json.loads(
            command("predict", "hub", tmp_path, "--json", "--pipeline", from_the_hub).stdout
        )
    ]
    assert found == evaluated
    assert len(set(found)) == 2


def test_a_row_that_was_really_run_is_exported(from_the_hub, tmp_path):
    """What the stages leave isn't what the export reads: it refused every row once, since the figures had moved."""
    assert export("hub", tmp_path / "out", from_the_hub)
    figures = json.loads((from_the_hub / "metrics/history/finetune/hub.json").read_text())
    assert f"{figures['train_images']} training images" in (tmp_path / "out/README.md").read_text()
