"""Does clipping matter for a small forecast of a real and noisy series, Seattle's weather?

Claim: at learning rates that are usual clipping changes nothing, since most of the error is noise
that nothing predicts; at rates ten times as high it is what keeps a net from ending in NaN.

Protocol: rain, highest and lowest temperature and wind of each day. A cell with 32 units reads 30
days and gives the four values of the next. Rain enters as log(1 + mm), and each column is in
standard deviations from its mean, both of 2012 and 2013, which train; days of 2014 validate and
those of 2015 test. SGD with momentum 0.9, batches of 16, 200 updates, a learning rate that falls
to 0 along half a cosine. The score is the mean squared error over days and columns with the last
parameters: the mean of the training years has 1.04 (validation) and 0.97 (test), and tomorrow as
today 0.69 and 0.62. A run has failed when its error is not finite or larger than that of the mean.

Seeds: a seed fixes the initial parameters and all batches.
Runtime: about three minutes on two cores for the methods people ask about.
Command: `python -m experiments run weather`
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data, models
from experiments.config import Variant
from experiments.data import weather
from experiments.task import Experiment
from experiments.train import Material, Task

_COLUMNS = len(weather.COLUMNS)
# Days before the first of January of 2014 and of 2015.
_CUTS = (731, 1096)


@dataclass(frozen=True)
class Model:
    """A recurrent net and what it reads.

    Attributes:
        cell: name in `models.CELLS`.
        days: how many days it reads before the one that it predicts.
        width: hidden units.
        batch: predicted days an update.
    """

    cell: str
    days: int = 30
    width: int = 32
    batch: int = 16


def load(_: Path | None, model: Model) -> Material:
    """The days in the units of the training years, and the errors of their mean."""
    series = standardised(weather.load())
    # What comes before a predicted day may be of an earlier split: it is past by then.
    starts = (0, *(cut - model.days for cut in _CUTS))
    ends = (*_CUTS, len(series))
    train, valid, test = (series[slice(*cut)] for cut in zip(starts, ends, strict=True))
    arrays = {
        "train": train,
        "valid": windows(valid, model.days),
        "test": windows(test, model.days),
    }
    floors = {split: float(np.mean(arrays[split][-1] ** 2)) for split in ("valid", "test")}
    return Material(arrays, floors, floors["test"], data.digest(series))


def standardised(series: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and variance 1 in the training years, rain as `log(1 + mm)`."""
    series = np.concatenate([np.log1p(series[:, :1]), series[:, 1:]], axis=1)
    train = series[: _CUTS[0]]
    return (series - train.mean(0)) / train.std(0)


def windows(series: np.ndarray, days: int) -> np.ndarray:
    """All stretches of `days + 1` days, `[day, stretch, column]`: the last day is the target."""
    return np.stack([series[day : len(series) - days + day] for day in range(days + 1)])


@cache
def build(model: Model) -> Task:
    """Forecast of the next day."""
    net = models.recurrent(model.cell, _COLUMNS, model.width, _COLUMNS, last=True)

    def error(params: Any, stretches: jax.Array) -> jax.Array:
        return jnp.mean((net.apply(params, stretches[:-1]) - stretches[-1]) ** 2)

    return Task(
        init=lambda key, _: net.init(key, jnp.zeros(_COLUMNS)),
        batch=lambda key, data: _draw(key, model, data["train"]),
        loss=error,
        evaluate=lambda params, _, data: {
            split: error(params, data[split]) for split in ("valid", "test")
        },
    )


def _draw(key: jax.Array, model: Model, series: jax.Array) -> jax.Array:
    starts = jax.random.randint(key, (model.batch,), 0, len(series) - model.days)
    return series[starts + jnp.arange(model.days + 1)[:, None]]


TASK = Experiment(
    title="Seattle's weather",
    score="mean squared error of tomorrow's four values in standard deviations of 2012 and 2013",
    unit="mean squared error",
    failure="not finite, or a larger error than that of the mean of 2012 and 2013",
    load=load,
    build=build,
    variants={
        "lstm": Variant(Model("lstm"), "momentum", (0.3, 1, 3, 10, 30), 200, 0.32, 4868, 0.073),
        "tanh": Variant(
            Model("tanh"), "momentum", (0.01, 0.03, 0.1, 0.3, 1), 200, 0.8, 1316, 0.035
        ),
    },
    smoke={
        "lstm": Variant(Model("lstm", 8, 4, 4), "momentum", (0.3, 30.0), 16, 0.32, 164, 0.002),
    },
    leaderboard="lstm",
)
