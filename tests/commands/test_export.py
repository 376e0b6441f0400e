"""Exported folders against our own probabilities on real photographs, and their cards."""

import re
import resource

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from transformers import pipeline

from exported import ROWS, command
from made import CPU, preprocessing
from networks import VIT, images, randomised
from vitscale.base.errors import UserError
from vitscale.commands import export as exporting
from vitscale.commands.export import built_beside, export
from vitscale.models.store import load_model
from vitscale.training.inference import predict

pytestmark = pytest.mark.usefixtures("forked")


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


def test_what_a_killed_export_left(tmp_path):
    """A killed export's hidden folder stays for good, one under way loses its own, or somebody's files go."""
    left = tmp_path / ".out.vitscale-export"
    (left / "export").mkdir(parents=True)
    (left / "export/model.onnx").write_bytes(b"half")
    (tmp_path / ".out.mine").mkdir()
    with built_beside(tmp_path / "out") as part:
        assert list(part.iterdir()) == []
        (part / "README.md").write_text("first")
        with (
            pytest.raises(UserError, match="another process exports to .*out"),
            built_beside(tmp_path / "out"),
        ):
            pytest.fail("two at once")
    assert (tmp_path / "out/README.md").read_text() == "first" and not left.exists()
    with pytest.raises(OSError), built_beside(tmp_path / "out"):
        pass  # it has come there meanwhile
    with pytest.raises(KeyboardInterrupt), built_beside(tmp_path / "next"):
        raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.mine"}
    (left / "export").mkdir(parents=True)
    (left / "mine").write_text("mine")
    with built_beside(tmp_path / "out/below"):
        pass
    with pytest.raises(OSError), built_beside(tmp_path / "out"):
        pass
    assert [path.name for path in left.iterdir()] == ["mine"]


@pytest.mark.parametrize(("row", "file"), [("vit", "model.safetensors"), ("vit-mean", "model.onnx")])
def test_a_full_disk(finished, tmp_path, row, file):
    """A disk that fills up ends an export in a traceback of safetensors, or without the file's name, or leaves a part."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises((OSError, UserError), match=f"{file}.*make room|large: .*{file}"):
            export(row, tmp_path / "out", finished)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_export_command(finished, tmp_path, monkeypatch):
    """`vitscale export` doesn't say what came out, fails with a traceback, or has onnxruntime tell Microsoft of it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    done = command("export", "vit-mean", tmp_path / "out", "--pipeline", finished)
    assert done.returncode == 0 and done.stdout.strip() == (
        f"{tmp_path / 'out'}: ONNX and model card; transformers has no such architecture (it has ViTs with one class token and "
        "ResNet-18 with the ImageNet stem)"
    ), done.stderr
    assert not list((tmp_path / "home").rglob("*onnxruntime*"))  # its notes of what it will send
    done = command("export", "vit-mean", tmp_path / "out", "--pipeline", finished)
    assert done.returncode == 1 and re.fullmatch(
        "error: .* is there already; give a new folder", done.stderr.strip()
    )


@torch.no_grad()
def test_the_epsilon_goes_along():
    """A model from weights that others trained is exported with our epsilon instead of its own."""
    model = randomised(VIT | {"layer_norm_eps": 0.5}).eval()
    theirs = exporting.transformers_model(model)
    assert theirs.config.layer_norm_eps == 0.5
    assert torch.allclose(theirs(images()).logits, model(images()), atol=1e-5)
