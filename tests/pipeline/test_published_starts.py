"""Starts without a head or with DeiT's two tokens: rows train from them, on images and on features."""

import json

import pytest
from safetensors.torch import load_file
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher, ViTConfig, ViTModel

from exported import command
from published import DEIT_PROCESSOR, LABELS, VIT, VIT_PROCESSOR, publish
from tiny import PARAMS, undisturbed

OFF = dict.fromkeys(("crop_padding", "mixup", "cutmix", "erasing"), 0) | {
    "flip": False,
    "trivial_augment": False,
}


@pytest.fixture(scope="module")
def folder(forks, tmp_path_factory):
    """The tiny pipeline with a row and a probe on features from each of the two."""
    mirror = tmp_path_factory.mktemp("mirror")
    teacher = DeiTForImageClassificationWithTeacher(DeiTConfig(**VIT, **LABELS))
    weights = {
        "backbone": publish(mirror, "google/vit-in21k", ViTModel(ViTConfig(**VIT)), VIT_PROCESSOR),
        "distilled": publish(mirror, "facebook/deit", teacher, DEIT_PROCESSOR),
    }
    row = PARAMS["rows"]["vit-digits"] | {"lr_scale": 3.0, "epochs": 3}
    probe = row | {"protocol": "linear_probe", "augment": "none", "sizes": []}
    rows = {"vit-digits": PARAMS["rows"]["vit-digits"]}
    for start in weights:
        rows[start] = row | {"start": start}
        rows[f"{start}-probe"] = probe | {"start": start, "inputs": f"features/{start}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITSCALE_MIRROR", str(mirror))
        return undisturbed(
            tmp_path_factory,
            forks,
            precision="float32",
            augment=PARAMS["augment"] | {"none": OFF},
            weights=weights,
            features=dict.fromkeys(weights, {}),
            rows=rows,
        )


@pytest.mark.parametrize(("start", "width"), [("backbone", 16), ("distilled", 32)])
def test_rows_train_from_them(folder, start, width):
    """A row can't put its head on such a start, keeps the old one, or trains nothing."""
    before = load_file(folder / f"models/start/{start}/model.safetensors")
    classes = PARAMS["download"]["digits"]["classes"]
    for row, is_probe in ((start, False), (f"{start}-probe", True)):
        after = load_file(folder / f"models/finetuned/{row}/model.safetensors")
        assert after["head.weight"].shape == (len(classes), width) and after["head.weight"].any()
        same = (after["backbone.class_token"] == before["backbone.class_token"]).all()
        assert same == is_probe and after["backbone.class_token"].shape[1] == width // 16
        config = json.loads((folder / f"models/finetuned/{row}/config.json").read_text())
        assert config.get("distilled") == (True if start == "distilled" else None)
        assert json.loads((folder / f"metrics/rows/{row}.json").read_text())["accuracy"] > 0


def test_what_is_exported_of_them(folder, tmp_path):
    """A distilled row is exported as a model of transformers that lacks its second token, or a backbone's isn't."""
    for start, known in (("backbone", True), ("distilled", False)):
        result = command("export", start, tmp_path / start, "--pipeline", folder)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / start / "model.safetensors").exists() == known
        assert (tmp_path / start / "model.onnx").exists()
