"""Names and values in params.yaml that would run a command or delete a file, from somebody who wrote nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest

from dvcyaml import body
from tiny import PARAMS, PIPELINES, ROOT, run
from vitscale.base.config import read_yaml
from vitscale.base.digests import digest

pytestmark = pytest.mark.usefixtures("forked")
ROW = PARAMS["rows"]["vit-digits"]
WORDS = [
    *("$(touch {x})", "`touch {x}`", "a; touch {x}", "a;touch x", "a | touch {x}", "a > {x}", "a >> {x}"),
    *(
        "a && touch {x}",
        "a || touch {x}",
        "a & touch {x}",
        "a\ntouch {x}",
        "a\rtouch {x}",
        "a\n",
        "<(touch {x})",
    ),
    *(
        "'; touch {x}; '",
        '"; touch {x}; "',
        "a\\",
        "$IFS",
        "${{HOME}}",
        "${{root}}",
        "${{rows}}",
        "\\${{key}}",
        "{{a,b}}",
    ),
    *(
        "~",
        "~root",
        "*",
        "?",
        "[a-z]",
        "!!",
        "#",
        "a:b",
        "a.b",
        " ",
        "a b",
        "-x",
        "--help",
        "é",
        "１",
        "\u202e",
    ),
    *("\u200b", "\x7f", "%s", "a" * 101),
]
slow = pytest.mark.slow
# Each alone, since DVC itself refuses most of them and says no more.
PATHS = [
    *("@", "a@b", "a" * 900),
    *(
        "../../../victim",
        "../../stages",
        "../../../../victim",
        "../../src/vitscale",
        "../..",
        ".",
        "..",
        "../../.git",
    ),
    *(
        "../../.dvc",
        "../../params.yaml",
        "../../root.yaml",
        "x/../../../stages",
        "{x}",
        "//",
        "../../data/../stages",
    ),
]


QUICK = ["../../../victim", "../../stages"]


def everything(folder: Path) -> dict[str, str]:
    """Return each file there with its digest, but for git's, DVC's and our state, and the output of `check`."""
    aside = {".git", "tmp", "cache", "__pycache__", ".vitscale", "report", "params.yaml", "checked.txt"}
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {path.as_posix(): digest(folder / path) for path in files if not aside & set(path.parts)}


@pytest.fixture
def attacked(done, tmp_path):
    """Return a function that writes parameters, types commands, and says what they printed when all is as it was."""
    folder = shutil.copytree(done, tmp_path / "home/repo", symlinks=True)
    canary = tmp_path / "canary"
    (folder.parent / "victim").mkdir()
    for name in ("victim.json", "victim.csv", "victim/file", "victim.txt"):
        (folder.parent / name).write_text("mine")

    def attack(params: dict, *commands: str) -> str:
        (folder / "params.yaml").write_text(json.dumps(params).replace("{x}", str(canary)))  # it is YAML too
        before, said = everything(folder.parent), ""
        for command in commands:
            done = run(*command.split(), cwd=folder, check=False)
            said += done.stdout + done.stderr
        assert not canary.exists() and not (folder / "x").exists()
        assert everything(folder.parent) == before
        assert "Traceback" not in said
        return said

    attack.folder = folder
    return attack


def rows(*names: str) -> dict:
    named = {name.replace("{{", "{").replace("}}", "}"): ROW for name in names}
    return PARAMS | {"rows": {"vit-digits": ROW, **named}}


@pytest.mark.parametrize(
    "commands",
    [
        ["dvc repro"],
        ["dvc exp run -S lr=0.01"],
        ["dvc exp run --queue -S lr=0.01", "dvc exp run --run-all"],
        pytest.param(["dvc exp run"], marks=slow),
        pytest.param(["dvc exp run --temp"], marks=slow),
        pytest.param(["dvc repro --keep-going"], marks=slow),
        pytest.param(["dvc repro --pull --allow-missing"], marks=slow),
    ],
    ids=lambda commands: commands[0].removeprefix("dvc "),
)
def test_names_of_a_shell(attacked, commands):
    """A row's name is typed into a shell, or its outputs are removed before it is refused."""
    said = attacked(rows(*WORDS), *commands)
    if "--queue" not in commands[0]:  # a worker's lines are in its log
        assert said.count("a name holds letters, digits, _ and - only") == len(set(WORDS)), said
    assert "Running stage 'finetune" not in said


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else slow) for name in PATHS])
def test_names_that_lead_elsewhere(attacked, name):
    """`dvc exp run` deletes a folder of the checkout, as the output of a row that has never run."""
    said = attacked(rows(name), "dvc exp run", "dvc repro", "dvc checkout")
    assert "ERROR" in said and "Running stage 'finetune" not in said


@slow
@pytest.mark.parametrize(
    "section", ["download", "prepare", "models", "pretrain", "weights", "features", "scaling"]
)
def test_other_sections(attacked, section):
    """A name of another section does what a row's can't."""
    entry = next(iter(PARAMS[section].values()), {})
    for names in (
        ["$(touch {x})", "a;touch {x}"],
        ["../../../stages"],
        ["../../stages"],
        ["../../../../victim"],
    ):
        attacked(
            PARAMS | {section: {**PARAMS[section], **dict.fromkeys(names, entry)}}, "dvc exp run", "dvc repro"
        )


@slow
@pytest.mark.parametrize("value", ["../../../victim", "../../stages", "$(touch {x})", "a;touch {x}", "/etc"])
@pytest.mark.parametrize("key", ["start", "inputs", "recipe", "augment", "target"])
def test_values_that_become_paths(attacked, key, value):
    """A value leads a stage to a folder elsewhere, or into a shell."""
    changed = PARAMS | (
        {"target": value} if key == "target" else {"rows": {"vit-digits": ROW | {key: value}}}
    )
    said = attacked(changed, "dvc repro")
    assert "params.yaml: " in said or "ERROR: " in said
    assert "Running stage 'finetune" not in said


@pytest.mark.parametrize("name", ["root", "vit", "resnet18", "key", "item"])
def test_what_dvc_yaml_fills_in(attacked, name):
    """params.yaml says where the scripts are that run: `root: /tmp/mine`."""
    said = attacked(PARAMS | {name: "{x}"}, "dvc repro")
    wanted = "will be overwritten" if name in ("key", "item") else f"cannot redefine '{name}'"
    assert wanted in said and "Running stage" not in said


def test_what_the_workflow_reads(attacked):
    """A name gets past the two commands that read params.yaml in a pull request."""
    for command in ("python -m vitscale report HEAD", "python -m vitscale check"):
        attacked(rows(*WORDS), command)


def test_outputs_stay_in_their_folders():
    """A pipeline whose .dvcignore lets DVC delete elsewhere, or that has an output where it is hidden."""
    ignored = (ROOT / ".dvcignore").read_text()
    for folder in PIPELINES:
        assert (ROOT / folder / ".dvcignore").read_text() == ignored, folder
    pipeline = read_yaml(ROOT / "dvc.yaml")
    outs = [
        out if isinstance(out, str) else next(iter(out))
        for stage in pipeline["stages"]
        for kind in ("outs", "metrics", "plots")
        for out in body(pipeline, stage).get(kind, [])
    ]
    assert {f"!/{out.split('/')[0]}" for out in outs} < set(ignored.splitlines())


def test_a_script_by_hand_names_its_entries(attacked, monkeypatch):
    """A script without its entry ends in a traceback, or works on another stage's; an inherited DVC_STAGE decides."""

    def said(*arguments: str, stage: str | None = None) -> str:
        env = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
        env |= {"DVC_STAGE": stage} if stage else {}
        done = run("python", *arguments, cwd=attacked.folder, check=False, env=env)
        assert "Traceback" not in done.stderr
        return done.stderr.strip()

    entries = "params.yaml has vit-digits"
    needs = "error: finetune needs the name of an entry as its argument"
    assert said("stages/finetune.py") == f"{needs}; {entries}"
    other = " (DVC_STAGE is pretrain@vit-digits, another script's)"
    assert said("stages/finetune.py", stage="pretrain@vit-digits") == f"{needs}{other}; {entries}"
    assert (
        said("stages/finetune.py", "x", stage="finetune@vit-digits")
        == f"error: finetune has no entry x; {entries}"
    )
    assert (
        said("stages/finetune.py", stage="a/dvc.yaml:finetune@x")
        == f"error: finetune has no entry x; {entries}"
    )
    assert "takes one argument" in said("stages/finetune.py", "a", "b")
    assert said("stages/compare.py", "x") == "error: compare is one stage and takes no argument, not x"
    assert "has nothing to do" in said("stages/weights.py")
    assert said("stages/init.py", "vit", stage="finetune@vit-digits") == ""
