"""What a stage is given: by DVC from its cache, or by hand, as on a GPU node without DVC."""

import json
import shutil
import subprocess

import pytest

from tiny import run, undisturbed, write_params
from vitscale.base.digests import md5


@pytest.fixture
def by_hand(finished_once, tmp_path):
    """Return a function that runs a script by hand in a copy of a finished pipeline; `folder` is that copy."""
    folder = shutil.copytree(finished_once, tmp_path / "repo", symlinks=True)

    def script(stage: str, *key: str) -> subprocess.CompletedProcess:
        return run("python", f"stages/{stage}.py", *key, cwd=folder, check=False)

    script.folder = folder
    return script


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory, forks):
    return undisturbed(tmp_path_factory, forks)


def altered(path) -> None:
    """Change the last byte of a file, as a copy that broke off or a bad disk does."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()  # it may be a link into DVC's cache
    path.write_bytes(content)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("stage", "key", "folder", "file"),
    [
        ("finetune", "vit-digits", "data/prepared/digits", "train/images.npy"),
        ("finetune", "vit-digits", "models/start/vit-digits", "model.safetensors"),
        ("evaluate", "vit-digits", "data/raw/digits/test", "labels.npy"),
        ("prepare", "digits", "data/raw/digits/train", "images.npy"),
        ("compare", "", "metrics/rows/vit-digits.json", ""),
        ("compare", "", "metrics/history/finetune/vit-digits.json", ""),
    ],
)
def test_a_damaged_input_is_refused(by_hand, stage, key, folder, file):
    """A script without DVC trains on, scores or puts into its table an input with a flipped bit, and nothing says so."""
    label, keys = f"{stage}@{key}".rstrip("@"), [key] if key else []
    assert by_hand(stage, *keys).returncode == 0  # the input that dvc.lock records
    altered(by_hand.folder / folder / file)
    done = by_hand(stage, *keys)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {label}: {folder} is not")
    keeper = f"git checkout {folder}" if stage == "compare" else "dvc checkout"
    assert len(done.stderr.splitlines()) == 1 and f"`{keeper}` brings it back" in done.stderr


@pytest.mark.usefixtures("forked")
def test_what_dvc_brings_back_damaged_is_refused(by_hand, monkeypatch):
    """DVC believes a read-only object of its cache: a damaged one is trained on, and dvc.lock says it was whole."""
    folder, lost = by_hand.folder, "data/prepared/digits/train/images.npy"
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))  # its database knows no file here
    kept = folder / lost
    cached = folder / ".dvc/cache/files/md5" / f"{md5(kept)[:2]}/{md5(kept)[2:]}"
    altered(cached)
    cached.chmod(0o444)
    shutil.rmtree(folder / "data/prepared")
    write_params(folder, lr=0.01)
    done = run("dvc", "repro", cwd=folder, check=False)
    assert done.returncode and "data/prepared/digits is not what dvc.lock records" in done.stderr
    way_out = (
        'chmod -R u+w "$(dvc cache dir)/files" && rm -r data/prepared/digits && dvc repro'  # docs/faq.md
    )
    run("bash", "-c", way_out, cwd=folder)
    assert md5(kept) == md5(cached) == cached.parent.name + cached.name


@pytest.mark.usefixtures("forked")
def test_what_a_script_by_hand_left_is_taken(by_hand):
    """On a node without DVC the second script refuses what the first one left, since dvc.lock has an older run."""
    write_params(by_hand.folder, lr=0.01)
    assert by_hand("pretrain", "vit-digits").returncode == 0
    done = by_hand("finetune", "vit-digits")
    assert done.returncode == 0, done.stderr
    altered(by_hand.folder / "models/start/vit-digits/model.safetensors")
    done = by_hand("finetune", "vit-digits")
    assert done.returncode == 1 and "models/start/vit-digits is not what its stage left" in done.stderr


@pytest.mark.usefixtures("forked")
def test_a_large_input_is_hashed_once(by_hand):
    """Every start of a script reads all of its inputs to hash them, some minutes for ImageNet."""
    assert by_hand("evaluate", "vit-digits").returncode == 0
    notes = by_hand.folder / ".vitscale/inputs.json"
    known = json.loads(notes.read_text())
    known["data/raw/digits/test"]["md5"] = "not asked again"
    notes.write_text(json.dumps(known))
    assert "data/raw/digits/test is not what dvc.lock records" in by_hand("evaluate", "vit-digits").stderr


@pytest.mark.usefixtures("forked")
def test_without_a_lock_inputs_are_taken(by_hand):
    """A folder that never had DVC in it can't run a script."""
    (by_hand.folder / "dvc.lock").unlink()
    assert by_hand("evaluate", "vit-digits").returncode == 0


@pytest.mark.usefixtures("forked")
def test_what_an_entry_that_is_gone_left_is_no_input(by_hand):
    """A row's leftovers, which enter no table and no command brings back, stop `compare`."""
    kept = by_hand.folder / "metrics/rows/gone.json"
    kept.write_text("{}")
    lock = by_hand.folder / "dvc.lock"
    gone = f"  evaluate@gone:\n    outs:\n    - path: metrics/rows/gone.json\n      md5: {'a' * 32}\n"
    lock.write_text(lock.read_text() + gone)
    assert by_hand("compare").returncode == 0
