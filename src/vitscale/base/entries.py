"""The entries of params.yaml that several rooms read. `pipeline.schema` says which values are allowed."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What every training asks for: how much of which data, by which recipe and policy, for how long."""

    fraction: float
    seed: int | list[int]
    recipe: str
    augment: str
    sizes: list[int]
    epochs: int
    lr_scale: float

    @property
    def seeds(self) -> list[int]:
        """The seeds: one training each."""
        return self.seed if isinstance(self.seed, list) else [self.seed]


@dataclass(frozen=True, kw_only=True)
class Pretraining(Entry):
    """An entry of `pretrain`: a model, trained from scratch on a data set."""

    seed: int
    model: str
    data: str


@dataclass(frozen=True, kw_only=True)
class Row(Entry):
    """An entry of `rows`: a start, fine-tuned on the target or under a new head alone, once for each seed."""

    start: str
    protocol: str
    inputs: str

    @property
    def is_probe(self) -> bool:
        """Whether the backbone is frozen and the head alone is trained."""
        return self.protocol == "linear_probe"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """An entry of `weights`: a checkpoint that others trained on `data`.

    `revision` and `hub_sha256` are for the hub's alone. `sha256` is of the files that the committed figures
    came from, `hub_sha256` of those that the hub has at that revision.
    """

    source: str
    name: str
    sha256: str | None
    data: str
    license: str
    revision: str | None = None
    hub_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """An entry of `published`: what others report, after pretraining on so many images."""

    accuracy: float
    protocol: str
    images: int
