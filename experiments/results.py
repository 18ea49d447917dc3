"""Runs read back from a table, and what the page says of a set of runs with equal settings."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

Run = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One square of the grid: the seeds of one clipper, cell and learning rate."""

    runs: tuple[Run, ...]

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
        return median(_ordered(run[column] for run in self.runs))

    def extent(self, column: str) -> tuple[float, float]:
        """Smallest and largest value over seeds."""
        values = _ordered(run[column] for run in self.runs)
        return values[0], values[-1]


def _ordered(values: Iterable[float]) -> list[float]:
    return sorted(value if math.isfinite(value) else math.inf for value in values)


class Study:
    """The runs of a table, by role, cell, clipper and learning rate, in the order of the table."""

    def __init__(self, table: pa.Table):
        scalars = [name for name in table.column_names if not pa.types.is_list(table[name].type)]
        runs = table.select(scalars).to_pylist()
        self.runs: list[Run] = [run | {"row": row} for row, run in enumerate(runs)]
        self.study = [run for run in self.runs if run["role"] == "study"]
        self.reference = [run for run in self.runs if run["role"] == "reference"]
        self.cells = _distinct(run["cell"] for run in self.study)
        self.labels = _distinct(run["label"] for run in self.study)
        self.rates = sorted({run["learning_rate"] for run in self.study})
        self._table = table

    def at(self, cell: str, label: str, rate: float) -> Cell:
        """One square of the grid."""
        want = (cell, label, rate)
        return Cell(
            tuple(r for r in self.study if (r["cell"], r["label"], r["learning_rate"]) == want)
        )

    def row(self, cell: str, label: str) -> list[Cell]:
        """The squares of one clipper, by learning rate."""
        return [self.at(cell, label, rate) for rate in self.rates]

    def curve(self, run: Run, name: str) -> np.ndarray:
        """A curve of a run over its steps."""
        return np.asarray(self._table[name][run["row"]].as_py(), float)


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


COLUMNS = {
    "task, role": "which study; `reference` marks the reference model",
    "clipper, arguments, label": "name, arguments as JSON, and both as the page writes them",
    "cell, width, optimizer": "the model's cell and hidden units; SGD with momentum, or Adam",
    "updates, batch, length": "optimizer steps, sequences an update, predicted steps a sequence",
    "seed, learning_rate": "initial parameters and batches; peak of the half cosine",
    "valid_nll, test_nll": "nats per step on whole chorales, last parameters",
    "train_loss": "mean loss of the last tenth of the updates, nats per step",
    "failed": "a score that is not finite or worse than independent keys",
    "clip_share": "share of the steps with a finite gradient that were clipped",
    "spike_score": "share of steps, from the 50th on, whose loss lies 10 standard deviations "
    "above the mean of up to 1,000 losses before it",
    "seconds": "wall-clock seconds a run, compilation included; the one column that differs "
    "from time to time",
    "versions, data_hash": "packages, machine and source as JSON; sha256 of the data",
    "loss, norm, threshold, clipped": "curves over the updates: loss, gradient norm and "
    "threshold as the clipper measured them, and whether the step was clipped",
}
