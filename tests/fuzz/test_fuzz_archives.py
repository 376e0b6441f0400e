"""Archives of images, and files of labels in them."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st

from fuzz_archives import FILES, MEMBERS, ODD, zipped
from fuzzing import accepted, damaged, damages, fuzz
from vitscale.data.sources import SPLITS, Download, bring


def imported(form: str, content: bytes) -> None:
    """Import an archive into a folder of its own and hold it to what it says of itself."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setenv("VITSCALE_MIRROR", str(folder))
        patch.setenv("VITSCALE_THREADS", "1")
        ending = f".{form.split('.', 1)[1]}"
        (folder / f"things{ending}").write_bytes(content)
        entry = Download(source="imagefolder", image_size=4, sha256={"train": None, "test": None})
        found = accepted(
            lambda: bring("things", entry, folder / "out", folder / "kept"),
            folder,
            f"{folder}/things{ending}",
        )
        assert found is None or set(found) == set(SPLITS)
        left = {path.name for path in folder.iterdir()} - {f"things{ending}", "out", "kept"}
        assert not left, left


@fuzz(
    st.sampled_from(sorted(FILES)).flatmap(
        lambda form: damages().map(lambda places: (form, damaged(FILES[form], places)))
    ),
    60,
)
def test_damaged_archives(case):
    """A damaged archive ends in a traceback, a hang, much memory, or files beside its folder."""
    imported(*case)


@st.composite
def made(draw) -> tuple[str, bytes]:
    """Draw an archive with odd members, of odd contents."""
    names = st.sampled_from(ODD) | st.text(max_size=30).map(lambda text: f"train/{text}.png")
    more = draw(
        st.dictionaries(names, st.sampled_from([b"", b"GIF89a", MEMBERS["train/cat/0000.png"]]), max_size=4)
    )
    return ".zip", zipped(MEMBERS | more)


@fuzz(made(), 60)
def test_odd_members(case):
    """A member's name leads out of the folder, or into a traceback."""
    imported(*case)
