"""Hostile parameters, archives and folders of models: named cases, and the run of a command that they are given to."""

import copy
import json
import os
import random
import resource
import struct
import subprocess
from pathlib import Path

from fuzzing import VALUES
from schemas import leaves, parent_of
from tiny import PARAMS

SECONDS, MEMORY = (
    10,
    12 << 30,
)  # of a command on a busy machine; addresses, of which torch and DVC take 4 GiB at once
CANARY = "canary"
NAMES = [
    "$(touch canary)", "`touch canary`", "; touch canary", "| touch canary", "> canary", "&& touch canary", "\ntouch canary\n",
    "'; touch canary; '", '"; touch canary; "', "-c", "--help", "../../x", "/etc/passwd", "a b", "", " ", ".", "..", "~", "*", "?",
    "${root}", "$HOME", "a@b", "a.b", "a/b", "a\\b", "a\0b", "é", "\u202e", "x" * 300, "null", "true", "1", "0x10", "1e3", "-", "_",
    "\x1b[2J", "%s{}",
]  # fmt: skip
STAGE = {  # which stage reads a section first
    "download": "download digits", "prepare": "prepare digits", "split_seed": "prepare digits", "augment": "prepare digits", "target": "prepare digits",
    "models": "init vit", "pretrain": "pretrain vit-digits", "published": "compare", "scaling": "compare", "weights": "compare",
}  # fmt: skip


def parameters(count: int = 300) -> dict[str, tuple[dict, str]]:
    """Return parameters by name, each with the stage to start: names as keys, then values in every place."""
    found = {}
    for number, name in enumerate(NAMES):
        section = ("rows", "models", "download", "pretrain")[number % 4]
        entry = next(iter(PARAMS[section].values()))
        found[f"{section}.{name!r}"] = (
            PARAMS | {section: PARAMS[section] | {name: entry}},
            STAGE.get(section, "finetune vit-digits"),
        )
    draws, places = random.Random(0), list(leaves(PARAMS))
    pairs = [(path, value) for path in places for value in range(len(VALUES))]
    for path, value in draws.sample(pairs, count - len(found)):
        content = copy.deepcopy(PARAMS)
        parent_of(content, path)[path[-1]] = VALUES[value]
        found[f"{'.'.join(map(str, path))}-{value}"] = (content, STAGE.get(path[0], "finetune vit-digits"))
    return found


def folders(wholes: list[dict[str, bytes]], count: int = 100) -> dict[str, dict[str, bytes]]:
    """Return folders of models by name: a value of a JSON file, a field of the header, or a byte is hostile."""
    draws, found = random.Random(0), {}
    for number in range(count):
        files = dict(wholes[number % len(wholes)])
        name = draws.choice(sorted(files))
        if name.endswith(".json"):
            content = json.loads(files[name])
            key, value = draws.choice(sorted(content)), draws.randrange(len(VALUES))
            content[key] = VALUES[value]
            files[name], what = json.dumps(content).encode(), f"{key}-{value}"
        elif number % 2 and name.endswith(".safetensors"):
            (length,) = struct.unpack("<Q", files[name][:8])
            header = json.loads(files[name][8 : 8 + length])
            key, field, value = (
                draws.choice(sorted(header)),
                draws.choice(["dtype", "shape", "data_offsets"]),
                draws.randrange(len(VALUES)),
            )
            header[key] = header[key] | {field: VALUES[value]}
            text = json.dumps(header).encode()
            files[name], what = (
                struct.pack("<Q", len(text)) + text + files[name][8 + length :],
                f"{field}-{value}",
            )
        else:
            at = draws.randrange(len(files[name]))
            files[name], what = (
                files[name][:at] + b"\xff" + files[name][at + 1 + number % 3 * 99 :],
                f"byte {at}",
            )
        found[f"{number}-{name}-{what}"] = files
    return found


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return all files but those that every stage writes."""
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not {".vitscale", ".git", "__pycache__"} & set(path.parts)
    ]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name != "timings.csv"
    }


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command within its time and memory; it must end well or in printable lines that begin with `error:`."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said[-2000:]
    assert not list(cwd.rglob(CANARY)) and not (cwd.parent / CANARY).exists(), "a command ran"
    assert done.returncode in (0, 1), (done.returncode, said[-2000:])
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode == 1) == bool(errors), said[-2000:]
    assert all(line.isprintable() and len(line) < 2000 for line in errors), errors
    return done
