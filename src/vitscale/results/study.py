"""What tables and pictures are made of: the entries of params.yaml, and the figures that their runs left."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from vitscale.base.entries import Pretraining, Published, Row, Weights

Kind = TypeVar("Kind")


def entries(kind: Callable[..., Kind], section: dict[str, dict]) -> dict[str, Kind]:
    """Return a section of params.yaml with its entries as objects of a kind."""
    return {name: kind(**entry) for name, entry in section.items()}


@dataclass(frozen=True, kw_only=True)
class Study:
    """The study's entries, and what gives the figures in a file of `metrics/`, None where there is none."""

    target: str
    rows: dict[str, Row]
    pretrain: dict[str, Pretraining]
    published: dict[str, Published]
    models: dict[str, dict]
    figures: Callable[[str], dict | None]
    weights: dict[str, Weights] = field(default_factory=dict)

    @classmethod
    def read(cls, param: Callable[[str], dict], figures: Callable[[str], dict | None]) -> "Study":
        """Return the study that a stage may read, by what gives its parameters and its figures."""
        return cls(
            target=str(param("target")),
            rows=entries(Row, param("rows")),
            pretrain=entries(Pretraining, param("pretrain")),
            published=entries(Published, param("published")),
            models=param("models"),
            weights=entries(Weights, param("weights")),
            figures=figures,
        )

    def score(self, row: str) -> dict | None:
        """Return a row's figures on the test images, or None where it has not been run."""
        return self.figures(f"rows/{row}.json")

    def training(self, stage: str, entry: str) -> dict | None:
        """Return the history of a training by its stage, or None where it has not been run."""
        return self.figures(f"history/{stage}/{entry}.json")

    def published_for(self, row: str) -> Published | None:
        """Return what was published of a row's name, where its protocol is the row's."""
        known = self.published.get(row)
        return known if known and known.protocol == self.rows[row].protocol else None

    def pretraining_data(self, row: str) -> str | None:
        """Return the name of the data that a row's start was pretrained on, None where it wasn't."""
        start = self.rows[row].start
        entry = self.pretrain.get(start) or self.weights.get(start)
        return entry.data if entry else None
