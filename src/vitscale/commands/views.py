"""What the demo shows, as HTML and Vega-Lite: all of it but the page's own controls."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from pathlib import Path

import numpy as np

from vitscale.base.config import read_yaml
from vitscale.base.errors import UserError
from vitscale.commands.answers import About, answered, ask, card, refused, thumbnails
from vitscale.commands.charts import Charts
from vitscale.data.arrays import Split, load_split
from vitscale.data.decode import square
from vitscale.models.finished import AGAIN, PULL, PULLED, finished_rows, load_finished
from vitscale.results.disagreements import predictions
from vitscale.results.picture import NOTHING, family
from vitscale.results.study import Study
from vitscale.results.tables import figures_in

MOST_BYTES = 32 << 20  # of an image from a browser; a photograph has 3 to 15 MB
EXAMPLES, SHOWN = 20, 60  # thumbnails: of test images, of disagreements
ALL = ""  # in place of a class: all of them


@dataclass(frozen=True)
class Disagreements:
    """What two trainings disagree on: words and buttons as HTML, classes to choose from (label, name)."""

    words: str
    classes: list[tuple[str, str]]
    buttons: str


def images_here(pipeline: Path, target: str) -> tuple[Split, bool]:
    """Return the target's test images that are here, and whether those are all. Raises UserError for none."""
    whole, sample = pipeline / "data/raw" / target / "test", pipeline / PULLED / "test-images"
    if whole.is_dir():
        return load_split(whole), True
    if sample.is_dir():
        try:
            return load_split(sample), False
        except UserError as error:  # it names the root's `dvc checkout`, which knows nothing of this folder
            raise UserError(f"{str(error).rpartition('; ')[0]}; {AGAIN}") from error
    ways = f"`dvc repro` makes the first, {PULL} brings the second"
    raise UserError(f"neither {whole} nor {sample} is there; {ways}")


class Views:
    """The views of a pipeline. Raises UserError where it has no finished row or no test images."""

    def __init__(self, pipeline: Path) -> None:
        params = read_yaml(pipeline / "params.yaml")
        self.study = Study.read(params.__getitem__, figures_in(pipeline / "metrics"))
        names = finished_rows(pipeline)
        if not names:
            ways = "`dvc repro` trains some"
            if (pipeline / PULLED / ".dvc").is_dir():
                ways += f", {PULL} brings those that come with the clone"
            raise UserError(f"{pipeline.resolve()} has no finished row; {ways}")
        self.split, self.is_whole = images_here(pipeline, self.study.target)
        self.charts = Charts(pipeline, self.study)
        self.predictions = predictions(self.study)
        self.places = self.predictions.places(self.split) if self.predictions else np.empty(0)
        self.rows = [load_finished(name, pipeline) for name in names]
        self.about = {name: self._about(name) for name in names}
        for row in self.rows:
            ask(row, np.array(self.split.images[0]))  # the first time takes longer

    def _about(self, name: str) -> About:
        row = name.split("/")[0]
        kind = family(row, self.study)
        if row not in self.study.rows:
            return About(kind, kind)
        data, figures = self.study.pretraining_data(row), self.study.score(row)
        probed = ", then frozen under a new head" if self.study.rows[row].is_probe else ""
        scored = f", right on {figures['accuracy']:.2%} of the test images" if figures else ""
        return About(kind, f"{kind}, pretrained on {data or NOTHING}{probed}{scored}")

    def _answered(self, title: str, image: np.ndarray, actual: str | None = None) -> str:
        """Return all rows' answers, a ViT's beside a ResNet-18's."""
        cards = {row.row: card(ask(row, image), self.about[row.row], actual) for row in self.rows}
        vits = [name for name in cards if self.about[name].family == "ViT"]
        others = [name for name in cards if name not in vits]
        names = [name for pair in zip_longest(vits, others) for name in pair if name]
        return answered(title, [cards[name] for name in names])

    def _class_of(self, number: int) -> str:
        return self.split.classes[self.split.labels[number]]

    def test_image(self, number: int) -> str:
        """Return all rows' answers about a test image."""
        image, actual = np.array(self.split.images[number]), self._class_of(number)
        return self._answered(f"Test image {number}: {actual}", image, actual)

    def own_image(self, address: str) -> str:
        """Return all rows' answers about a file, given as a `data:` address, or why there are none."""
        try:
            content = base64.b64decode(address.partition(",")[2], validate=True)
            if len(content) > MOST_BYTES:
                raise ValueError(f"{len(content)} bytes, more than {MOST_BYTES}")
            image = square(content, self.rows[0].stored_side)
        except ValueError as error:
            return refused(f"This file can't be read as an image: {error}.")
        except MemoryError:
            return refused("This image takes more memory than there is.")
        return self._answered("Your image", image)

    def drawn(self, seed: int) -> list[int]:
        """Return the numbers of some test images, drawn with a seed."""
        return np.random.default_rng(seed).permutation(len(self.split))[:EXAMPLES].tolist()

    def examples(self, seed: int) -> str:
        """Return buttons of the test images of a draw."""
        numbers = self.drawn(seed)
        return self._buttons(numbers, [self._class_of(number) for number in numbers])

    def _buttons(self, numbers: Sequence[int], words: list[str]) -> str:
        images = [np.array(self.split.images[number]) for number in numbers]
        return thumbnails(list(zip(numbers, images, words, strict=True)))

    def trainings(self) -> list[str]:
        """Return what can be compared: rows that have been scored, each seed for itself."""
        return list(self.predictions.said) if self.predictions else []

    def first_pair(self) -> tuple[str, str] | None:
        """Return the first ViT and the first ResNet-18 that were scored, else any two; None for fewer."""
        names = self.trainings()
        of_kind = {family(name.split("/")[0], self.study): name for name in reversed(names)}
        pair = [of_kind[kind] for kind in ("ViT", "ResNet-18")] if len(of_kind) == 2 else names[:2]
        return (pair[0], pair[1]) if len(pair) == 2 else None

    def disagreements(self, right: str, wrong: str, class_name: str = ALL) -> Disagreements:
        """Return the test images that one training got right and another wrong, of a class or of all."""
        found = self.predictions
        assert found is not None  # it names the trainings
        places = found.between(right, wrong)
        counts = np.bincount(found.actual[places], minlength=len(found.classes))
        classes = [(f"all: {len(places):,}", ALL)]
        classes += [(f"{name}: {count:,}", name) for name, count in zip(found.classes, counts, strict=True)]
        of_class = found.actual == found.classes.index(class_name) if class_name else found.actual >= 0
        places = places[of_class[places]]
        numbers, said = self.places[places], found.said[wrong][places]
        here = np.flatnonzero(numbers >= 0)
        here = here[np.argsort(numbers[here])]
        shown = here[:SHOWN]
        sentence = (
            f"{right} is right and {wrong} is wrong on {len(places):,} of {of_class.sum():,} test images"
            f"{f' of {class_name}' if class_name else ''}. {self._which(len(places), len(here))}"
        )
        words = [f"{self._class_of(numbers[i])} → {found.classes[said[i]]}" for i in shown]
        legend = (
            f"Under each: its class → what {wrong} took it for. Choose one to see what every row makes of it."
        )
        text = f"<p>{escape(sentence)}</p><p>{escape(legend)}</p>"
        return Disagreements(text, classes, self._buttons(numbers[shown].tolist(), words))

    def _which(self, count: int, here: int) -> str:
        """Return which of so many test images are shown."""
        parts = []
        if not self.is_whole:
            parts.append(f"{here:,} of them are among the {len(self.split):,} test images that are here.")
        if here > SHOWN:
            parts.append(f"The first {SHOWN} are shown.")
        return " ".join(parts)
