"""YAML as DVC reads it: version 1.2, by the rules of ruamel.yaml, which DVC uses.

dvc.lock has to hold the very values that a stage was given. PyYAML reads version 1.1, where `040` is 32,
`1:30` is 90, `off` is false and `1e-05` (what `dvc exp run -S lr=1e-5` writes) is a string. Its parser in C
is fifteen times as fast as ruamel.yaml's; so the parser is PyYAML's, and what a value is follows ruamel.yaml.
A test holds the two against each other. What they read differently all the same is refused, and so is, before
anything is built, what would take seconds or gigabytes: a pull request may bring any file.
"""

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from vitscale.base.errors import UserError, brief
from vitscale.base.files import hold_size, read_small

# The longest params.yaml here, of 40 rows, has 24 kB; the longest dvc.lock 1 MB for 210 stages.
MOST_BYTES, MOST_OF_LOCK = 1 << 20, 16 << 20
BYTES_EACH = 10  # fewer for each value than in any file here, aliases counted as all that they stand for
DEEPEST = 50  # dvc.yaml has 7; at thousands the parser in C overflows its stack
LONGEST = 4096  # characters of a value: the longest path that Linux takes

TAG = "tag:yaml.org,2002:"
DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
TIME = (
    r"[0-9]{4}-[0-9]{2}?-[0-9]{2}?(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?"
    r"(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?"
)
# In this order, by the first character of a plain value; ruamel.yaml's for version 1.2.
PLAIN = [
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    (
        "float",
        r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
        r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("int", r"[-+]?(?:0b[01_]+|0o?[0-7_]+|[0-9_]+|0x[0-9a-fA-F_]+)", "-+0123456789"),
    ("merge", "<<", "<"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("timestamp", f"{DATE}|{TIME}", "0123456789"),
    ("value", "=", "="),
]
BASES = {None: 10, "0b": 2, "0o": 8, "0x": 16}
# Ends of lines in version 1.1 alone, and a directive that asks for another version than 1.2.
OF_OTHER_VERSIONS = re.compile("[\x85\u2028\u2029\ufeff]|^%", re.MULTILINE)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the one in C is ten times as fast
    """Builds plain values only; a name that stands twice in a mapping is an error."""

    yaml_implicit_resolvers: dict = {}
    yaml_constructors = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in [None, *(TAG + kind for kind in ("null", "str", "seq", "map"))]
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what `<<` merges into a mapping, the first time that it is met: the node is changed."""
        if not hasattr(node, "checked"):
            node.checked = True  # type: ignore[attr-defined]
            self._refuse_twins(node)
        super().flatten_mapping(node)

    def _refuse_twins(self, node: yaml.MappingNode) -> None:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {line}: a key must be a plain value")
            no_value = key.tag in (TAG + "merge", TAG + "value")
            name = key.value if no_value else self.construct_object(key, deep=True)
            if isinstance(name, int) and abs(name) >> 60:  # of larger ones any number has the same hash
                raise ValueError(f"line {line}: a key of more than 60 bits")
            if name in lines:
                where = f"line {line}" if lines[name] == line else f"lines {lines[name]} and {line}"
                raise ValueError(
                    f"the key {brief(key.value)[1:-1]} stands twice, in {where}; delete one of them"
                )
            lines[name] = line


def _boolean(text: str) -> bool:
    """Return a bool: after `!!bool` the words of version 1.1 are allowed too."""
    words = {
        "true": True,
        "yes": True,
        "y": True,
        "on": True,
        "false": False,
        "no": False,
        "n": False,
        "off": False,
    }
    return words[text.lower()]


def _integer(text: str) -> int:
    """Return an int: `040` is 40, `0o40` is 32."""
    sign, prefix, digits = re.fullmatch("([-+]?)(0[box])?(.*)", text.replace("_", ""), re.DOTALL).groups()  # type: ignore[union-attr]
    return int(digits, BASES[prefix]) * (-1 if sign == "-" else 1)


def _number(text: str) -> float:
    return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.replace("_", "").lower()))


def _date(text: str) -> date:
    """Return a date; a time of day is refused."""
    return date.fromisoformat(text)


def _add(kind: str, build: Callable[[str], Any]) -> None:
    def construct(loader: _Loader, node: yaml.Node) -> Any:
        text = loader.construct_scalar(node)
        try:
            return build(text)
        except (ValueError, LookupError):
            raise ValueError(
                f"line {node.start_mark.line + 1}: {brief(text)} can't be read as {kind}"
            ) from None

    _Loader.add_constructor(TAG + kind, construct)


for kind, pattern, first in PLAIN:
    _Loader.add_implicit_resolver(TAG + kind, re.compile(f"^(?:{pattern})$"), list(first))
for kind, build in (("bool", _boolean), ("int", _integer), ("float", _number), ("timestamp", _date)):
    _add(kind, build)


def _hold_limits(text: str, name: str, most: int) -> None:
    """Raise UserError where a text's values, once built, would be too many, too long or too deep."""

    def refuse(what: str) -> UserError:
        return UserError(f"{name}: line {event.start_mark.line + 1} {what}")  # type: ignore[union-attr]

    total, sizes = 0, dict[str | None, int]()  # of what an anchor names
    above: list[tuple[str | None, int]] = []  # anchors, and how many values stood before
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in above):
                raise refuse(f"has *{brief(event.anchor)[1:-1]} inside of what it stands for")
            total += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            sizes[event.anchor] = 1
            if len(event.value) > LONGEST:
                raise refuse(f"has a value of {len(event.value)} characters, more than {LONGEST}")
        elif isinstance(event, yaml.CollectionStartEvent):
            above.append((event.anchor, total))
            total += 1
            if len(above) > DEEPEST:
                raise refuse(f"has values nested more than {DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = above.pop()
            sizes[anchor] = total - before
        if total > most:
            raise refuse(f"goes beyond {most} values, an alias counted as all that it stands for")


def read_yaml(path: Path) -> dict:
    """Return a YAML file's mapping. Raises UserError where the file is absent, too large or no mapping."""
    try:
        return parse_yaml(read_small(path, _most_bytes(str(path))), str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run this in a folder that has one") from error


def _most_bytes(name: str) -> int:
    return MOST_OF_LOCK if "dvc.lock" in name else MOST_BYTES


def parse_yaml(text: bytes, name: str) -> dict:
    """Return the mapping that a YAML file's text holds.

    Raises UserError, with the file's name, where it holds none, or is beyond one of the limits above.
    """
    most = _most_bytes(name)
    hold_size(name, len(text), most)
    try:
        decoded = text.decode("utf-8-sig")
        if found := OF_OTHER_VERSIONS.search(decoded):
            line = decoded.count("\n", 0, found.start()) + 1
            raise ValueError(f"line {line}: {found[0]!r} can't stand here; DVC reads it otherwise")
        _hold_limits(decoded, name, most // BYTES_EACH)
        content = yaml.load(decoded, Loader=_Loader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())  # with a tag in it, as long as that may be
        raise UserError(f"{name} is not valid YAML: {reason[:500]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} holds no mapping of names to values")
    return content
