"""Finished rows with torch and without: the same answers, or one line that says how to get one."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from exported import ROWS
from lean import BLOCKED
from made import CPU, build, save_model
from tiny import PARAMS, ROOT
from tools.release import halve
from vitscale.base.endings import ending
from vitscale.base.errors import UserError
from vitscale.base.files import write_json
from vitscale.commands.export import write_onnx
from vitscale.data.pins import Download
from vitscale.models import finished as module
from vitscale.models.finished import finished_rows, load_finished
from vitscale.training.inference import predict

HEADS = {
    "vit": 0.5,
    "vit-distilled": 0.5,
    "resnet18-cifar": 0.02,
    "resnet18": 0.05,
}  # the size of their weights
NAMES = tuple(HEADS)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Rows that were trained here, and the same ones released; `resnet18` in float16, `gone` in several seeds."""
    folder = tmp_path_factory.mktemp("finished")
    entry = PARAMS["rows"]["vit-digits"]
    rows = dict.fromkeys(("not-run", "gone", *reversed(NAMES)), entry)
    write_json(folder / "params.yaml", PARAMS | {"rows": rows})  # JSON is YAML
    torch.manual_seed(5)
    for name in NAMES:
        config = ROWS[name] | ({"image_size": 48} if name == "vit" else {})
        model = build(config)
        torch.nn.init.normal_(model.head.weight, std=HEADS[name])
        save_model(folder / "models/finetuned" / name, config, model.state_dict())
        release = folder / "models/released" / name
        release.mkdir(parents=True)
        write_onnx(model.eval(), release / "model.onnx")
        kept = {key: config[key] for key in ("classes", "image_size", "interpolation", "mean", "std")}
        write_json(release / "config.json", kept | {"stored_size": 32})
    halve(folder / "models/released/resnet18/model.onnx")
    for seed in (10, 9):
        shutil.copytree(folder / "models/finetuned/vit", folder / f"models/finetuned/gone/seed-{seed}")
    return folder


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setattr(module, "has_torch", lambda: False)


def some_images(count=5):
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    images = 255 * torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    return list(images.permute(0, 2, 3, 1).byte().numpy())


@pytest.mark.parametrize("row", NAMES)
def test_both_ways_give_the_same_answers(pipeline, monkeypatch, row):
    """Catches a row that answers or looks otherwise without torch, or is shown another image than it gets."""
    trained = load_finished(row, pipeline)
    monkeypatch.setattr(module, "has_torch", lambda: False)
    released = load_finished(row, pipeline)
    assert (trained.source, released.source) == ("trained here", "released")
    for each in (trained, released):
        assert (each.row, each.classes, each.stored_side) == (row, ["cat", "dog", "frog", "ship"], 32)
        assert each.side == (48 if row == "vit" else 32)
    ours, theirs = trained(some_images()), released(some_images())
    assert ours.probabilities.std(0).max() > 0.01  # the images are told apart
    for answers in (ours, theirs):
        assert answers.probabilities.dtype == answers.looks.dtype == np.float32
        assert answers.probabilities.shape == (5, 4) and answers.probabilities.sum(1) == pytest.approx(1)
        assert answers.seen.dtype == np.uint8 and answers.seen.shape == (5, trained.side, trained.side, 3)
    assert ours.looks.shape == theirs.looks.shape and len(ours.looks) == 5
    assert ours.looks.shape[1] == (1 if row.startswith("vit") else 4)
    near = {"vit": 2e-3, "resnet18": 5e-3}.get(row, 1e-5)  # resized by Pillow; float16
    assert ours.probabilities == pytest.approx(theirs.probabilities, abs=near)
    assert ours.looks == pytest.approx(theirs.looks, rel=0.02, abs=near)
    assert np.abs(ours.seen.astype(int) - theirs.seen).max() <= (2 if row == "vit" else 0)


def test_answers_are_those_of_evaluation(pipeline):
    """Catches a second forward pass whose answers are not those of the pipeline's own."""
    from vitscale.models.store import load_model

    for row in NAMES:
        model = load_model(pipeline / "models/finetuned" / row)
        wanted = predict(model, some_images(), CPU).softmax(1).numpy()
        assert load_finished(row, pipeline)(some_images()).probabilities == pytest.approx(wanted, abs=1e-6)


def test_float16_is_half_the_size(pipeline):
    """Catches weights that stay float32 in a release."""
    sizes = [
        (pipeline / f"models/released/{row}/model.onnx").stat().st_size
        for row in ("resnet18", "resnet18-cifar")
    ]
    assert 0.49 < sizes[0] / sizes[1] < 0.51


def test_rows_in_the_order_of_params(pipeline, monkeypatch):
    """Catches a row that can't be loaded, one that is left out, and seeds in the order of their letters."""
    assert finished_rows(pipeline) == ["gone/seed-9", "gone/seed-10", *reversed(NAMES)]
    monkeypatch.setattr(module, "has_torch", lambda: False)
    assert finished_rows(pipeline) == [*reversed(NAMES)]


def test_a_release_of_an_older_params(pipeline, tmp_path, without_torch):
    """Catches a released row that is not shown since params.yaml no longer names it."""
    shutil.copytree(pipeline, tmp_path / "copy")
    write_json(tmp_path / "copy/params.yaml", PARAMS)
    assert finished_rows(tmp_path / "copy") == sorted(NAMES)


def test_no_model_is_one_line(pipeline, tmp_path, without_torch):
    """Catches a line that doesn't say what is missing, torch, the model or the row, or how to get it; `dvc repro` named
    for a row that it doesn't know."""
    for row, words in (
        (
            "gone",
            "gone needs torch; .*requirements.txt. brings it; .*released has resnet18, resnet18-cifar, vit",
        ),
        (
            "not-run",
            "not-run is not there; .*finetuned has gone.*; `dvc repro` makes it.*released has resnet18",
        ),
        (
            "nope",
            "^[^;]*params.yaml has no row nope; [^;]*finetuned has gone, [^;]*; [^;]*released has resnet18[^;]*$",
        ),
    ):
        with pytest.raises(UserError, match=words):
            load_finished(row, pipeline)
    shutil.copy(pipeline / "params.yaml", tmp_path)
    with pytest.raises(UserError, match="has no model; .*brings it$"):
        load_finished("vit", tmp_path)
    (tmp_path / "models/released/.dvc").mkdir(parents=True)
    with pytest.raises(
        UserError, match="`dvc --cd models/released pull` brings those that come with the clone$"
    ):
        load_finished("vit", tmp_path)
    assert finished_rows(tmp_path) == []


def test_several_seeds_are_named(pipeline):
    """Catches a row with several seeds of which any one answers for all."""
    with pytest.raises(UserError, match="give one of gone/seed-9, gone/seed-10"):
        load_finished("gone", pipeline)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"std": [0.2, 0.3, 0]}, "std of config.json is not three numbers"),
        ({"classes": ["cat"]}, "something else than config.json says"),
        ({"image_size": 32}, "something else than config.json says"),
        ({"stored_size": None}, "stored_size of config.json is not"),
        (None, "Protobuf parsing failed"),
    ],
    ids=["std", "classes", "size", "stored", "onnx"],
)
def test_a_damaged_release_is_one_line(pipeline, tmp_path, without_torch, change, words):
    """Catches a release whose parts don't belong together, which would answer with other classes or end in a traceback."""
    folder = tmp_path / "models/released/vit"
    shutil.copytree(pipeline / "models/released/vit", folder)
    if change is None:
        (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:3000])
    else:
        write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | change)
    with pytest.raises(
        UserError,
        match=f"released/vit holds no usable model .*{words}.*; `dvc .* pull --force` brings it back$",
    ) as raised:
        load_finished("vit", tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change", ["an input's name", "numbers"])
def test_a_model_that_cannot_answer_is_one_line(pipeline, tmp_path, without_torch, change):
    """Catches a file that loads and then ends in a traceback, or gives `nan%` and exit code 0: one of which bytes were
    altered did."""
    folder = tmp_path / "models/released/vit"
    shutil.copytree(pipeline / "models/released/vit", folder)
    model = onnx.load(folder / "model.onnx")
    if change == "numbers":
        for each in model.graph.initializer:
            if each.data_type == onnx.TensorProto.FLOAT:
                each.raw_data = np.full(len(each.raw_data) // 4, np.nan, dtype=np.float32).tobytes()
    else:
        for node in model.graph.node:
            node.input[:] = ["pixels" if name == "pixel_values" else name for name in node.input]
        model.graph.input[0].name = "pixels"
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(UserError, match="released/vit holds no usable model .* brings it back$") as raised:
        load_finished("vit", tmp_path)
    assert "\n" not in str(raised.value)


def test_a_package_that_is_missing_is_not_the_model_s_fault(pipeline, without_torch, monkeypatch):
    """Catches a line that sends people to pull a model that is whole, where onnxruntime is not installed."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        load_finished("vit", pipeline)
    assert "the package onnxruntime is not installed; `pip install" in ending(raised.value)[1]


def test_the_side_of_images_where_none_is_named():
    """Catches two defaults for the side of a target's images."""
    assert Download(source="cifar10", sha256={}).image_size == module.STORED


def test_predict_needs_the_lean_requirements_alone(pipeline, tmp_path):
    """Catches an import, at its start or later, of what requirements-predict.txt doesn't bring."""
    from PIL import Image

    Image.fromarray(some_images()[0]).save(tmp_path / "image.png")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(BLOCKED)!r})); "
        "from vitscale.commands.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", "resnet18", tmp_path / "image.png", "--json"],
        cwd=pipeline,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "VITSCALE_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [answer] = json.loads(done.stdout)
    found = {each["class"]: each["probability"] for each in answer["top5"]}
    ours = load_finished("resnet18", pipeline)(some_images()[:1]).probabilities[0]
    assert found == pytest.approx(dict(zip(["cat", "dog", "frog", "ship"], ours.tolist())), abs=5e-3)
