"""YAML as its version 1.2 has it, and as DVC writes it."""

import re
from pathlib import Path

import yaml

from vitscale.base.errors import UserError


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the one in C is ten times as fast
    """PyYAML reads YAML 1.1, where `1e-05` (what `dvc exp run -S lr=1e-5` writes) is a string."""

    yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:float"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(  # the float of the YAML 1.2 core schema, section 10.3.2
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict:
    """Return a YAML file's mapping. Raises UserError where the file is absent or is no mapping."""
    try:
        return parse_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run this in a folder that has one") from error


def parse_yaml(text: bytes, name: str) -> dict:
    """Return the mapping that a YAML file's text holds.

    Raises UserError, with the file's name, where it holds none.
    """
    try:
        content = yaml.load(text.decode(), Loader=_Loader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date that doesn't exist
        raise UserError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} holds no mapping of names to values")
    return content
