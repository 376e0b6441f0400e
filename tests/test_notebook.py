"""docs/colab.ipynb: as it is committed, and run from top to bottom on this machine's CPU.

What a run here leaves out: Colab itself, the cell that installs there, and part 5, which is for a GPU. `dvc repro` is in it as
it stands; what examples/digits' cache has, from a run of this very code, isn't trained again: .ci/run has it, else it takes minutes.
"""

import os
import re

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tiny import ROOT

PATH = ROOT / "docs/colab.ipynb"


def test_it_is_committed_without_outputs():
    """Catches a notebook that was saved after a run: pictures, paths and times of one machine in every diff."""
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


def test_its_lock_is_the_locks_and_leaves_torch_alone():
    """Catches another version than requirements.txt's, a package of torch's in it, and one of training's that isn't."""
    lock, ours = ((ROOT / name).read_text() for name in ("requirements.txt", "requirements-colab.txt"))
    pins, taken = (set(re.findall(r"^([\w-]+==[^ \n]+)", text, re.MULTILINE)) for text in (lock, ours))
    assert taken < pins and ours.count("-e .") == 1
    names = {pin.split("==")[0] for pin in taken}
    assert not [name for name in names if re.match("torch|nvidia|cuda|triton", name)]
    asked = (ROOT / "requirements-colab.in").read_text().splitlines()
    project = (ROOT / "pyproject.toml").read_text()
    train = re.findall(
        r'^    "([\w-]+)',
        re.search(r"^train = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)[1],
        re.MULTILINE,
    )
    assert sorted([*asked[-8:], "torch", "torchvision"]) == sorted(train)


def test_a_line_that_fails_stops_it(tmp_path, monkeypatch):
    """Catches a failed `git clone` or `dvc repro` after which "Run all" goes on, and fails elsewhere in other words."""
    monkeypatch.setenv("REPOSITORY", str(tmp_path / "nowhere"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(PATH, as_version=4)
    with pytest.raises(
        CellExecutionError, match="git clone -q .*nowhere vitscale` failed: its last lines above say why"
    ):
        NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """Catches a cell that fails, a command that ends otherwise than well, and an output that isn't shown."""
    cache = ROOT / "examples/digits/.dvc/cache"
    config = tmp_path / "config/dvc/config"
    config.parent.mkdir(parents=True)
    config.write_text(f"[cache]\n    dir = {cache}\n" if cache.is_dir() else "")
    for name, value in {
        "REPOSITORY": ROOT,
        "XDG_CONFIG_HOME": tmp_path / "config",
        "DVC_SITE_CACHE_DIR": tmp_path / "site",
        "IPYTHONDIR": tmp_path / "ipython",
        # The program `vitscale` is this environment's, its code the clone's.
        "PYTHONPATH": tmp_path / "vitscale/src",
        "VITSCALE_DEVICE": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    if keep := os.environ.get("VITSCALE_NOTEBOOK"):  # to look at it
        nbformat.write(notebook, keep)

    def said(command):
        """Return what the one cell with such a line printed, and which kinds of output it has."""
        (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and command in cell.source)
        kinds = [set(out.get("data", {})) for out in cell.outputs]
        return "".join(out.get("text", "") for out in cell.outputs), set().union(*kinds)

    assert {"text/markdown", "image/svg+xml"} <= said("summary.md")[1]
    text, probe = said("dvc exp run -S rows")[0], "resnet18-digits-probe"
    stages = set(re.findall(r"Running stage '(.+?)'", text) + re.findall(r"Stage '(.+?)' is cached", text))
    assert stages - {"check"} == {f"finetune@{probe}", f"evaluate@{probe}", "compare"}
    assert re.search(rf"{probe}.json +accuracy ", text)  # of `dvc metrics diff`
    text = said("git checkout -q params.yaml")[0]
    assert not re.search("Running stage '(pretrain|finetune|features)", text)
    assert f"'finetune@{probe}' is cached" in text
    text, kinds = said("vitscale predict")
    assert re.search(r"a-5.png +5 +\d+\.\d%", text) and "image/png" in kinds
    assert "text/html" in said("dvc plots show")[1]
    assert "No GPU here, so nothing is trained" in said("vit-scratch")[0]
