"""Typed settings: what a study is made of, and what decides the numbers of one group."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Config = TypeVar("Config")


@dataclass(frozen=True)
class Group:
    """Runs that are trained together: one clipper, one cell, every learning rate and seed.

    Attributes:
        task: name of the task.
        role: `study` or `reference`.
        clipper: label of a row of the legend.
        cell: `tanh` or `lstm`.
        width: hidden units.
        optimizer: `momentum` (SGD, 0.9) or `adam`.
        learning_rates: peak learning rates; each falls to 0 along half a cosine.
        seeds: one run for each seed and learning rate.
        updates: optimizer steps a run.
        batch: sequences an update.
        length: predicted steps a sequence.
    """

    task: str
    role: str
    clipper: str
    cell: str
    width: int
    optimizer: str
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    updates: int
    batch: int
    length: int

    @property
    def runs(self) -> int:
        """Number of runs."""
        return len(self.learning_rates) * len(self.seeds)


@dataclass(frozen=True)
class Chorales:
    """Settings of the task `chorales`; the defaults are the whole job.

    Attributes:
        clippers: names of the legend; a name brings all its rows.
        cells: recurrent cells of the study.
        learning_rates: peak learning rates of the study.
        seeds: seeds 0 to `seeds - 1`.
        width: hidden units of the study.
        updates: optimizer steps of a run of the study.
        batch: chorales an update.
        length: predicted quarter notes of a chorale an update.
        reference_width: hidden units of the reference model.
        reference_updates: optimizer steps of the reference model.
        reference_rate: its peak learning rate.
        reference_length: predicted quarter notes of a chorale an update.
        reference_seeds: seeds 0 to `reference_seeds - 1`.
    """

    clippers: tuple[str, ...] = (
        "none",
        "global_norm",
        "per_layer",
        "value",
        "adaptive",
        "decaying",
        "moving_average",
    )
    cells: tuple[str, ...] = ("tanh", "lstm")
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    seeds: int = 3
    width: int = 64
    updates: int = 240
    batch: int = 8
    length: int = 48
    reference_width: int = 128
    reference_updates: int = 810
    reference_rate: float = 1.5e-2
    reference_length: int = 64
    reference_seeds: int = 4


SMOKE = Chorales(
    clippers=("none", "global_norm", "adaptive"),
    cells=("tanh",),
    learning_rates=(0.1, 30.0),
    seeds=2,
    width=8,
    updates=60,
    batch=4,
    length=16,
    reference_width=8,
    reference_updates=60,
    reference_length=16,
    reference_seeds=2,
)


def from_mapping(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a settings object of `kind`, refusing keys that it does not have.

    Raises:
        ValueError: a key is unknown; the message names it and those that exist.
    """
    known = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"`{kind.__name__}` has no key {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(known)}."
        )
    return kind(**{key: _as_tuple(value) for key, value in values.items()})


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def to_json(config: Any) -> str:
    """A settings object as JSON with sorted keys: the same text for the same settings."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


def fingerprint(*parts: str) -> str:
    """A short hash of texts, to name a file by what decides its content."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
