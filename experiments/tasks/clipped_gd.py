"""How many steps does gradient descent need from ever steeper starts, with and without clipping?

Claim (Zhang et al. 2020, "Why gradient clipping accelerates training", theorems 3 and 4): where
curvature grows with the gradient, plain gradient descent at the best of all fixed rates needs a
number of steps that grows like M / log M, M being the largest gradient below the start; clipped
gradient descent needs a number in which M does not stand.

Protocol: the function of the paper's proof for L0 = L1 = 1, x^2 / 2 + 1/2 between -1 and 1 and
exp(|x| - 1) beyond. Descent from about x = 2, 4, 6 and 8, where the gradient is exp(x - 1): about
3, 20, 150 and 1,100. The gradient is exact and the rate fixed: one of ten, a quarter of a decade
apart, from what the steepest start bears to what the bottom bears. The score is log10(1 + n), n
being the first step at which |gradient| is at most 0.01; a run that never gets there within 1,000
steps has failed. Thresholds are multiples of 1, the gradient where the quadratic part ends. The
theorems are about a whole class of functions; on this one both methods end at a linear rate, and
what is compared is how their steps grow with the start.

Seeds: a seed moves the start by up to 0.25, so that no rate is lucky with all of them.
Runtime: half a minute on two cores for `none` and `global_norm`, nearly all of it compilation.
Command: `python -m experiments run clipped_gd`
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import data
from experiments.config import Variant
from experiments.task import Experiment
from experiments.train import Material, Record, Task

_SMALL = 0.01
_SPREAD = 0.25
_UPDATES = 1000
_RATES = (0.0056, 0.01, 0.018, 0.032, 0.056, 0.1, 0.18, 0.32, 0.56, 1.0)


@dataclass(frozen=True)
class Model:
    """Where descents start, roughly."""

    start: float


def load(cache: Path | None, model: Model) -> Material:
    """Nothing to read: all is in the function."""
    slowest = math.log10(_UPDATES)
    return Material({}, {"valid": slowest, "test": slowest}, slowest, data.digest())


@cache
def build(model: Model) -> Task:
    """Descents that start around `model.start`."""
    return Task(
        init=lambda key, data: model.start + _SPREAD * jax.random.uniform(key, (1,), minval=-1),
        batch=lambda key, data: (),
        loss=lambda x, batch: height(x[0]),
        evaluate=_evaluate,
    )


def height(x: jax.Array) -> jax.Array:
    """A bowl whose walls rise exponentially."""
    distance = jnp.abs(x)
    return jnp.where(distance < 1, distance**2 / 2 + 0.5, jnp.exp(distance - 1))


def _evaluate(x: jax.Array, record: Record, data: Any) -> dict[str, jax.Array]:
    small = record.norm <= _SMALL
    steps = jnp.where(jnp.any(small), jnp.argmax(small), jnp.inf)
    return dict.fromkeys(("valid", "test"), jnp.log10(1 + steps))


def _variant(start: float, rates: tuple[float, ...] = _RATES, updates: int = _UPDATES) -> Variant:
    return Variant(
        model=Model(start),
        optimizer="sgd",
        learning_rates=rates,
        updates=updates,
        scale=1.0,
        parameters=1,
        seconds=0.005,
        schedule="constant",
    )


TASK = Experiment(
    title="Descent into an exponential bowl",
    score="log10 of 1 + the steps until |gradient| is at most 0.01",
    unit="log10 of steps",
    failure=f"|gradient| is never at most {_SMALL}",
    load=load,
    build=build,
    variants={f"start {start}": _variant(float(start)) for start in (2, 4, 6, 8)},
    smoke={"start 4": _variant(4.0, (0.1, 1.0), updates=64)},
    leaderboard="start 8",
    methods=("none", "global_norm"),
)
