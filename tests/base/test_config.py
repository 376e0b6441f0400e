"""Reading YAML, as its version 1.2 has it and as DVC writes it."""

import math
import re

import pytest
import yaml

from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a text and reads it as YAML."""

    def read(text: str | bytes) -> dict:
        path = tmp_path / "params.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_yaml(path)

    return read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-05", 1e-05),
        ("1e-4", 1e-4),
        ("1.0e-3", 1e-3),
        ("1E5", 1e5),
        ("1e5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("0.1", 0.1),
        ("-1.5", -1.5),
        ("-1e-3", -1e-3),
        ("+.5e+2", 50.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("5.0e-4", 5e-4),
    ],
)
def test_floats(text, value, read):
    """A number as YAML 1.2 and DVC write it is read as a string, or as another number."""
    found = read(f"a: {text}")["a"]
    assert type(found) is float and found == value


@pytest.mark.parametrize(
    "text",
    [
        "10",
        "-3",
        "0",
        "0x1F",
        "0o17",
        "017",
        "1_000",
        "true",
        "no",
        "~",
        "abc",
        "'1e-05'",
        '"1e-05"',
        "1e",
        "e5",
        "1.5.2",
        "1-2",
        ".",
        "-",
        "cifar10",
        "[1, 2]",
        "{b: 1}",
        "4 px",
        "1:30",
    ],
)
def test_everything_else_is_read_as_by_pyyaml(text, read):
    """The loader changes what isn't a float: integers, booleans, quoted numbers or names."""
    try:
        wanted = yaml.safe_load(f"a: {text}")
    except yaml.YAMLError:
        with pytest.raises(UserError):
            read(f"a: {text}")
        return
    found = read(f"a: {text}")
    assert found == wanted and type(found["a"]) is type(wanted["a"])


def test_types_of_our_own_numbers(read):
    """An integer becomes a float, a quoted number a number, or .nan something else."""
    found = read("a: 10\nb: '1e-05'\nc: 1e-05\nd: .nan\ne: 0x10")
    assert (type(found["a"]), found["b"], found["c"], found["e"]) == (int, "1e-05", 1e-05, 16) and math.isnan(
        found["d"]
    )


def test_the_loader_stays_ours():
    """Other users of PyYAML in the process, such as DVC, get our floats too."""
    assert yaml.safe_load("a: 1e-05") == {"a": "1e-05"}


BROKEN = {
    "unclosed bracket": "a: [1, 2",
    "tab": "a:\n\t- 1",
    "colon": "a: b: c",
    "indentation": "a: 1\n  b: 2",
    "a python object": "a: !!python/object/apply:os.getcwd []",
    "a list": "- 1\n- 2",
    "a word": "hello",
    "empty": "",
    "a control character": "a: \x00",
    "not UTF-8": b"a: \xff\xfe",
    "a date that there isn't": "a: 2024-13-45",
    "an unknown alias": "a: *b",
    "two documents": "a: 1\n---\nb: 2",
    "a key that is a list": "? [1]\n: 2",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_line(text, read, tmp_path):
    """A file that isn't a YAML mapping is read, or ends in a traceback or in more than one line, without its name."""
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "params.yaml"))) as caught:
        read(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_one_line(tmp_path):
    """A missing file, or a folder of its name, ends in a traceback, or without its name."""
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match=re.escape(str(path))) as caught:
            read_yaml(path)
        assert len(str(caught.value).splitlines()) == 1
