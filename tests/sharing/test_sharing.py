"""Two people and one remote: what one pushes the other gets to the byte, or is told why not.

A is whose run it is, B has a clone. Each has a home, a cache, checkpoints and DVC's site cache of their own: they share
git and the remote, nothing else.
"""

import contextlib
import hashlib
import re

import pytest

from people import MODEL, clone, duplicate, is_exact
from tiny import outputs
from vitscale.base.config import read_yaml


def test_two_people(remote, author, origin, tmp_path):
    """Catches an output, a lock or an experiment that doesn't travel: the other person would compute it again."""
    a = duplicate(author, tmp_path / "a", remote.settings)
    b = clone(origin, tmp_path / "b", remote.settings)
    b("dvc", "pull")
    assert is_exact(b, author)
    assert "Running stage" not in b("dvc", "repro").stdout
    assert not list(b.home.glob("checkpoints/*"))

    assert (
        "Running stage 'finetune@vit-digits'"
        in b("dvc", "exp", "run", "-n", "faster", "-S", "lr=0.01").stdout
    )
    b("dvc", "exp", "push", "origin", "faster")
    a("dvc", "exp", "pull", "origin", "faster")
    a("dvc", "exp", "apply", "faster")
    assert is_exact(a, b) and not is_exact(a, author)
    assert a("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert "Running stage" not in a("dvc", "repro").stdout
    assert not list(a.home.glob("checkpoints/*"))
    assert "metrics/rows/vit-digits.json" in a("dvc", "metrics", "diff").stdout


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_damaged_object(remote, author, origin, tmp_path, damage):
    """Catches a remote without `verify`: weights that are not those of the lock would be pulled without a word."""
    md5 = hashlib.md5((author.folder / MODEL / "model.safetensors").read_bytes()).hexdigest()
    bad = {
        "altered": lambda good: good[:-9] + bytes([good[-9] ^ 1]) + good[-8:],
        "truncated": lambda good: good[: len(good) // 2],
        "missing": lambda good: None,
    }[damage]
    b = clone(origin, tmp_path / "b", remote.settings)
    with replaced(remote, f"files/md5/{md5[:2]}/{md5[2:]}", bad):
        result = b("dvc", "pull", check=False)
        assert result.returncode != 0 and "ERROR" in result.stderr and "Traceback" not in result.stderr
        assert outputs(b.folder).items() <= outputs(author.folder).items()
    b("dvc", "pull")
    assert is_exact(b, author)


def test_damaged_listing(remote, author, origin, tmp_path):
    """Catches another valid object under the model's name. DVC 3.67 doesn't verify a folder's listing: status tells."""
    lock = read_yaml(author.folder / "dvc.lock")["stages"]
    listing = next(out["md5"] for out in lock["finetune@vit-digits"]["outs"] if out["path"] == MODEL)
    weights, others = (
        hashlib.md5((author.folder / folder / "model.safetensors").read_bytes()).hexdigest().encode()
        for folder in (MODEL, "models/start/vit-scratch")
    )
    b = clone(origin, tmp_path / "b", remote.settings)
    with replaced(
        remote, f"files/md5/{listing[:2]}/{listing[2:]}", lambda good: good.replace(weights, others)
    ):
        result = b("dvc", "pull", check=False)
    assert result.returncode != 0 or re.search(
        rf"(not in cache|modified): +{MODEL}", b("dvc", "status").stdout
    )


@contextlib.contextmanager
def replaced(remote, name, change):
    """An object of the remote is another one, or none, in this block."""
    good = remote.read(name)
    bad = change(good)
    assert bad != good
    remote.write(name, bad)
    try:
        yield
    finally:
        remote.write(name, good)


def test_tagged_model(remote, author, origin, tmp_path):
    """Catches a name in `artifacts:` that leads to no model, or to one that our library can't load."""
    from vitscale.models.store import load_model

    b = clone(origin, tmp_path / "b", remote.settings)
    b("git", "tag", "-f", "-a", "vit-digits@v0.1.0", "-m", "The first")
    b("git", "push", "-q", "-f", "origin", "vit-digits@v0.1.0")
    config = str(b.folder / ".dvc/config.local")
    b("dvc", "artifacts", "get", str(origin), "vit-digits", "--config", config, "-o", "model", cwd=b.home)
    load_model(b.home / "model")
    assert outputs_of(b.home / "model") == outputs_of(author.folder / MODEL)


def outputs_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
