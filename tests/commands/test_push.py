"""`vitscale export --push` to a stand-in of the hub: what arrives, and what is said where it doesn't."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from hub import serving, use
from pushed import READS, WRITES, TakingHub, reply
from vitscale.base.digests import digest
from vitscale.base.errors import UserError
from vitscale.commands.main import main
from vitscale.commands.push import prepare, push

NAME = "me/model"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving(TakingHub(tmp_path / "hub")) as hub:
        use(monkeypatch, hub, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", WRITES)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub


@pytest.fixture
def folder(tmp_path):
    """A folder as an export leaves one: text, and two files that the hub takes as large."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: other\n---\n# A model\n")
    (folder / "config.json").write_text("{}\n")
    (folder / "model.onnx").write_bytes(os.urandom(200_000))
    (folder / "model.safetensors").write_bytes(os.urandom(300_000))
    return folder


def fetched(tmp_path):
    """Return the digest of what a colleague gets from the hub, who has nothing in a cache."""
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    snapshot_download(NAME, local_dir=place / "files", cache_dir=place / "cache", token=WRITES)
    shutil.rmtree(place / "files/.cache")  # what the hub's client notes beside the files
    return digest(place / "files")


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_what_arrives_is_the_folder(hub, folder, tmp_path, monkeypatch, xet):
    """Catches a file that is left out, changed or sent in a commit of its own, by either way of large files."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    assert push(folder, NAME, False, "vit") == f"{hub.url}/{NAME}"
    assert fetched(tmp_path) == digest(folder)
    assert [each["title"] for each in hub.commits[NAME]] == ["vitscale export vit"]
    assert bool(hub.objects) != xet and any("xet-write-token" in path for path in hub.asked) == xet


def test_a_second_push_updates(hub, folder, tmp_path):
    """Catches a push that fails where the repository is there, leaves another model's files, or takes somebody's own."""
    push(folder, NAME, False, "vit")
    (hub.folder / NAME / "my-notes.md").write_text("mine")
    (folder / "model.onnx").write_bytes(os.urandom(100_000))
    (folder / "model.safetensors").unlink()
    push(folder, NAME, False, "vit")
    assert hub.commits[NAME][1] == {
        "title": "vitscale export vit", "files": ["model.onnx"], "gone": ["model.safetensors"]
    }  # fmt: skip
    (folder / "my-notes.md").write_text("mine")
    assert fetched(tmp_path) == digest(folder)
    push(folder, NAME, False, "vit")
    assert len(hub.commits[NAME]) == 2  # nothing is new


def test_private_is_private(hub, folder):
    """Catches a private push that anybody can read, into a new repository or into one that is public."""
    push(folder, NAME, True, "vit")
    assert hub.private == {NAME}
    push(folder, NAME, True, "vit")
    push(folder, "me/other", False, "vit")
    assert hub.private == {NAME}
    with pytest.raises(
        UserError, match="me/other is there already, and public, so nothing was sent"
    ) as caught:
        push(folder, "me/other", True, "vit")
    assert (
        f"`hf upload me/other {folder} --private`" in str(caught.value) and len(hub.commits["me/other"]) == 1
    )
    with pytest.raises(UserError, match="it needs --push"):
        prepare(None, True)


@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        ("model", WRITES, "--push model is no name of a repository: give USER/NAME"),
        ("me/a b", WRITES, "--push me/a b is no name of a repository (Repo id must use alphanumeric"),
        (NAME, None, "there is no token of the hub; `hf auth login`"),
        (NAME, "hf_old", "refuses the token; `hf auth login` with a token of the kind write"),
        (NAME, READS, "the token may only read; `hf auth login` with a token of the kind write"),
    ],
    ids=["no-owner", "a-space", "no-token", "refused", "reads-only"],
)
def test_what_is_wrong_is_said_before_the_export(hub, monkeypatch, name, token, words):
    """Catches a name or a token that fails only after the export, in the client's own many lines."""
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError) as caught:
        prepare(name, False)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert ("HF_TOKEN is set" in str(caught.value)) == (token in ("hf_old", READS))
    assert not hub.commits


def test_no_network(hub, folder, monkeypatch):
    """Catches a hub that can't be reached, or HF_HUB_OFFLINE, that ends in the HTTP library's words alone."""
    prepare(NAME, False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE keeps the hub's client off the network; unset it"):
        prepare(NAME, False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="nothing is exported: http://127.0.0.1:1 can't be reached"):
        prepare(NAME, False)
    with pytest.raises(
        UserError, match="export is exported but not pushed: http://127.0.0.1:1 can't be reached"
    ):
        push(folder, NAME, False, "vit")


@pytest.mark.parametrize(
    ("name", "part", "broken", "words"),
    [
        ("somebody/model", None, None, "the token may not write to somebody/model: take a name of your own"),
        (NAME, "/storage/", (403, {}, b""), "'s storage answers 403 (Forbidden)"),
        (NAME, "/objects/batch", (413, {}, b"too large"), "answers 413 (too large)"),
        (NAME, "/commit/", (500, {}, b""), "answers 500 (Internal Server Error)"),
        (NAME, "/commit/", None, "can't be reached, or broke off (Server disconnected"),
        (
            NAME,
            "/validate-yaml",
            (400, {}, b'{"errors": [{"message": "\\"license\\" is required"}]}'),
            '"license" is',
        ),
    ],
    ids=["somebody-elses", "storage-refuses", "too-large", "server", "disconnected", "card"],
)
def test_a_push_that_breaks(hub, folder, name, part, broken, words):
    """Catches a push that breaks midway and leaves half a commit, takes the folder along, or doesn't say how to go on."""
    before = digest(folder)
    if part:
        hub.broken[part] = broken
    with pytest.raises(UserError) as caught:
        push(folder, name, False, "vit")
    said = str(caught.value)
    assert words in said and said.startswith(f"{folder} is exported but not pushed: ") and "\n" not in said
    assert digest(folder) == before and not hub.commits
    assert not list(hub.folder.glob("me/model/*"))


def test_what_the_line_says_sends_it(hub, folder, tmp_path):
    """Catches a way out that doesn't work: the command that the line names, once what broke is mended."""
    hub.broken["/commit/"] = (503, {}, b"")
    with pytest.raises(UserError) as caught:
        push(folder, NAME, True, "vit")
    hub.broken.clear()
    again = shlex.split(re.search("`(hf upload .*)` sends it$", str(caught.value))[1])
    assert again == ["hf", "upload", NAME, str(folder), "--private"]
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    subprocess.run(again, check=True, env=os.environ | settings, capture_output=True)
    assert fetched(tmp_path) == digest(folder) and hub.private == {NAME}


def test_stopped_by_the_keyboard(hub, folder, monkeypatch):
    """Catches "run it again" after Ctrl-C, which the folder that is there would refuse."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", stop)
    with pytest.raises(KeyboardInterrupt, match="export is whole: `hf upload me/model .*export` sends it"):
        push(folder, NAME, False, "vit")


def test_what_the_hub_says_of_the_card_is_a_note(hub, folder, capsys):
    """Catches a warning of the hub's that is lost, or comes with a path of site-packages and a line of code."""
    hub.broken["/validate-yaml"] = reply(
        {"errors": [], "warnings": [{"message": "empty or\nmissing metadata"}]}
    )
    push(folder, NAME, False, "vit")
    notes = [
        line for line in capsys.readouterr().err.splitlines() if "arning" in line or line.startswith("note")
    ]
    assert notes == ["note: Warnings while validating metadata in README.md: - empty or missing metadata"]


def test_the_command(hub, finished, tmp_path, monkeypatch, capsys):
    """Catches a command that doesn't push what it exports, exports what it can't push, or says it in many lines."""

    def run(destination):
        main(["export", "vit-mean", str(destination), "--pipeline", str(finished), "--push", NAME])

    run(tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/{NAME}: pushed"
    assert fetched(tmp_path) == digest(tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(SystemExit, match="^error: nothing is exported: .* refuses the token; .*$"):
        run(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_push_by_xet_that_breaks(hub, folder, monkeypatch):
    """Catches a refusal of xet's storage that ends in the words of hf_xet alone, or leaves a commit."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.broken["/xet-write-token/"] = (403, {}, b"")
    with pytest.raises(UserError) as caught:
        push(folder, NAME, False, "vit")
    said = str(caught.value)
    assert said.startswith(f"{folder} is exported but not pushed: ") and "\n" not in said and "403" in said
    assert f"`hf upload {NAME} {folder}` sends it" in said and not hub.commits
