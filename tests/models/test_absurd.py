"""Files that say of themselves what can't be: they end at once, in one line, and before memory is taken."""

import contextlib
import json
import os
import re
import resource
import signal
import struct
import time
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from made import save_model
from networks import VIT, randomised
from served import fetch
from tiny import hub_entry
from vitscale.base.digests import digest
from vitscale.base.errors import UserError
from vitscale.models.store import load_model


def config_with(**values):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def header_with(change):
    """Return what rewrites the header of a folder's safetensors; `change` gets its mapping."""

    def rewrite(folder):
        path = folder / "model.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        changed = json.dumps(change(header) or header).encode()
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])

    return rewrite


def written(file, make):
    return lambda folder: (folder / file).write_bytes(make(folder))


def long_header(folder):
    return struct.pack("<Q", 10**12) + (folder / "model.safetensors").read_bytes()[8:]


def many(_):
    each = ",".join(f'"t{i}":{{"dtype":"F32","shape":[],"data_offsets":[0,0]}}' for i in range(10**6))
    return struct.pack("<Q", len(each) + 2) + f"{{{each}}}".encode()


def pipe(file):
    def put(folder):
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return put


def device(file):
    def put(folder):
        (folder / file).unlink()
        (folder / file).symlink_to("/dev/zero")

    return put


def sparse(folder):
    os.truncate(folder / "model.safetensors", 10**11)


def pickled(change):
    """Return what makes a pickle of a folder's weights, of tensors that `change` returns."""

    def write(folder):
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(change(state), folder / "pytorch_model.bin")

    return write


def wide(state):
    """Return tensors of a ViT that is 100,000 wide, in a file of some kilobytes."""
    return {
        name: torch.zeros(1).expand([100_000 if n == 16 else n for n in each.shape])
        for name, each in state.items()
    }


def compressed(folder):
    pickled(lambda state: state)(folder)
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def of_old(folder):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def moved(header):
    header["classifier.bias"]["data_offsets"] = [0, 10**12]


def enlarged(header):
    header["classifier.weight"]["shape"] = [10**9, 10**9]


def endless(header):
    header["classifier.weight"]["shape"] = [10**30, 16]


def of_eight_bits(header):
    header["classifier.bias"] |= {"dtype": "F8_E4M3", "shape": [12]}


def renamed(header):
    header["x\n" * 10**5] = header.pop("classifier.bias")


def wide_pickle(folder):
    pickled(wide)(folder)
    config_with(hidden_size=100_000)(folder)


ABSURD = {
    "deep": (config_with(num_hidden_layers=10**6), "depth is 1000000"),
    "wide": (config_with(hidden_size=10**30), "dim is 10{30}"),
    "wide inside": (config_with(intermediate_size=10**12), "mlp_dim is 10{12}"),
    "a large image": (config_with(image_size=10**12), "size"),
    "large patches": (config_with(patch_size=10**18), "patch_size"),
    "many heads": (config_with(num_attention_heads=10**30), "heads"),
    "no patch": (config_with(patch_size=0), "patch_size"),
    "a word": (config_with(model_type="x" * 10**6), "model_type x+…"),
    "a long number": (
        written("config.json", lambda _: b'{"hidden_size": ' + b"9" * 10**5 + b"}"),
        "config.json",
    ),
    "deep braces": (written("config.json", lambda _: b"[" * 10**6), "config.json"),
    "many lists": (
        written("config.json", lambda _: b'{"a": [' + b"[]," * 10**6 + b"1]}"),
        "its config.json has more than 200000 lists and objects",
    ),
    "100,000 names": (
        config_with(id2label={str(i): "a" for i in range(10**5)}),
        "doesn't name the 3 classes",
    ),
    "half a letter": (config_with(id2label={"0": "\ud800", "1": "b", "2": "c"}), "classes is .*control"),
    "a name that colours": (
        config_with(id2label={"0": "\x1b[31m", "1": "b", "2": "c"}),
        "classes is .*control",
    ),
    "a long class name": (
        config_with(id2label={"0": "x" * 10**6, "1": "b", "2": "c"}),
        "classes is .*1000 char",
    ),
    "not a number": (config_with(layer_norm_eps=float("nan")), "layer_norm_eps is nan"),
    "a pipe": (pipe("config.json"), "has a config.json that is no file"),
    "a link to a device": (device("config.json"), "has a config.json that is no file"),
    "a list": (written("config.json", lambda _: b"[]"), "its config.json is damaged .it holds no dict"),
    "a large config": (
        written("config.json", lambda _: b" " * 2**25 + b"{}"),
        "its config.json has 33554434 bytes, more than the 16777216",
    ),
    "a header of 1 TB": (
        written("model.safetensors", long_header),
        "header has 1000000000000 bytes, more than 2097152",
    ),
    "a header of nothing": (written("model.safetensors", lambda _: b""), "can't be loaded .*header"),
    "no header": (written("model.safetensors", lambda _: struct.pack("<Q", 4) + b"null"), "can't be loaded"),
    "a million tensors": (written("model.safetensors", many), "header has 57888891 bytes, more than 2097152"),
    "offsets outside": (header_with(moved), "can't be loaded"),
    "a shape that lies": (header_with(enlarged), "can't be loaded"),
    "an endless shape": (header_with(endless), "can't be loaded"),
    "a long name": (header_with(renamed), "other tensors"),
    "cut short": (
        written("model.safetensors", lambda folder: (folder / "model.safetensors").read_bytes()[:-9]),
        "can't be loaded",
    ),
    "8 bits": (header_with(of_eight_bits), "classifier.bias of type F8_E4M3; we take F64, F32"),
    "one value for many": (wide_pickle, "pytorch_model.bin whose tensors are larger than the file"),
    "a compressed pickle": (compressed, "pytorch_model.bin that is compressed"),
    "a pickle of old": (of_old, "pytorch_model.bin that isn't of torch 1.6"),
    "a pickle of a list": (pickled(lambda state: list(state)), "other things than tensors"),
    "a pickle of numbers": (pickled(lambda state: state | {"a": 1}), "other things than tensors"),
}


@contextlib.contextmanager
def at_once(words: str):
    """Hold what runs inside to two seconds, 128 MB and one line, in which these words are found."""

    def stop(*_):
        pytest.fail("it hangs")

    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    try:
        with pytest.raises(UserError, match=words) as caught:
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert time.process_time() - begun < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB
    [line] = str(caught.value).splitlines()
    assert len(line) < 1000 and line.isprintable()


@pytest.mark.parametrize("kind", ABSURD)
def test_what_cant_be_ends_at_once(mirror, kind):
    """A file's own word is believed: it takes the memory or the time that it asks for, or ends in many lines."""
    damage, words = ABSURD[kind]
    entry = hub_entry(mirror)
    fetch("start", entry)  # so that what is imported once isn't counted
    folder = mirror / entry["name"]
    damage(folder)
    entry |= {"sha256": digest(folder)}
    with at_once(f"^weights.start: someone/tiny-vit .*{words}"):
        fetch("start", entry)


OURS = {
    "deep": (config_with(depth=10**6), "depth is 1000000, not a whole number from 1 to 1000"),
    "wide": (config_with(dim=10**30), "dim is 10+, not a whole number from 1 to 16384"),
    "many patches": (config_with(image_size=4096, patch_size=1), "16777216 of them, more than 16384"),
    "many classes": (config_with(classes=["a"] * (10**6 + 1)), "not a list of at most 1000000 names"),
    "half a letter": (config_with(classes=["\ud800", *"bcdefg"]), "classes is .*control"),
    "a key of a megabyte": (config_with(**{"x\x1b" * 10**6: 1}), "no key of a config.json"),
    "a long number": (
        written("config.json", lambda _: b'{"dim": ' + b"9" * 10**5 + b"}"),
        "config.json is damaged",
    ),
    "deep braces": (written("config.json", lambda _: b"[" * 10**5), "config.json is damaged"),
    "many lists": (
        written("config.json", lambda _: b"[" + b"[]," * 10**6 + b"1]"),
        "config.json has more than 200000",
    ),
    "a large config": (
        written("config.json", lambda _: b" " * 2**25 + b"{}"),
        "config.json has 33554434 bytes, more",
    ),
    "a pipe": (pipe("config.json"), "config.json is no file but a pipe"),
    "a device": (device("config.json"), "config.json is no file but a pipe"),
    "a pipe of weights": (pipe("model.safetensors"), "model.safetensors is no file but a pipe"),
    "a header of 1 TB": (
        written("model.safetensors", long_header),
        "header has 1000000000000 bytes, more than 2097152",
    ),
    "a million tensors": (written("model.safetensors", many), "header has 57888891 bytes, more than 2097152"),
    "100 GB": (sparse, "holds no usable model"),
}


@pytest.mark.parametrize("kind", OURS)
def test_a_folder_of_ours_that_cant_be_ends_at_once(tmp_path, kind):
    """A damaged or forged folder of models/ is believed, or a pipe in it is waited for, for ever."""
    damage, words = OURS[kind]
    save_model(tmp_path, VIT, randomised(VIT).state_dict())
    load_model(tmp_path)  # so that what is imported once isn't counted
    damage(tmp_path)
    with at_once(f"^{re.escape(str(tmp_path))}.*{words}"):
        load_model(tmp_path)
