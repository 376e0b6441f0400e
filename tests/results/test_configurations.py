"""Rows that differ in their seeds alone are one configuration, with one line in the summary."""

import numpy as np
import pytest

from made import study
from vitscale.base.entries import Weights
from vitscale.base.errors import UserError
from vitscale.base.files import write_json, write_metrics
from vitscale.results.configurations import configurations
from vitscale.results.summary import summarise
from vitscale.results.tables import by_class

LABELS = np.arange(200) % 4
ROW = {"start": "vit-scratch", "protocol": "full"}
MODELS = {"vit": {"dim": 8, "seed": 0}, "vit-1": {"dim": 8, "seed": 1}, "wide": {"dim": 9, "seed": 0}}


def write(folder, name: str, *right: int, labels=LABELS, ece=0.0) -> None:
    """Write what a row leaves whose trainings, one or several, have so many images right."""
    predicted = np.stack([np.where(np.arange(200) < each, labels, (labels + 1) % 4) for each in right])
    predictions = by_class(labels, predicted if len(right) > 1 else predicted[0], list("abcd"))
    figures = {"accuracy": np.mean(right) / 200, "ece": ece, "parameters": 1000}
    write_metrics(folder / f"rows/{name}.json", figures | predictions)


def lines(rows: dict, folder, **others) -> list[list[str]]:
    text = summarise(study(rows, others.pop("pretrain", {}), folder, models=MODELS, **others))
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")][2:]


def test_rows_of_one_configuration_are_one_line(tmp_path):
    """Three rows for three seeds are three lines, each with an interval that leaves out the other seeds."""
    rows = {f"s{seed}": ROW | {"seed": seed} for seed in range(3)} | {"other": ROW | {"epochs": 9}}
    rows["s1"] = rows["s1"] | {"start": "vit-1-scratch"}  # a seed is that of the weights too
    for name, right in zip(rows, (100, 110, 120, 90)):
        write(tmp_path, name, right)
    first, second = lines(rows, tmp_path)
    assert [first[0], first[4], first[7]] == ["s0", "55.00%", "3 trainings; test images and trainings"]
    # `other` has one training; how far those of this model lie apart is known from its like.
    assert [second[0], second[7]] == ["other", "one training; test images and trainings"]


@pytest.mark.parametrize(
    "change", [{"epochs": 9}, {"start": "wide-scratch"}, {"protocol": "linear_probe"}, {"fraction": 0.5}]
)
def test_rows_that_differ_in_more_stay_apart(tmp_path, change):
    """A longer training, or another model, counts as another seed."""
    rows = {"a": ROW, "b": ROW | {"seed": 1} | change}
    for name in rows:
        write(tmp_path, name, 100)
    assert [each.rows for each in configurations(study(rows, {}, tmp_path, models=MODELS))] == [["a"], ["b"]]


def test_the_same_seed_twice_is_one_training(tmp_path):
    """A row that was copied under another name makes the interval smaller."""
    rows = {"a": ROW, "b": ROW, "c": ROW | {"seed": 1}}
    for name, right in zip(rows, (100, 100, 110)):
        write(tmp_path, name, right)
    found = configurations(study(rows, {}, tmp_path, models=MODELS))
    assert [each.rows for each in found] == [["a", "c"], ["b"]] and found[0].spread.freedom == 1


def test_a_list_of_seeds_is_several_trainings(tmp_path):
    """A row with a list of seeds has the interval of one training, or another one than as many rows."""
    write(tmp_path, "many", 100, 110, 120)
    for seed, right in enumerate((100, 110, 120)):
        write(tmp_path, f"s{seed}", right)
    [many] = configurations(study({"many": ROW | {"seed": [0, 1, 2]}}, {}, tmp_path, models=MODELS))
    rows = {f"s{seed}": ROW | {"seed": seed} for seed in range(3)}
    [single] = configurations(study(rows, {}, tmp_path, models=MODELS))
    assert many.interval == single.interval and many.covers == single.covers
    assert np.array_equal(many.correct, single.correct) and many.correct.shape == (3, 200)


def test_the_calibration_error_is_the_mean_over_trainings(tmp_path):
    """Catches the ECE of a configuration's first row alone, or a row of three seeds that counts as one training."""
    rows = {"three": ROW | {"seed": [0, 1, 2]}, "one": ROW | {"seed": 3}, "other": ROW | {"epochs": 9}}
    for name, ece in (("three", 0.02), ("one", 0.10), ("other", 0.5)):
        write(tmp_path, name, *range(100, 100 + (3 if name == "three" else 1)), ece=ece)
    assert [line[6] for line in lines(rows, tmp_path)] == ["4.0%", "50.0%"]
    text = summarise(study(rows, {}, tmp_path, models=MODELS))
    assert text.index("| ECE |") > text.index("| 95% interval |") and "*ECE*: " in text


def test_fine_tunings_of_one_start_are_no_pretrainings(tmp_path):
    """Three fine-tunings of one pretraining pass for three trainings, whose spread has that of pretraining in it."""
    pretrain = {"big": {"model": "vit", "data": "x"}, "big-1": {"model": "vit-1", "data": "x", "seed": 1}}
    rows = {"one": ROW | {"start": "big", "seed": [0, 1]}}
    write(tmp_path, "one", 100, 110)
    [line] = lines(rows, tmp_path, pretrain=pretrain)
    assert line[7] == "2 fine-tunings of one start; test images and fine-tunings"
    rows = {"a": ROW | {"start": "big"}, "b": ROW | {"start": "big-1", "seed": 1}}
    write(tmp_path, "a", 100)
    write(tmp_path, "b", 110)
    [line] = lines(rows, tmp_path, pretrain=pretrain)
    assert line[7] == "2 trainings; test images and trainings"


def test_other_test_images_in_one_configuration_are_refused(tmp_path):
    rows = {"a": ROW, "b": ROW | {"seed": 1}}
    write(tmp_path, "a", 100)
    write(tmp_path, "b", 100, labels=LABELS[::-1])
    with pytest.raises(UserError, match="b was scored on other test images than a; run `dvc repro`"):
        configurations(study(rows, {}, tmp_path, models=MODELS))


def test_a_single_training_claims_no_gain(tmp_path):
    """A difference of two single trainings stands there as if other seeds would show it too."""
    pretrain = {"big": {"model": "vit", "data": "x"}}
    rows = {"a": ROW | {"start": "big"}, "scratch": ROW}
    for name, right in (("a", 150), ("scratch", 100)):
        write(tmp_path, name, right)
    assert lines(rows, tmp_path, pretrain=pretrain)[0][8].endswith(", test images only")
    rows |= {"a1": ROW | {"start": "big", "seed": 1}, "s1": ROW | {"seed": 1}}
    for name, right in (("a1", 151), ("s1", 99)):
        write(tmp_path, name, right)
    assert "test images only" not in " ".join(map(" ".join, lines(rows, tmp_path, pretrain=pretrain)))


HUB = {"source": "huggingface", "name": "a/vit", "data": "imagenet", "license": "MIT", "revision": "0" * 40}


@pytest.mark.parametrize(
    ("pinned", "recorded", "said"),
    [
        ("ab" * 32, "ab" * 32, None),
        ("ab" * 4, "ab" * 32, None),
        (
            "ab" * 32,
            "cd" * 32,
            f"came from files with the sha256 {'cd' * 32}; the committed figures came from {'ab' * 32}.",
        ),
        (None, "cd" * 32, f"came from files with the sha256 {'cd' * 32}; params.yaml names none."),
        ("ab" * 32, None, "which files its weights came from was not recorded when it ran."),
    ],
)
def test_other_weights_are_said(tmp_path, pinned, recorded, said):
    """A row of the hub's weights stands where the committed figures came from a near copy, and no table tells."""
    rows = {"tiny": ROW | {"start": "hub"}, "scratch": ROW}
    weights = {"hub": Weights(**HUB, sha256=pinned)}
    for name in rows:
        write(tmp_path, name, 100)
        kept = {"weights_sha256": [recorded]} if recorded and name == "tiny" else {}
        write_json(tmp_path / f"history/finetune/{name}.json", {"epochs": []} | kept)
    text = summarise(study(rows, {}, tmp_path, models=MODELS, weights=weights))
    line = next(line for line in text.splitlines() if line.startswith("| tiny |"))
    assert ("50.00% †" in line) == ("\n† tiny: " in text) == (said is not None)
    assert said is None or text.endswith(f"{said}\n")
