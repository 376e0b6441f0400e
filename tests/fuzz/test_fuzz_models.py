"""Folders of models that others made: config.json, safetensors, pickles; and our own."""

import copy
import json
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st

from fuzz_folders import published
from fuzzing import HOSTILE, accepted, damaged, damages, fuzz
from vitscale.base.digests import digest
from vitscale.base.entries import Weights
from vitscale.models.pretrained import fetch
from vitscale.models.store import load_model, save_model

FOLDERS = published()


def fetched(files: dict[str, bytes]) -> None:
    """Fetch weights from such files; what is accepted must be a model that answers with finite numbers."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITSCALE_MIRROR", name)
        folder = Path(name) / "a/model"
        folder.mkdir(parents=True)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        entry = Weights(source="huggingface", name="a/model", revision="0" * 40, sha256=digest(folder), data="x", license="x")  # fmt: skip
        found = accepted(lambda: fetch("start", entry), Path(tempfile.gettempdir()), "weights.start: a/model")
        if found:
            config, state, _ = found
            save_model(Path(name) / "ours", config, state)
            assert load_model(Path(name) / "ours").config.classes == config.classes


@st.composite
def configs(draw) -> dict[str, bytes]:
    """Draw a folder with one to three things wrong in config.json or preprocessor_config.json."""
    files = dict(draw(st.sampled_from(FOLDERS)))
    name = draw(st.sampled_from(sorted(file for file in files if file.endswith(".json"))))
    content = json.loads(files[name])
    for _ in range(draw(st.integers(1, 3))):
        place = content
        if isinstance(content.get("pretrained_cfg"), dict) and draw(st.booleans()):
            place = content["pretrained_cfg"]
        key = draw(st.sampled_from(sorted(place)))
        kind = draw(st.sampled_from(["value", "value", "delete", "add"]))
        if kind == "delete" and len(place) > 1:
            del place[key]
        else:
            place[key if kind == "value" else draw(st.text(max_size=9))] = copy.deepcopy(
                draw(HOSTILE | st.integers() | st.floats())
            )
    files[name] = json.dumps(content).encode()
    return files


@st.composite
def headers(draw) -> dict[str, bytes]:
    """Draw a folder with something wrong in the header of its safetensors."""
    files = dict(draw(st.sampled_from([each for each in FOLDERS if "model.safetensors" in each])))
    content = files["model.safetensors"]
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    tensor = draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
    key = draw(st.sampled_from(["dtype", "shape", "data_offsets", "name"]))
    if key == "name":
        header[draw(st.sampled_from(sorted(header)) | st.text(max_size=9))] = header.pop(tensor)
    else:
        header[tensor][key] = draw(
            HOSTILE
            | st.lists(st.integers(-1, 2**64), max_size=4)
            | st.sampled_from(["F64", "F16", "I64", "F8_E5M2", "BOOL"])
        )
    text = json.dumps(header).encode()
    size = draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    files["model.safetensors"] = struct.pack("<Q", size) + text + content[8 + length :]
    return files


@st.composite
def bytes_of(draw) -> dict[str, bytes]:
    files = dict(draw(st.sampled_from(FOLDERS)))
    name = draw(st.sampled_from(sorted(files)))
    return files | {name: damaged(files[name], draw(damages()))}


SEEDS = [
    FOLDERS[0] | {"config.json": content}
    for content in (b"", b"[]", b"[" * 100_000, b'{"hidden_size": ' + b"9" * 5000 + b"}", b"null", b"\xff")
] + [
    FOLDERS[0] | {"model.safetensors": content}
    for content in (b"", struct.pack("<Q", 10**12), struct.pack("<Q", 4) + b"null")
]


@fuzz(configs(), 60, [*FOLDERS, *SEEDS])
def test_configs(files):
    """A config.json takes hours or the memory that it asks for, ends in a traceback, or makes a model that ours isn't."""
    fetched(files)


@fuzz(headers(), 50)
def test_headers(files):
    """A header of safetensors is believed."""
    fetched(files)


@fuzz(bytes_of(), 60)
def test_bytes(files):
    """A damaged file, a pickle above all, ends in a traceback or runs what stands in it."""
    fetched(files)
