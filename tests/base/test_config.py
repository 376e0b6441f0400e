"""Reading YAML, as its version 1.2 has it and as DVC writes it."""

import math
import random
import re

import pytest
import yaml
from dvc.utils.serialize import parse_yaml

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


SCALARS = """
0 -0 +0 7 10 -3 +12 040 -017 0400 089 00 0o17 0o40 -0o17 0o8 0x1F 0xff -0x10 +0x1f 0x 0b101 -0b1 0b2 1_000 1__0 _1 1_ -_1 0x_1 0o_7
1e-05 1e5 1E5 1.0e-3 1.e3 .5 -.5 +.5e+2 .5e2 .5e-2 1. 1.5 -1.5 +1.5 1_0.5 1._5 ._5 1e 1e+ e5 1.5.2 1e400 1.5e+300 0.1 00.5 08.5 1e05
.inf -.inf +.inf .Inf .INF .iNF .nan .NaN .NAN .Nan -.nan inf nan infinity NaN -inf
true True TRUE tRUE false False FALSE yes Yes YES no No NO on On ON off Off OFF y Y n N
null Null NULL nULL ~ ~~ None none
2024-01-02 2024-1-2 2024-13-45 24-01-02 2024-01 1:30 1:30:45 1:30:45.5 190:20:30 10:00 1:60 -1:30 12:30:00.25
= << < > | - . .. ... -- --- + -+1 --1 1-2 1+2 abc cifar10 vit-b/16 4px 1,2 a:b @a `a *a &a !a %a #a "x" 'x' "1e-05" '040' 'true' "\\x41" '~' "" ''
[1,2] [] {} {b:1} [040,1e3,~] {"b":040}
!!int|040 !!int|0o40 !!int|1:30 !!int|1.5 !!int|'7' !!int|x !!int|'' !!int|[] !!float|3 !!float|1_0.5 !!float|.inf !!float|-.nan
!!float|nan !!float|x !!bool|yes !!bool|off !!bool|y !!bool|maybe !!null|x !!null|'' !!str|040 !!str|true !!str|~ !!str|[1] !!seq|[1]
!!map|{} !!timestamp|2024-01-02 !!timestamp|x !!python/name:os.getcwd|'' !foo|1 !!int|"0x1F" !!int|0X1F !!int|+5
"""
TEXTS = {
    "a block scalar": "a: |\n  040\n  no\nb: >-\n  1\n  2\n",
    "an indented block scalar": "a: |2+\n    1\n\n",
    "a plain value over two lines": "a: 1\n  2\n",
    "names of all types": "1: a\n040x: a\n0o7: b\n1.5: c\noff: d\ntrue: e\n~: f\n1:30: g\n2024-01-02: h\n=: i\n",
    "an anchor": "a: &x 040\nb: *x\nc: &y {d: off}\ne: *y\n",
    "a merge": "x: &x {a: 1, b: 040}\ny: {b: 2, <<: *x}\n",
    "merges": "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz: {<<: [*x, *y], c: 3}\nw: {<<: *y, d: 1}\n",
    "a merge of merges": "x: &x {a: 1}\ny: &y {<<: *x, b: 1}\nz:\n  <<: *y\n  a: 5\n",
    "a merge in quotes": "x: {'<<': {a: 1}}\n",
    "a merge of no mapping": "x: {<<: 1}\n",
    "two merges": "x: &x {a: 1}\nz: {<<: *x, <<: *x}\n",
    "a name twice": "a: 1\nb: 2\na: 1\n",
    "a name twice within": "x:\n  a: 1\n  b: {c: 1, c: 2}\n",
    "a name twice, in quotes": "a: 1\n'a': 2\n",
    "a number twice": "8: 1\n0o10: 2\n",
    "true and one": "true: 1\n1: 2\n",
    "empty values": "a:\nb: \nc:   # nothing\nd: []\n",
    "ends of lines": "a: 040\r\nb: off\r\n",
    "a mark before the first line": "\ufeffa: 040\n",
    "quotes": "a: \"\\u00e9 \\/ \\\n  b\"\nb: 'it''s'\n",
    "a document's marks": "---\na: 1\n...\n",
    "two documents": "a: 1\n---\na: 2\n",
}


def typed(value: object) -> object:
    """Return a value from which its types, a -0.0 and a NaN can be told."""
    if isinstance(value, dict):
        return [(typed(name), typed(each)) for name, each in value.items()]
    return [typed(each) for each in value] if isinstance(value, list) else (type(value), repr(value))


@pytest.mark.parametrize(
    "text", [f"a: {each.replace('|', ' ')}" for each in SCALARS.split() if each != "|"] + list(TEXTS.values())
)
def test_dvc_reads_the_same(text, read):
    """dvc.lock holds another value than the stage used: `040` as 40, not as 32, `off` as a word."""
    try:
        wanted = typed(parse_yaml(text, "params.yaml"))
    except Exception:
        with pytest.raises(UserError):
            read(text)
        return
    assert typed(read(text)) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_dvc_reads_random_values_the_same(seed, read):
    """A number with signs, points, exponents and prefixes in a rare order is read otherwise than by DVC."""
    draw = random.Random(seed)
    for _ in range(400):
        test_dvc_reads_the_same(
            "a: " + "".join(draw.choices("0012789.eE+-_xobT: ny~", k=draw.randint(1, 8))), read
        )


@pytest.mark.parametrize(
    "text",
    [
        "%YAML 1.1\n---\na: 040",
        "a: 2024-01-02 10:00:00",
        "a: !!binary aGk=",
        "a: !!set {x}",
        "a: !!omap [x: 1]",
        "a: !!float '--1'",
        "a: b\u2028c",
        "? [1]\n: 2",
        "x: &x {a: 1}\ny: {<<: *x, b: 1, b: 2}",
    ],
)
def test_what_only_dvc_could_read_is_refused(text, read, tmp_path):
    """A value that we can't read as DVC does is read as something else."""
    parse_yaml(text, "params.yaml")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "params.yaml"))) as caught:
        read(text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: 1\nb: 2\na: 3", "the key a stands twice, in lines 1 and 3; delete one of them"),
        ("rows:\n  x: {lr: 1, lr: 2}", "the key lr stands twice, in line 2; delete one of them"),
        ("a: 1\nb: !!bool perhaps", "line 2: 'perhaps' can't be read as bool"),
    ],
)
def test_a_fault_names_its_line(text, where, read, tmp_path):
    """Of a row pasted twice the last counts without a word, or nobody is told where it stands."""
    with pytest.raises(UserError) as caught:
        read(text)
    assert str(caught.value) == f"{tmp_path / 'params.yaml'} is not valid YAML: {where}"


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
