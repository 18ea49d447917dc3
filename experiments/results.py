"""Runs read back from a table, looked up by what they have in common."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

Run = dict[str, Any]


class Square:
    """Runs that differ in their seed alone.

    Args:
        runs: the runs, at least one.
    """

    def __init__(self, runs: Iterable[Run]):
        self.runs = tuple(runs)

    @property
    def failures(self) -> int:
        """Runs that failed."""
        return sum(run["failed"] for run in self.runs)

    @property
    def usable(self) -> bool:
        """Whether no seed failed."""
        return self.failures == 0

    def median(self, column: str) -> float:
        """Median over seeds; a value that is not finite counts as the largest."""
        return median(self.values(column))

    def extent(self, column: str) -> tuple[float, float]:
        """Smallest and largest value over seeds."""
        values = self.values(column)
        return values[0], values[-1]

    def values(self, column: str) -> list[float]:
        """Values in ascending order; those that are not finite are infinite."""
        values = (run[column] for run in self.runs)
        return sorted(value if math.isfinite(value) else math.inf for value in values)


class Runs:
    """Runs of a table, in its order, as dictionaries without the curves.

    Each has a further key `row`: its number in the table.

    Args:
        table: the runs.
        rows: those of `table` to hold; None means all.
    """

    def __init__(self, table: pa.Table, rows: Sequence[Run] | None = None):
        self._table = table
        self._rows = _read(table) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._rows)

    @cached_property
    def _by_place(self) -> dict[str, "Runs"]:
        groups = _grouped(self._rows, "task", "variant")
        return {"/".join(key): Runs(self._table, rows) for key, rows in groups.items()}

    @cached_property
    def _by_method(self) -> dict[tuple[str, ...], list[Run]]:
        return _grouped(self._rows, "method", "stage")

    @property
    def about(self) -> dict[str, str]:
        """What the table says of itself: its metadata."""
        metadata = self._table.schema.metadata or {}
        return {key.decode(): value.decode() for key, value in metadata.items()}

    def where(self, **equal: Any) -> "Runs":
        """The runs whose columns have these values."""
        if {"task", "variant"} <= set(equal):
            place = f"{equal.pop('task')}/{equal.pop('variant')}"
            return self.at(place).where(**equal)
        rows = self._by(equal.pop("method", None), equal.pop("stage", None))
        kept = (run for run in rows if all(run[name] == value for name, value in equal.items()))
        return Runs(self._table, list(kept))

    def _by(self, method: str | None, stage: str | None) -> Sequence[Run]:
        if method is None and stage is None:
            return self._rows
        groups = [
            rows
            for key, rows in self._by_method.items()
            if method in (None, key[0]) and stage in (None, key[1])
        ]
        return sorted((run for rows in groups for run in rows), key=lambda run: run["row"])

    def at(self, place: str) -> "Runs":
        """The runs of one variant of a task, `TASK/VARIANT`."""
        return self._by_place.get(place) or Runs(self._table, [])

    @property
    def places(self) -> list[str]:
        """Variants of tasks, `TASK/VARIANT`."""
        return list(self._by_place)

    def distinct(self, *columns: str) -> list[Any]:
        """Values of a column, or combinations of several, each once, in the order of the table."""
        if len(columns) == 1:
            return list(dict.fromkeys(run[columns[0]] for run in self))
        return list(dict.fromkeys(tuple(run[name] for name in columns) for run in self))

    @property
    def rates(self) -> list[float]:
        """Learning rates from the smallest."""
        return sorted(self.distinct("learning_rate"))

    def square(self, **equal: Any) -> Square:
        """The runs whose columns have these values, as one square."""
        return Square(self.where(**equal))

    def curve(self, run: Run, name: str) -> np.ndarray:
        """A curve of a run over its updates."""
        return np.asarray(self._table[name][run["row"]].values.to_numpy(False), float)


def _grouped(rows: Sequence[Run], *columns: str) -> dict[tuple[str, ...], list[Run]]:
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in rows:
        groups.setdefault(tuple(run[name] for name in columns), []).append(run)
    return groups


def scalars(table: pa.Table) -> list[str]:
    """Names of all columns but the curves."""
    return [name for name in table.column_names if not pa.types.is_list(table[name].type)]


def _read(table: pa.Table) -> list[Run]:
    rows = table.select(scalars(table)).to_pylist()
    return [run | {"row": number} for number, run in enumerate(rows)]


def best(runs: Runs) -> Square:
    """The arguments and learning rate with the lowest median validation score."""
    keys = runs.distinct("arguments", "learning_rate")
    squares = [runs.square(arguments=arguments, learning_rate=rate) for arguments, rate in keys]
    return min(squares, key=lambda square: square.median("valid"))


def title(run: Run) -> str:
    """A run in words."""
    value = "" if math.isnan(run["value"]) else f" {run['value']:g}"
    where = f"{run['task']}/{run['variant']}, learning rate {run['learning_rate']:g}"
    return f"{run['method']}{value} ({where}, seed {run['seed']})"
