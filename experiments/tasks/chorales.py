"""Next-chord prediction on Bach's chorales: what does clipping do to a recurrent net?

Claim: clipping widens the range of learning rates at which a recurrent net trains, and much of
the rest of its effect is that of a smaller learning rate. The page says what the numbers say.

Protocol: quarter notes in the original keys, 88 keys, 221 / 72 / 76 chorales to train, validate
and test. A model reads the chords up to now and gives the log-odds of each key in the next one;
the score is the cross-entropy summed over keys, a mean over steps, in nats. The first chord of a
chorale is not scored. Training draws 8 chorales an update, cuts a passage at random and
transposes it by -6 to +5 semitones. The readout's bias starts at the log-odds of the training
keys. Scores are those of the last parameters, on whole chorales.

The study trains tanh and LSTM cells by SGD with momentum 0.9 over six learning rates for each
clipper; the reference model is an LSTM with Adam and `global_norm(1.0)`. Learning rates fall to
0 along half a cosine. A run failed when its score is not finite or worse than that of
independent keys at their training frequencies (11.29 nats validation, 11.45 test).

Seeds: 0, 1, 2 for the study, 0 to 3 for the reference. A seed fixes the initial parameters and
all batches, whatever the clipper and the learning rate.
Runtime: three minutes on two cores.
Command: `python -m experiments chorales`
"""

import itertools
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import clipax
from experiments import clippers, data, models
from experiments.config import Chorales, Group
from experiments.errors import UserError
from experiments.train import Material, Method, Task

NAME = "chorales"
CELLS = tuple(models.CELLS)
_LOWER, _UPPER = -6, 5
_REFERENCE = "global_norm(1)"


def plan(config: Chorales) -> list[Group]:
    """Groups of the study, then the reference model, in the order in which they run.

    Raises:
        UserError: a setting names something that does not exist or has no runs.
    """
    _check(config)
    study = [
        Group(
            NAME, "study", row.label, cell, config.width, "momentum", config.learning_rates,
            tuple(range(config.seeds)), config.updates, config.batch, config.length,
        )
        for cell in config.cells
        for row in clippers.select(config.clippers)
    ]  # fmt: skip
    return [*study, _reference(config)]


def _reference(config: Chorales) -> Group:
    return Group(
        NAME, "reference", _REFERENCE, "lstm", config.reference_width, "adam",
        (config.reference_rate,), tuple(range(config.reference_seeds)),
        config.reference_updates, config.batch, config.reference_length,
    )  # fmt: skip


def _check(config: Chorales) -> None:
    unknown = [cell for cell in config.cells if cell not in CELLS]
    if unknown:
        raise UserError(f"unknown cell {', '.join(unknown)}; there are {', '.join(CELLS)}")
    for name in ("seeds", "updates"):
        if getattr(config, name) < 1:
            raise UserError(f"`{name}` must be at least 1, not {getattr(config, name)}")
    wrong = [rate for rate in config.learning_rates if not 0 < rate < float("inf")]
    if wrong or not config.learning_rates:
        raise UserError(f"`learning_rates` must be positive numbers, not {wrong or 'none'}")


def arrays(chorales: data.Chorales) -> dict[str, Any]:
    """What the jitted functions read: rolls and lengths of each split, and the log-odds."""
    train = data.piano_rolls(chorales.train, margin=-_LOWER)
    return {
        "train": train,
        "valid": data.piano_rolls(chorales.valid),
        "test": data.piano_rolls(chorales.test),
        "log_odds": _log_odds(*train),
    }


def _log_odds(rolls: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    # Of the keys as training sees them: the mean over all transpositions.
    share = rolls.sum((0, 1)) / lengths.sum()
    shifted = [share[start : start + data.KEYS] for start in range(_UPPER - _LOWER + 1)]
    chance = np.clip(np.mean(shifted, axis=0), 1e-4, None)
    return np.log(chance / (1 - chance)).astype(np.float32)


def floors(chorales: data.Chorales) -> dict[str, float]:
    """Score of independent keys at their training frequencies, nats a step, by split."""
    rolls, lengths = data.piano_rolls(chorales.train)
    chance = (rolls.sum((0, 1)) + 0.5) / (lengths.sum() + 1)
    return {
        split: _independent(*data.piano_rolls(getattr(chorales, split)), chance)
        for split in ("valid", "test")
    }


def _independent(rolls: np.ndarray, lengths: np.ndarray, chance: np.ndarray) -> float:
    share = rolls.sum((0, 1)) / lengths.sum()
    return float(-(share * np.log(chance) + (1 - share) * np.log1p(-chance)).sum())


def load(cache: Path | None = None) -> Material:
    """Read the chorales, from the cache folder or from the package that holds them."""
    chorales = data.load_chorales(cache)
    return Material(arrays(chorales), floors(chorales), chorales.digest)


def task(group: Group) -> Task:
    """The task of a group; groups of the same model share the object, so jit compiles once."""
    return _task(group.cell, group.width, group.batch, group.length)


@cache
def _task(cell: str, width: int, batch: int, length: int) -> Task:
    model = models.recurrent(cell, data.KEYS, width)
    return Task(
        init=lambda key, data: model.init(key, data["log_odds"]),
        batch=lambda key, data: _draw(key, data["train"], batch, length),
        loss=partial(_loss, model),
        evaluate=lambda params, data: {
            split: _loss(model, params, _whole(*data[split])) for split in ("valid", "test")
        },
    )


def _draw(
    key: jax.Array, chorales: tuple[jax.Array, jax.Array], batch: int, length: int
) -> tuple[jax.Array, jax.Array]:
    """Passages of random chorales at a random pitch, `[time, batch, keys]`, and their mask."""
    rolls, lengths = chorales
    # All numbers at once: most of the time to compile a draw is its calls of the generator.
    chances = jax.random.uniform(key, (3, batch))

    def below(limit: jax.Array | int, chance: jax.Array) -> jax.Array:
        return jnp.floor(limit * chance).astype(jnp.int32)

    chorale = below(len(rolls), chances[0])
    start = below(jnp.maximum(lengths[chorale] - (length + 1), 0) + 1, chances[1])
    lowest = below(_UPPER - _LOWER + 1, chances[2])

    def cut(*at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(rolls, at, (1, length + 1, data.KEYS))[0]

    passages = jax.vmap(cut, out_axes=1)(chorale, start, lowest).astype(jnp.float32)
    return passages, _mask(lengths[chorale] - start, length + 1)


def _whole(rolls: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.swapaxes(rolls, 0, 1).astype(jnp.float32), _mask(lengths, rolls.shape[1])


def _mask(lengths: jax.Array, time: int) -> jax.Array:
    # The first chord is read and never predicted.
    return jnp.arange(1, time)[:, None] < lengths


def _loss(model: models.Model, params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    chords, mask = batch
    logits = model.apply(params, chords[:-1])
    nats = optax.sigmoid_binary_cross_entropy(logits, chords[1:]).sum(-1)
    # `where` and not a product: a masked step must not turn an overflow into NaN.
    return jnp.where(mask, nats, 0).sum() / mask.sum()


def runs(group: Group) -> dict[str, Any]:
    """Arguments of each run of a group, arrays `[run]`: learning rates outside, seeds inside."""
    pairs = list(itertools.product(group.learning_rates, group.seeds))
    values = clippers.LEGEND[group.clipper].values
    return {
        "learning_rate": np.array([rate for rate, _ in pairs], np.float32),
        "seed": np.array([seed for _, seed in pairs], np.int32),
        "clipper": {key: np.full(len(pairs), value, np.float32) for key, value in values.items()},
    }


def method(group: Group) -> Method:
    """Clipper and optimizer of a group; rows of the legend that share code share the object."""
    row = clippers.LEGEND[group.clipper]
    return _method(row.constructor, tuple(row.fixed.items()), group.optimizer, group.updates)


@cache
def _method(
    constructor: str, fixed: tuple[tuple[str, float], ...], optimizer: str, updates: int
) -> Method:
    build = partial(getattr(clipax, constructor), **dict(fixed))
    return Method(
        clipper=lambda run: build(**run["clipper"]),
        optimizer=lambda run: OPTIMIZERS[optimizer](_cosine(run["learning_rate"], updates)),
    )


OPTIMIZERS = {"momentum": partial(optax.sgd, momentum=0.9), "adam": optax.adam}


def _cosine(peak: jax.Array, updates: int) -> optax.Schedule:
    return lambda step: peak * 0.5 * (1 + jnp.cos(jnp.pi * step / updates))
