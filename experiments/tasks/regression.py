"""Does clipping save the exploding multilayer perceptron of the tutorials?

Claim: a perceptron that learns unscaled targets by SGD ends in NaN at the usual learning rates,
and clipping by norm or by value keeps it alive, as tutorials tell it; and where the noise of the
gradient has heavy tails, clipped SGD learns better than SGD at any learning rate (Zhang et al.
2020, "Why are adaptive methods good for attention models?").

Protocol: `raw` is scikit-learn's make_regression(10000, 30, random_state=65): 10 of 30 normal
features matter, linearly and without noise, and the targets are left as they are (standard
deviation 179). `cubed` raises features and targets to the third power, which keeps their signs.
`student-t` scales the targets of `raw` to unit variance and adds noise of Student's t with 1.5
degrees of freedom, whose variance is infinite, to those of the training rows alone: scores are
against targets without noise. `diabetes` is real: 442 patients, 10 standardised features, a
measure of the disease after a year (25 to 346), unscaled. Six tenths of the rows train, two
validate, two test. Two hidden layers of 32 ReLU, He's uniform initialisation, batches of 32, SGD
with momentum 0.9, a learning rate that falls to 0 along half a cosine, 500 updates. The score is
the mean squared error of the last parameters over that of the mean of the training targets. A
run has failed when it is not finite or explains less than a twentieth of the variance: a perceptron
whose units have all died answers with a constant, which scores 1 give or take a little.

Seeds: a seed fixes the initial parameters and all batches; rows, noise and splits never change.
Runtime: about five minutes on two cores for the methods people ask about.
Command: `python -m experiments run regression`
"""

import importlib.metadata
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import data, models
from experiments.config import Variant
from experiments.task import Experiment
from experiments.train import Material, Record, Task

_SEED = 0
_FREEDOM = 1.5
_BATCH = 32
_FLOOR = 0.95

Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Model:
    """Which rows a perceptron learns, and its sizes."""

    rows: str
    features: int = 30
    width: int = 32


def load(cache: Path | None, model: Model) -> Material:
    """The rows of a model, split into training, validation and test."""
    splits = _split(*_ROWS[model.rows](cache))
    if model.rows == "student-t":
        splits["train"] = _noisy(*splits["train"])
    arrays = {"mean": splits["train"][1].mean(), **splits}
    digest = data.digest(*(array for rows in splits.values() for array in rows))
    return Material(arrays, {"valid": _FLOOR, "test": _FLOOR}, 1.0, digest)


def _split(features: np.ndarray, targets: np.ndarray) -> dict[str, Rows]:
    cuts = [len(targets) * 6 // 10, len(targets) * 8 // 10]
    parts = zip(np.split(features, cuts), np.split(targets, cuts), strict=True)
    rows = [(x.astype(np.float32), y.astype(np.float32)) for x, y in parts]
    return dict(zip(("train", "valid", "test"), rows, strict=True))


def _raw(cache: Path | None) -> Rows:
    data.package("sklearn")
    version = importlib.metadata.version("scikit-learn")
    stored = data.kept(cache, f"regression-{version}", _make)
    return stored["features"], stored["targets"]


def _make() -> dict[str, np.ndarray]:
    # It takes seconds to import, and what it makes is kept.
    from sklearn.datasets import make_regression

    made = make_regression(n_samples=10000, n_features=30, random_state=65)
    return {"features": np.asarray(made[0]), "targets": np.asarray(made[1])}


def _cubed(cache: Path | None) -> Rows:
    features, targets = _raw(cache)
    return features**3, targets**3


def _scaled(cache: Path | None) -> Rows:
    features, targets = _raw(cache)
    return features, targets / targets.std()


def _noisy(features: np.ndarray, targets: np.ndarray) -> Rows:
    noise = np.random.default_rng(_SEED).standard_t(_FREEDOM, len(targets))
    return features, targets + noise.astype(np.float32)


def _diabetes(cache: Path | None) -> Rows:
    folder = data.package("sklearn", "datasets/data")
    features = np.loadtxt(folder / "diabetes_data_raw.csv.gz")
    targets = np.loadtxt(folder / "diabetes_target.csv.gz")
    order = np.random.default_rng(_SEED).permutation(len(targets))
    features = (features - features.mean(0)) / features.std(0)
    return features[order], targets[order]


_ROWS = {"raw": _raw, "cubed": _cubed, "student-t": _scaled, "diabetes": _diabetes}


class Perceptron(nnx.Module):
    """Two hidden layers of ReLU and one output."""

    def __init__(self, features: int, width: int, key: jax.Array):
        rngs, kernel = nnx.Rngs(key), nnx.initializers.he_uniform()
        self.first = nnx.Linear(features, width, kernel_init=kernel, rngs=rngs)
        self.second = nnx.Linear(width, width, kernel_init=kernel, rngs=rngs)
        self.readout = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        hidden = nnx.relu(self.second(nnx.relu(self.first(features))))
        return self.readout(hidden)[:, 0]


@cache
def build(model: Model) -> Task:
    """Regression with a perceptron."""
    perceptron = models.pure(partial(Perceptron, model.features, model.width))
    return Task(
        init=lambda key, data: perceptron.init(key),
        batch=lambda key, data: _draw(key, *data["train"]),
        loss=lambda params, batch: _error(perceptron, params, *batch),
        evaluate=partial(_evaluate, perceptron),
    )


def _draw(key: jax.Array, features: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows = jax.random.randint(key, (_BATCH,), 0, len(targets))
    return features[rows], targets[rows]


def _error(
    perceptron: models.Model, params: Any, features: jax.Array, targets: jax.Array
) -> jax.Array:
    return jnp.mean((perceptron.apply(params, features) - targets) ** 2)


def _evaluate(
    perceptron: models.Model, params: Any, record: Record, data: dict[str, Any]
) -> dict[str, jax.Array]:
    def score(features: jax.Array, targets: jax.Array) -> jax.Array:
        constant = jnp.mean((data["mean"] - targets) ** 2)
        return _error(perceptron, params, features, targets) / constant

    return {split: score(*data[split]) for split in ("valid", "test")}


def _variant(
    rates: tuple[float, ...], scale: float, model: Model, parameters: int = 2081, updates: int = 500
) -> Variant:
    return Variant(
        model=model,
        optimizer="momentum",
        learning_rates=rates,
        updates=updates,
        scale=scale,
        parameters=parameters,
        seconds=0.015,
    )


_UNSCALED = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
TASK = Experiment(
    title="The exploding perceptron",
    score="mean squared error on held-out rows over that of the mean of the training targets",
    unit="share of the variance",
    failure=f"not finite, or above {_FLOOR}",
    load=load,
    build=build,
    variants={
        "raw": _variant(_UNSCALED, 300, Model("raw")),
        "cubed": _variant((3e-10, 1e-9, 3e-9, 1e-8, 3e-8), 2e8, Model("cubed")),
        "student-t": _variant((1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 8, Model("student-t")),
        "diabetes": _variant(_UNSCALED, 1600, Model("diabetes", 10), 1441),
    },
    smoke={
        "diabetes": _variant((1e-4, 1e-3), 1600, Model("diabetes", 10, 4), 69, updates=64),
    },
    leaderboard="student-t",
)
