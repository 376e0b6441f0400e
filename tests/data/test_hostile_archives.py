"""Archives and images, given to the stage that imports them."""

import random

import pytest

import oddities
from fuzz_archives import FILES, MEMBERS, ODD, zipped
from fuzzing import damaged
from hostile import CANARY, run
from tiny import ROOT
from works import UNKNOWN


def cases() -> dict[str, tuple[str, bytes | dict]]:
    """Return 100 archives, or files of a folder, by name."""
    draws, forms = random.Random(0), sorted(FILES)
    found: dict = {
        f"{name!r} in a zip": (".zip", zipped(MEMBERS | {name: b"GIF89a"})) for name in ODD if name
    }
    found |= {
        f"{name} for an image": ("", MEMBERS | {"train/cat/odd.png": content})
        for name, content in oddities.not_taken().items()
    }
    while len(found) < 100:
        form, place, what = forms[len(found) % len(forms)], draws.random(), draws.randrange(1, 259)
        found[f"{form} {place:.4f} {what}"] = (
            f".{form.split('.', 1)[1]}",
            damaged(FILES[form], [(place, what)]),
        )
    return found


CASES = cases()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("name", CASES, ids=[ascii(name)[1:60] + f"-{i}" for i, name in enumerate(CASES)])
def test_a_hostile_archive(work, name):
    """It ends in a traceback, a hang, much memory, a command that runs, or files where none belong."""
    form, content = CASES[name]
    work.params(things={"source": "imagefolder", "image_size": 4, "sha256": UNKNOWN})
    if form:
        (work.mirror / f"things{form}").write_bytes(content)
    else:
        work.put("things", content)
    before = work.everything()
    ran = run(
        "python",
        f"{ROOT}/stages/download.py",
        "things",
        cwd=work.folder,
        VITSCALE_MIRROR=str(work.mirror),
        VITSCALE_THREADS="1",
    )
    after = work.everything()
    assert not list(work.top.rglob(CANARY))
    allowed = f"{work.folder}/data/raw/things", f"{work.folder}/timings.csv"
    changed = {path for path in before.keys() | after.keys() if before.get(path, 0) != after.get(path, 0)}
    assert not [path for path in changed if ran.returncode or not path.startswith(allowed)], changed
