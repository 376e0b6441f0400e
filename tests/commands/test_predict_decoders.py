"""`predict` reads each kind of image file by the same rule as a data set's import."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from exported import command
from made import CPU
from oddities import COLOURS, not_taken, save, twins
from vitscale.models.store import load_model
from vitscale.training.inference import predict

pytestmark = pytest.mark.usefixtures("forked")


def test_predict_sees_what_the_twin_shows(finished, tmp_path):
    """The probability of an odd file is another than that of the PNG that shows the same."""
    odd = twins()
    for i, (name, (content, seen)) in enumerate(odd.items()):
        (tmp_path / f"{i:03d} {name}").write_bytes(content)
        (tmp_path / f"{i:03d} twin.png").write_bytes(save(seen))
    done = command("predict", "vit", tmp_path, "--json", "--pipeline", finished)
    assert (done.returncode, done.stderr) == (0, "")
    answers = {os.path.basename(each["image"]): each["top5"] for each in json.loads(done.stdout)}
    files = [
        name for name in os.listdir(tmp_path) if "mpo" not in name
    ]  # an ending that folders may not have
    assert {name for name in files if name not in answers} == set()
    for name in answers:
        twin = answers[f"{name[:3]} twin.png"]
        assert [each["class"] for each in answers[name]] == [each["class"] for each in twin], name
        assert [each["probability"] for each in answers[name]] == pytest.approx(
            [each["probability"] for each in twin], abs=1e-6
        ), name
    assert len({each[0]["probability"] for each in answers.values()}) > len(odd) / 2  # and they do differ


def test_predict_lays_transparency_on_grey(finished, tmp_path):
    """A white logo on nothing is classified as a blank image."""
    logo = np.full((32, 32, 4), 255, np.uint8)
    logo[..., 3] = 0
    logo[8:24, 8:24, 3] = 255
    Image.fromarray(logo).save(tmp_path / "logo.png")
    [answer] = json.loads(
        command("predict", "vit", tmp_path / "logo.png", "--json", "--pipeline", finished).stdout
    )
    seen = np.full((32, 32, 3), 128, np.uint8)
    seen[8:24, 8:24] = 255
    model = load_model(finished / "models/finetuned/vit")
    wanted, blank = predict(model, [seen, np.full_like(seen, 255)], CPU).softmax(1).max(1).values.tolist()
    assert answer["probability"] == pytest.approx(wanted, abs=1e-6) and abs(wanted - blank) > 1e-4


def test_predict_starts_no_ghostscript(finished, tmp_path, monkeypatch):
    """An EPS named .png starts Ghostscript, or a file that isn't taken stops the others or isn't named."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    files = {name.replace(" ", "-"): content for name, content in not_taken().items()}
    (tmp_path / "pictures").mkdir()
    for name, content in files.items():
        (tmp_path / f"pictures/{name}.png").write_bytes(content)
    (tmp_path / "pictures/zebra.png").write_bytes(save(COLOURS))
    done = command("predict", "vit", tmp_path / "pictures", "--json", "--pipeline", finished)
    assert not (tmp_path / "started").exists()
    errors = done.stderr.splitlines()
    assert done.returncode == 1 and len(errors) == len(files), done.stderr
    for name, line in zip(sorted(files), sorted(errors)):
        assert line.startswith("error: ") and f"{name}.png" in line
    assert [os.path.basename(each["image"]) for each in json.loads(done.stdout)] == ["zebra.png"]
