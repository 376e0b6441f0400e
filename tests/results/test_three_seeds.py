"""Three trainings of a pretrained row and of its controls, as the study has them: one line, one point, one gain each."""

from dataclasses import replace

import numpy as np
import pytest

from made import study
from vitscale.base.files import write_json, write_metrics
from vitscale.results.configurations import configurations
from vitscale.results.metrics import Trained, difference, spread_of
from vitscale.results.picture import points
from vitscale.results.study import Study
from vitscale.results.summary import accuracy_table, headline, summarise
from vitscale.results.tables import by_class

LABELS = np.arange(300) % 4
SEEDED = {"vit": 0, "vit-1": 1, "vit-2": 2}
MODELS = {name: {"architecture": "vit", "dim": 8, "seed": seed} for name, seed in SEEDED.items()}
# Each seed has its pretraining: of a model with another seed, or of the same.
PRETRAINED = {
    "models": {f"big-{i}": {"model": model, "seed": i} for i, model in enumerate(MODELS)},
    "one model": {f"big-{i}": {"model": "vit", "seed": i} for i in range(3)},
}
TUNED = {f"big-{i}": {"start": f"big-{i}", "seed": i} for i in range(3)}
# So have the controls: three rows of a model of their own each, three rows of one, or one row.
SCRATCH = {
    "models": [{"start": f"{model}-scratch", "seed": i} for i, model in enumerate(MODELS)],
    "one model": [{"start": "vit-scratch", "seed": i} for i in range(3)],
    "list": [{"start": "vit-scratch", "seed": [0, 1, 2]}],
    "other seeds": [{"start": "vit-scratch", "seed": [7, 8, 9]}],
}
RIGHT = {"big": (250, 261, 255), "scratch": (210, 222, 213), "long": (262, 250, 244)}


def hits(count: int, seed: int) -> np.ndarray:
    """Return which of the test images one training got right."""
    return np.random.default_rng(seed).permutation(len(LABELS)) < count


TRAINED = {
    name: np.stack([hits(count, 10 * i + j) for j, count in enumerate(RIGHT[name])])
    for i, name in enumerate(RIGHT)
}


@pytest.fixture(params=[(a, b) for a in PRETRAINED for b in SCRATCH], ids=" and ".join)
def made(request, tmp_path) -> Study:
    """A study whose pretraining takes 2 epochs and whose rows 1, or 3 where they are the longer controls."""
    pretrain = {
        name: each | {"data": "much", "epochs": 2} for name, each in PRETRAINED[request.param[0]].items()
    }
    controls = SCRATCH[request.param[1]]
    rows = dict(TUNED)
    for kind, epochs in (("scratch", 1), ("long", 3)):
        rows |= {f"{kind}-{i}": each | {"epochs": epochs} for i, each in enumerate(controls)}
    for name in rows:
        kind, number = name.split("-")
        correct = TRAINED[kind] if len(controls) == 1 and kind != "big" else TRAINED[kind][int(number)]
        predictions = by_class(LABELS, np.where(correct, LABELS, (LABELS + 1) % 4), list("abcd"))
        figures = {"accuracy": float(correct.mean()), "ece": 0.1, "parameters": 1000}
        write_metrics(tmp_path / f"rows/{name}.json", figures | predictions)
        write_json(tmp_path / f"history/finetune/{name}.json", {"validation_accuracy": 0.5, "epochs": []})
    rows = {name: row | {"protocol": "full"} for name, row in rows.items()}
    published = {"big-0": {"accuracy": 0.6, "protocol": "full"}}
    return study(rows, pretrain, tmp_path, models=MODELS, published=published)


def test_one_line_with_gains_of_three_against_three(made):
    """Catches a control that goes unfound where its seeds stand in a list, or where a model of its own has them."""
    spread = spread_of(TRAINED.values())
    big, scratch, long = (Trained(correct=TRAINED[kind], spread=spread) for kind in RIGHT)
    head, *lines = (
        line.strip("| ").split(" | ") for line in summarise(made).splitlines() if line.startswith("| ")
    )
    found = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    assert list(found) == ["big-0", "scratch-0", "long-0"]
    assert {line["over"] for line in found.values()} == {"3 trainings; test images and trainings"}
    for name, control in (("over scratch", scratch), ("over longer scratch", long)):
        value, half = difference(big, control)
        assert found["big-0"][name] == f"{value:+.2%} ± {half:.2%}"
    low, high = big.interval
    assert found["big-0"]["95% interval"] == f"{low:.2%} to {high:.2%}"


def test_one_point_with_the_interval_over_trainings(made):
    """Catches three points of one configuration, each with an interval over test images alone."""
    wanted = [(each.rows[0], each.accuracy, *each.interval) for each in configurations(made)]
    assert [name for name, *_ in wanted] == ["big-0", "scratch-0", "long-0"]
    ours = [point for point in points(made) if "low" in point]
    assert [(each["row"], each["accuracy"], each["low"], each["high"]) for each in ours] == wanted
    assert [each["data"] for each in ours] == ["much", "nothing", "nothing"]
    assert {each["over"] for each in ours} == {"3 trainings; test images and trainings"}
    assert [tuple(line[:4]) for line in accuracy_table(made)] == wanted
    assert [line[4] for line in accuracy_table(made)] == [0.6, "", ""]


def test_the_headline_has_each_row(made):
    """Catches experiments that can't be compared row by row, or a model for each seed."""
    found = headline(made)
    assert found["validation"] == {"vit": 0.5}
    assert {name for name in found if name.startswith("test/")} == {f"test/{row}" for row in made.rows}


def test_a_control_of_which_the_first_row_was_not_run(made):
    """Catches a gain that is left out until the control's first row has run, though others have."""
    others = replace(made, figures=lambda name: None if name == "rows/scratch-0.json" else made.figures(name))
    [line] = [line for line in summarise(others).splitlines() if line.startswith("| big-0 |")]
    assert (line.split(" | ")[8] == "—") == ("scratch-1" not in made.rows)
