"""Parameters that a pull request may bring."""

import shutil

import pytest
import yaml

from hostile import parameters, run, tree

CASES = parameters()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("name", CASES, ids=[ascii(name)[1:60] + f"-{i}" for i, name in enumerate(CASES)])
def test_a_hostile_parameter(done, tmp_path, name):
    """It ends in a traceback, a hang, a command that runs, or a stage that leaves half of something."""
    params, stage = CASES[name]
    folder = shutil.copytree(done, tmp_path / "repo", symlinks=True)
    (folder / "params.yaml").write_text(
        yaml.safe_dump(params, sort_keys=False, allow_unicode=True), errors="surrogatepass"
    )
    before = tree(folder)
    checked = run("python", "-m", "vitscale", "check", cwd=folder, PYTHONPATH=str(folder / "src"))
    assert tree(folder) == before
    script, *key = stage.split()
    ran = run("python", f"stages/{script}.py", *key, cwd=folder)
    assert not checked.returncode or ran.returncode, "a stage runs what `check` refuses"
    assert not ran.returncode or tree(folder) == before
