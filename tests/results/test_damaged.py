"""Files that earlier stages left, damaged: one line that names the file, from whoever reads it."""

import errno
import json
import shutil
from types import SimpleNamespace

import pytest

from tiny import PARAMS, ROOT, outputs, run, write_params
from vitscale.base.errors import UserError
from vitscale.base.files import read_json, write_bytes
from vitscale.commands.prune import prune
from vitscale.commands.report_changes import reruns
from vitscale.pipeline.graph import recorded_stages
from vitscale.pipeline.recorded import not_run
from vitscale.results.tables import hits, parse_csv, parse_metrics, read_metrics

DAMAGES = {
    "empty": b"",
    "half": b'{"accuracy": 0.9, "predic',
    "no UTF-8": b'{"accuracy": "\xff\xfe"}',
    "deep": b"[" * 100_000,
    "a list": b"[1, 2]",
    "null": b"null",
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_json_that_holds_no_mapping(content, tmp_path):
    """A file that was cut short, or holds something else, ends in a traceback without its name."""
    path = tmp_path / "notes.json"
    path.write_bytes(content)
    for read in (lambda: read_json(path, dict, "delete it"), lambda: read_metrics(path)):
        with pytest.raises(UserError, match=r"notes\.json is damaged \(.*\); ") as caught:
            read()
        assert len(str(caught.value).splitlines()) == 1


def test_json_that_is_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"can't be read \(Is a directory\); delete it"):
        read_json(tmp_path, dict, "delete it")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("accuracy", "high"),
        ("accuracy", float("nan")),
        ("parameters", None),
        ("predicted", [1]),
        ("predicted", {"a": ["x"]}),
        ("predicted", {"a": [0], "b": [[0, 1], [1]]}),
        ("test_labels_sha256", "a"),
        ("epochs", {}),
        ("weights_sha256", 3),
    ],
)
def test_a_figure_of_another_type(key, value):
    """A figure that is none ends in a traceback from a table that adds it up."""
    with pytest.raises(UserError, match=rf"rows/a\.json is damaged \({key}.*\); `dvc repro`"):
        hits(parse_metrics(json.dumps({key: value}).encode(), "rows/a.json"))


def test_a_figure_that_is_not_there_names_its_file():
    """What an older version wrote ends in a KeyError."""
    found = parse_metrics(b'{"accuracy": 0.5}', "rows/a.json")
    with pytest.raises(UserError, match=r"rows/a\.json has no parameters; `dvc repro`"):
        (found | {"loss": 1.0})["parameters"]
    assert found.get("parameters") is None and found == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"row,accuracy\n\xff,0.5\n", "utf-8"),
        (b"row,precision\na,0.5\n", "no column 'accuracy'"),
        (b"row,accuracy\na\n", "NoneType"),
        (b"row,accuracy\na,high\n", "high"),
        (b'row,accuracy\n"a,0.5\n', "unexpected end"),
    ],
)
def test_a_table_that_is_none(content, words):
    """A table that isn't UTF-8, or has another header, ends in a traceback of the report."""
    with pytest.raises(UserError, match=r"accuracy\.csv is damaged \(") as caught:
        parse_csv(content, "accuracy.csv", row=str, accuracy=float)
    assert words in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_disk_that_is_full_names_the_file_itself(number, tmp_path, monkeypatch):
    """Of a write that fails the system names no file, or a partial one that nobody knows."""

    def full(handle):
        raise OSError(number, "no")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "a.json", b"1")
    assert caught.value.filename == str(tmp_path / "a.json") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "stages",
    [
        [1],
        {"a": 1},
        {3: {}},
        {"a": {"outs": 3}},
        {"a": {"outs": [3]}},
        {"a": {"deps": [{"path": 3}]}},
        {"a": {"outs": [{"path": "b", "md5": 3}]}},
        {"a": {"params": [3]}},
        {"a": {"params": {"params.yaml": 3}}},
        {"a": {"params": {"params.yaml": {3: 4}}}},
    ],
)
def test_a_lock_of_another_shape(stages):
    """A dvc.lock that was edited or merged by hand ends in a traceback of `prune`, of `report`, of a script by hand."""
    with pytest.raises(UserError, match=r"dvc\.lock is damaged; `git checkout dvc\.lock`"):
        recorded_stages({"stages": stages}, "dvc.lock")


def test_a_lock_without_hashes(tmp_path):
    """What DVC takes, an output of which dvc.lock has no hash, ends `prune` or `report` in a traceback, or is deleted."""
    pipeline, params = {"vars": [], "stages": {"a": {"deps": ["b"], "outs": ["c"]}}}, dict(PARAMS)
    bare = {"deps": [{"path": "b"}], "outs": [{"path": "c"}]}
    lock = recorded_stages({"stages": {"a": bare, "finetune@gone": {"outs": [{"path": "c"}]}}}, "dvc.lock")
    assert not_run(pipeline, params, lock, {"c": "1"}.get) == ["a: c is not what its run left"]
    sides = [SimpleNamespace(stages={"a": each}) for each in (bare, bare | {"outs": []})]
    assert reruns(*sides)[-1] == "| a | run again | changed |"

    for name in ("dvc.yaml", "root.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    left = tmp_path / "metrics/rows/gone.json"
    left.parent.mkdir(parents=True)
    left.write_text("mine")
    write_params(tmp_path)
    outs = [{"path": "metrics/rows/gone.json"}]
    (tmp_path / "dvc.lock").write_text(
        json.dumps({"schema": "2.0", "stages": {"evaluate@gone": {"outs": outs}}})
    )
    assert prune(tmp_path, dry=False) == [
        "dvc.lock: evaluate@gone",
        f"{left} stays: it is not what evaluate@gone left",
    ]
    assert left.read_text() == "mine"


@pytest.mark.parametrize(
    "stages", [3, {"compare": 3}, {"compare": {"cmd": "x"}}, {"a": {"foreach": "${nobody}"}}]
)
def test_a_dvc_yaml_of_another_shape(stages):
    """A dvc.yaml that was edited ends in a traceback of every script."""
    from vitscale.pipeline.graph import declared

    with pytest.raises(UserError, match=r"^dvc\.yaml is none of ours"):
        declared({"vars": [], "stages": stages}, {})


@pytest.mark.parametrize("content", [*DAMAGES.values(), b"{}"], ids=[*DAMAGES, "no keys"])
@pytest.mark.parametrize("name", ["metrics/rows/vit-digits.json", "metrics/history/finetune/vit-digits.json"])
def test_compare_by_hand_on_damaged_figures(name, content, done, forked, tmp_path):
    """`compare` by hand ends in a traceback where DVC hasn't seen a damaged file, or takes half of its table away."""
    folder = shutil.copytree(done, tmp_path / "repo", symlinks=True)
    (folder / name).write_bytes(content)
    (folder / "dvc.lock").unlink()  # by which it would be refused unread
    before = outputs(folder)
    result = run("python", "stages/compare.py", cwd=folder, check=False)
    [line] = result.stderr.splitlines()
    assert result.returncode == 1 and line.startswith("error: ") and name in line
    assert outputs(folder) == before
