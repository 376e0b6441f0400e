"""The models that come with the clone: made by tools.release, pulled in a fresh clone, in nobody's way."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from lean import BLOCKED
from people import Person
from tiny import ROOT, run
from tools import release as releasing
from tools.release import release
from vitscale.base.errors import UserError
from vitscale.base.files import write_json
from vitscale.data.arrays import load_split

PROJECT = "models/released"
PULL = ("dvc", "--cd", PROJECT, "pull")


@pytest.fixture(scope="module")
def released(done, forked, tmp_path_factory):
    """A clone's root whose one row has run and is released and committed."""
    folder = tmp_path_factory.mktemp("released") / "repo"
    shutil.copytree(done, folder, symlinks=True)
    for name in (".gitattributes", f"{PROJECT}/.dvc/config", f"{PROJECT}/.dvc/.gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "project", cwd=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(releasing, "NEAR", 0.1)  # few images, scored in bfloat16 where the CPU has it
        patch.setattr(releasing, "COUNT", 20)
        release(["vit-digits"], folder)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "release", cwd=folder)
    assert run("git", "status", "--short", cwd=folder).stdout == ""
    return folder


def person(released, home, *options):
    home.mkdir()
    run("git", "clone", "-q", *options, str(released), str(home / "repo"), cwd=home)
    return Person(home)


def files_in(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def objects(folder):
    return files_in(folder / PROJECT / ".dvc/remote")


def test_a_fresh_clone_answers_without_torch(released, tmp_path):
    """Catches a release that lacks a file, that git changes on Windows, or that answers otherwise than the row does."""
    someone = person(released, tmp_path / "b", "-c", "core.autocrlf=true")
    someone(*PULL)
    for name in ("vit-digits", "test-images"):
        assert files_in(someone.folder / PROJECT / name) == files_in(released / PROJECT / name)
    assert someone("git", "status", "--short").stdout == ""
    images = load_split(someone.folder / PROJECT / "test-images")
    whole = load_split(released / "data/raw/digits/test")
    assert np.array_equal(images.images, whole.images[:20]) and np.array_equal(
        images.labels, whole.labels[:20]
    )
    Image.fromarray(images.images[3]).save(tmp_path / "image.png")
    asked = ["predict", "vit-digits", str(tmp_path / "image.png"), "--json"]
    ours = run("python", "-m", "vitscale", *asked, cwd=released, env=os.environ | {"PYTHONPATH": "src"})
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(BLOCKED)!r})); "
        "from vitscale.commands.main import main; main()"
    )
    theirs = run(sys.executable, "-c", code, *asked, cwd=someone.folder, env={"PYTHONPATH": "src"})
    [ours], [theirs] = json.loads(ours.stdout), json.loads(theirs.stdout)
    assert ours["class"] == theirs["class"]
    assert ours["probability"] == pytest.approx(theirs["probability"], abs=2e-3)


def test_a_tampered_object_is_refused(released, tmp_path):
    """Catches a remote without `verify`: other weights than were released would answer without a word."""
    someone = person(released, tmp_path / "b")
    md5 = hashlib.md5((released / PROJECT / "vit-digits/model.onnx").read_bytes()).hexdigest()
    weights = someone.folder / PROJECT / f".dvc/remote/files/md5/{md5[:2]}/{md5[2:]}"
    good = weights.read_bytes()
    weights.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    refused = someone(*PULL, check=False)
    assert refused.returncode == 1 and "vit-digits" in refused.stderr and "Traceback" not in refused.stderr
    assert not (someone.folder / PROJECT / "vit-digits/model.onnx").exists()
    someone("git", "checkout", "-q", ".")
    someone(*PULL)
    assert (someone.folder / PROJECT / "vit-digits/model.onnx").read_bytes() == good


def test_nobody_is_hindered(released, tmp_path):
    """Catches a release that DVC's commands of the root speak of, or that a push of somebody's own models lands in."""
    someone, before = person(released, tmp_path / "b"), objects(released)
    shutil.copytree(released / ".dvc/cache", someone.folder / ".dvc/cache")
    someone("dvc", "checkout")
    refused = someone("dvc", "push", check=False)
    assert refused.returncode == 1 and "dvc remote add -d" in refused.stderr
    someone("dvc", "remote", "add", "-q", "-d", "storage", str(tmp_path / "storage"))
    for typed in (
        "push",
        "pull",
        "status",
        "repro -P",
        "checkout",
        "gc -w -c -f",
    ):
        done = someone("dvc", *typed.split())
        assert "released" not in done.stdout + done.stderr, typed
    assert someone("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert "files/md5" in "".join(map(str, (tmp_path / "storage").rglob("*")))
    assert objects(someone.folder) == before
    someone(*PULL)
    assert someone("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert someone("git", "status", "--short").stdout.split() == ["M", ".dvc/config"]


def test_made_anew_it_has_no_more_than_it_needs(released, tmp_path, monkeypatch):
    """Catches objects of an older release that stay in git's folder, or a row that is no longer named and stays released."""
    folder = tmp_path / "repo"
    shutil.copytree(released, folder, symlinks=True)
    write_json(folder / PROJECT / "older/model.onnx", "older")
    run("dvc", "--cd", PROJECT, "add", "-q", "older", cwd=folder)
    run("dvc", "--cd", PROJECT, "push", "-q", cwd=folder)
    assert len(objects(folder)) == len(objects(released)) + 2
    monkeypatch.setattr(releasing, "NEAR", 0.1)
    monkeypatch.setattr(releasing, "COUNT", 10)
    release(["vit-digits"], folder)
    assert len(objects(folder)) == len(objects(released))
    assert len(load_split(folder / PROJECT / "test-images")) == 10
    assert {path.name for path in (folder / PROJECT).iterdir()} == {
        *(".dvc", ".gitignore", "vit-digits", "vit-digits.dvc", "test-images", "test-images.dvc")
    }


def blank(path):
    """In place of halving: an ONNX file's matrices become 0."""
    model = onnx.load(path)
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) > 1:
            weights.raw_data = bytes(len(weights.raw_data))
    onnx.save(model, path)


@pytest.mark.parametrize("fault", ["accuracy", "half", "labels", "size", "seed", "unfinished", "place"])
def test_what_cant_be_released_is_one_line(released, tmp_path, monkeypatch, fault):
    """Catches a row released with another accuracy than its metrics have, a large release, or half of one left behind."""
    folder, row = tmp_path / "repo", "vit-digits"
    shutil.copytree(released, folder, symlinks=True)
    scores = folder / "metrics/rows/vit-digits.json"
    content = json.loads(scores.read_text())
    words = {
        "accuracy": "vit-digits gets .* at most 0.2% from the first, else nothing is released",
        "half": "vit-digits gets .* in float16, at most 0.05% apart",
        "labels": "scored on other test images",
        "size": "bytes in all, more than 1000; name fewer",
        "seed": "one of several trainings",
        "unfinished": "the row isn't finished",
        "place": "released is no DVC project",
    }[fault]
    monkeypatch.setattr(releasing, "NEAR", 0.002 if fault == "accuracy" else 0.1)
    if fault == "accuracy":
        write_json(scores, content | {"accuracy": content["accuracy"] - 0.2})
    if fault == "half":
        monkeypatch.setattr(releasing, "halve", blank)
    if fault == "labels":
        write_json(scores, content | {"test_labels_sha256": ["0"]})
    if fault == "size":
        monkeypatch.setattr(releasing, "MOST_BYTES", 1000)
    if fault == "seed":
        row = "vit-digits/seed-0"
    if fault == "unfinished":
        scores.unlink()
    if fault == "place":
        shutil.rmtree(folder / PROJECT)
    before = files_in(folder)
    with pytest.raises(UserError, match=words) as raised:
        release([row], folder)
    assert "\n" not in str(raised.value) and files_in(folder) == before


def test_the_command(released, tmp_path):
    """Catches a command that can't be started as its help says, or that ends in a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.release", "nope", "--pipeline", str(released)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("error: there is no row nope"), done.stderr
