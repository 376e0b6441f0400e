"""Where two trainings disagree, from the committed predictions alone."""

import json

import numpy as np
import pytest

from made import study
from vitscale.base.errors import UserError
from vitscale.base.files import write_metrics
from vitscale.data.arrays import Split
from vitscale.results.disagreements import predictions
from vitscale.results.tables import by_class

CLASSES = ["a", "b", "c"]
LABELS = np.array([2, 0, 1, 1, 0, 2, 2, 0])
SAID = {"one": np.array([2, 1, 1, 0, 0, 0, 2, 0]), "two": np.array([1, 0, 1, 1, 0, 2, 0, 2])}


def written(folder, **changes):
    """Return a study whose rows said that; `changes` replaces what a row said."""
    for row, said in {**SAID, **changes}.items():
        write_metrics(
            folder / f"rows/{row}.json", {"accuracy": 0.5} | by_class(LABELS, np.array(said), CLASSES)
        )
    rows = {row: {"start": "vit-scratch", "protocol": "full"} for row in SAID}
    return study(rows, {}, folder)


def split(labels=LABELS, classes=CLASSES):
    return Split(np.zeros((len(labels), 2, 2, 3), dtype=np.uint8), labels.astype(np.int64), classes)


def test_they_are_what_one_got_right_and_the_other_wrong(tmp_path):
    """Catches classes that are counted in another order than the images: other images would be shown."""
    found = predictions(written(tmp_path))
    for right, wrong in (("one", "two"), ("two", "one")):
        places = found.places(split())[found.between(right, wrong)]
        assert sorted(places) == np.flatnonzero((SAID[right] == LABELS) & (SAID[wrong] != LABELS)).tolist()
        assert found.said[wrong][found.between(right, wrong)].tolist() == SAID[wrong][places].tolist()


@pytest.mark.parametrize("here", [0, 3, 7])
def test_of_a_sample_the_images_are_the_same(tmp_path, here):
    """Catches a sample's images taken for others, or images that aren't there taken for some that are."""
    found = predictions(written(tmp_path))
    all_, some = found.places(split()), found.places(split(LABELS[:here]))
    assert some.tolist() == [place if place < here else -1 for place in all_]


def test_of_several_seeds_each_is_for_itself(tmp_path):
    """Catches two trainings of a row that are mixed, or that hide each other."""
    rows = {
        "one": {"start": "vit-scratch", "protocol": "full", "seed": [4, 1]},
        "two": {"start": "vit-scratch", "protocol": "full"},
    }
    written(tmp_path, one=[SAID["one"], SAID["two"]])
    found = predictions(study(rows, {}, tmp_path))
    assert list(found.said) == ["one/seed-1", "one/seed-4", "two"]
    assert (
        found.said["one/seed-4"].tolist() == found.said["two"].tolist() != found.said["one/seed-1"].tolist()
    )


def test_nothing_scored_is_no_error(tmp_path):
    """Catches a page that can't be opened before the first row is scored."""
    rows = {"one": {"start": "vit-scratch", "protocol": "full"}}
    assert predictions(study(rows, {}, tmp_path)) is None


def test_other_test_images_are_refused(tmp_path):
    """Catches images beside predictions that were made of others."""
    found = predictions(written(tmp_path))
    for other in (split(LABELS[::-1]), split(classes=["a", "c", "b"]), split(np.array([0, 0, 0, 0, 1]))):
        with pytest.raises(UserError, match="other test images than those that are here; run `dvc repro`"):
            found.places(other)


def test_what_does_not_fit_is_refused(tmp_path):
    """Catches a traceback, or a class that doesn't exist, where a row's figures are damaged or of other images."""
    with pytest.raises(UserError, match=r"two.json is damaged \(predicted: no such class\)"):
        predictions(written(tmp_path, two=SAID["two"] + 1))
    with pytest.raises(UserError, match="one was scored with other seeds than params.yaml names"):
        predictions(written(tmp_path, one=[SAID["one"], SAID["two"]]))
    found = written(tmp_path)
    path = tmp_path / "rows/two.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_labels_sha256": ["0"]}))
    with pytest.raises(UserError, match="two was scored on other test images than one; run `dvc repro`"):
        predictions(found)
