"""Files as this project treats them: YAML 1.2 numbers, one-line errors, digests, whole-or-nothing writes, locks."""

import fcntl
import hashlib
import json
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import yaml


# torchrun starts several processes for one stage and numbers them; a process started otherwise is the only one, number 0.
PROCESSES = int(os.environ.get("WORLD_SIZE", 1))
RANK = int(os.environ["RANK"]) if PROCESSES > 1 else 0


class UserError(Exception):
    """Something that the person at the keyboard can mend; printed as one line, without a traceback."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # the one in C reads a lock of 18,000 lines ten times as fast
    """PyYAML reads YAML 1.1, where `1e-05` (what `dvc exp run -S lr=1e-5` writes) is a string."""

    yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:float"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(  # the float of the YAML 1.2 core schema, section 10.3.2
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict:
    """Return a YAML file's mapping. Raises UserError where the file is absent or is no mapping."""
    try:
        return parse_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run this in a folder that has one") from error


def parse_yaml(text: bytes, name: str) -> dict:
    """Return the mapping that a YAML file's text holds. Raises UserError, with the file's name, where it holds none."""
    try:
        content = yaml.load(text.decode(), Loader=_Loader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date that doesn't exist
        raise UserError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} holds no mapping of names to values")
    return content


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and through to the disk; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict) -> None:
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_metrics(path: Path, content: dict) -> None:
    """Write a metrics file: a figure a line, and a line for each entry of a mapping or a list of mappings.

    DVC shows a metrics file's numbers and leaves its lists out, so that curves and predictions can stand beside them in git.
    """

    def lay_out(value) -> str:
        if isinstance(value, dict):
            inner = [f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(each)}" for name, each in value.items()]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            inner = [f"    {json.dumps(each)}" for each in value]
        else:
            return json.dumps(value)
        first, last = "{}" if isinstance(value, dict) else "[]"
        return "\n".join([first, ",\n".join(inner), f"  {last}"])

    write_bytes(path, ("{\n" + ",\n".join(f'  "{name}": {lay_out(value)}' for name, value in content.items()) + "\n}\n").encode())


def write_csv(path: Path, header: list[str], rows: list) -> None:
    """Write a table; floats in the shortest form that reads back exactly."""
    lines = [",".join(map(str, line)) for line in [header, *rows]]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's relative names and contents. Raises UserError if absent."""
    if path.is_dir():
        total = hashlib.sha256()
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            total.update(f"{file.relative_to(path).as_posix()}\0{digest(file)}\n".encode())
        return total.hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path} is not there; `dvc repro` makes it, `dvc pull` or `dvc checkout` bring it back") from None


@contextmanager
def locked(path: Path):
    """Hold an exclusive `flock` on a file; a second process says so and waits. A killed holder lets go by itself.

    Of the processes of one stage the first holds it for all.
    """
    if RANK:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process is at the same work ({path}); waiting for it to end", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
