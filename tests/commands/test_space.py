"""The demo as a Hugging Face Space, put together by the lines of docs/sharing.md."""

import os
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest
import yaml

from exported import ROWS
from networks import randomised
from people import free_port
from playground import CLASSES, playground
from tiny import ROOT
from vitscale.base.files import write_json
from vitscale.commands.export import write_onnx

SPACE = ROOT / "docs/space"
# Starts the Space where packages that it doesn't install can't be found.
WITHOUT = """
import importlib.machinery as machinery, runpy, sys
class Without(machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        left_out = name.partition(".")[0] in {"torch", "dvc", "dvc_render", "transformers", "sklearn", "onnx", "vl_convert"}
        return None if left_out else super().find_spec(name, path, target)
sys.meta_path = [Without if each is machinery.PathFinder else each for each in sys.meta_path]
runpy.run_path("app.py")
"""


def test_its_packages_are_those_of_the_lock():
    """Catches a version that was raised in the lock and not for the Space, where nobody tests it."""
    lock = (ROOT / "requirements.txt").read_text().splitlines()
    pins = {line.split(" ")[0] for line in lock}
    assert set((SPACE / "requirements.txt").read_text().split()) <= pins
    settings = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert f"gradio=={settings['sdk_version']}" in pins and (SPACE / settings["app_file"]).is_file()


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The Space's folder, as the documented lines make it of a clone."""
    folder = playground(tmp_path_factory.mktemp("space") / "clone")
    row, config = folder / "models/released/vit", ROWS["vit"] | {"classes": CLASSES}
    shutil.rmtree(folder / "models/finetuned")
    row.mkdir()
    write_onnx(randomised(config).eval(), row / "model.onnx")
    wanted = ("classes", "image_size", "interpolation", "mean", "std")
    write_json(row / "config.json", {name: config[name] for name in wanted} | {"stored_size": 32})
    (folder / "src").symlink_to(ROOT / "src")
    (folder / "docs").symlink_to(ROOT / "docs")
    text = (ROOT / "docs/sharing.md").read_text().split("## A Space")[1]
    lines = re.findall(r"^    (mkdir space .*|tar .*)$", text, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        subprocess.run(line, shell=True, check=True, cwd=folder)
    return folder / "space"


@pytest.mark.slow
def test_it_starts_without_what_it_does_not_install(space):
    """Catches a file that the lines leave out, and an import of a package that isn't in its requirements.txt."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT],
        cwd=space,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | {"GRADIO_SERVER_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("open http://"), line + process.stdout.read()
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read().decode()
        assert "attention rollout" in page and "resnet18" in page
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
