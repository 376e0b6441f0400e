"""Configurations: the rows of a study that differ in their seeds alone, and what they got right together."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np

from vitscale.base.entries import Row
from vitscale.base.errors import UserError
from vitscale.results.metrics import Spread, Trained, difference, spread_of
from vitscale.results.study import Study
from vitscale.results.tables import hits

VARIED = ("model", "start", "inputs", "seed")  # what rows of one configuration may differ in, beside names


@dataclass(kw_only=True)
class Configuration(Trained):
    """Rows that differ in their seeds alone, by name. `model`: an entry of `models`, or of `weights`.

    `start` is the one that all of them have, and that was trained.
    """

    rows: list[str]
    model: str
    protocol: str
    fraction: float
    test_images: list[str]  # their fingerprint
    start: str | None

    @property
    def pool(self) -> tuple[str, str, float, str | None]:
        """What configurations have in common whose spread is taken to be the same."""
        return self.model, self.protocol, self.fraction, self.start

    @property
    def covers(self) -> str:
        """What an interval is over; fine-tunings of one start say nothing of another pretraining."""
        if len(self.correct) == 1 or self.start is None:
            return super().covers
        return f"{len(self.correct)} fine-tunings of one start; test images and fine-tunings"


def common(entry: dict) -> str:
    """Return what an entry shares with those that differ from it in their seeds alone, as one text."""
    return json.dumps({name: value for name, value in entry.items() if name not in VARIED}, sort_keys=True)


def model_names(models: dict[str, dict]) -> dict[str, str]:
    """Return, for each entry of `models`, the name of the first that differs from it in the seed alone."""
    first: dict[str, str] = {}
    return {name: first.setdefault(common(entry), name) for name, entry in models.items()}


def model_of(row: Row, study: Study) -> str:
    """Return the model of a row's start, or the start itself where others trained it."""
    names = model_names(study.models)
    of_start = {f"{model}-scratch": name for model, name in names.items()}
    if pretraining := study.pretrain.get(row.start):
        return names.get(pretraining.model, pretraining.model)
    return of_start.get(row.start, row.start)


def alike(row: Row, study: Study) -> tuple[str, str, str]:
    """Return what the rows of one configuration have in common: all but the seeds, of pretraining too."""
    pretraining = study.pretrain.get(row.start)
    return model_of(row, study), common(asdict(row)), common(asdict(pretraining) if pretraining else {})


def controls_of(row: str, study: Study, more_epochs: bool = False) -> list[str]:
    """Return the rows that differ from this one only in that they were not pretrained, and in seeds.

    With `more_epochs` they are those that were fine-tuned for the epochs of the pretraining too.
    """
    entry = study.rows[row]
    pretraining = study.pretrain.get(entry.start)
    if pretraining is None:
        return []
    epochs = entry.epochs + more_epochs * pretraining.epochs
    wanted = alike(replace(entry, start=f"{pretraining.model}-scratch", epochs=epochs), study)
    return [name for name, other in study.rows.items() if alike(other, study) == wanted]


def pool_spreads(found: Iterable[tuple[tuple, Trained]]) -> None:
    """Give each, beside what it has in common with others, the spread of all that have that in common.

    A few trainings say little by themselves.
    """
    pools: dict[tuple, list[Trained]] = {}
    for pool, each in found:
        pools.setdefault(pool, []).append(each)
    for alike_ones in pools.values():
        spread: Spread | None = spread_of(each.correct for each in alike_ones)
        for each in alike_ones:
            each.spread = spread


def configurations(study: Study) -> list[Configuration]:
    """Return the configurations of all rows that have been run, in the order of their first rows.

    The spread of trainings is pooled over a model's configurations of one protocol and fraction. Rows with
    the same seed are no two trainings and stay apart. Raises UserError where the rows of one were scored on
    different test images.
    """
    groups: dict[tuple, Configuration] = {}
    seeds: dict[tuple, list[int]] = {}
    for name, row in study.rows.items():
        figures = study.score(name)
        if not figures:
            continue
        key: tuple = alike(row, study)
        if set(row.seeds) & set(seeds.get(key, [])):
            key = (*key, name)
        seeds.setdefault(key, []).extend(row.seeds)
        correct, images = hits(figures), figures["test_labels_sha256"]
        start = row.start if row.start in study.pretrain or row.start in study.weights else None
        if key not in groups:
            groups[key] = Configuration(
                rows=[name],
                model=model_of(row, study),
                protocol=row.protocol,
                fraction=row.fraction,
                start=start,
                correct=correct,
                test_images=images,
            )
            continue
        group = groups[key]
        if group.test_images != images:
            raise UserError(f"{name} was scored on other test images than {group.rows[0]}; run `dvc repro`")
        group.rows.append(name)
        group.start = start if start == group.start else None
        group.correct = np.concatenate([group.correct, correct])
    found = list(groups.values())
    for each in found:
        if len(each.correct) == 1:
            each.start = None
    pool_spreads((each.pool, each) for each in found)
    return found


def gain(first: Configuration, second: Configuration) -> tuple[float, float]:
    """Return how much more accurate the first is, and half the 95% interval of that.

    Raises UserError where they were scored on different test images.
    """
    if first.test_images != second.test_images:
        names = f"{first.rows[0]} and {second.rows[0]}"
        raise UserError(f"{names} were scored on different test images; run `dvc repro`")
    return difference(first, second)
