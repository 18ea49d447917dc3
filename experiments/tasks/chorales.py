"""How far does clipping widen the usable learning rates of a recurrent net, on Bach's chorales?

Claim: clipping widens the range of learning rates at which a recurrent net trains, and much of
the rest of its effect is that of a smaller learning rate. The page says what the numbers say.

Protocol: quarter notes in the original keys, 88 keys, 221 / 72 / 76 chorales to train, validate
and test. A model reads the chords up to now and gives the log-odds of each key in the next one;
the score is the cross-entropy summed over keys, a mean over steps, in nats. The first chord of a
chorale is not scored. Training draws 8 chorales an update, cuts a passage at random and
transposes it by -6 to +5 semitones. The readout's bias starts at the log-odds of the training
keys. Scores are those of the last parameters, on whole chorales. A run failed when its score
is not finite or worse than that of independent keys at their training frequencies (11.29 nats
validation, 11.45 test).

`tanh`, `gru` and `lstm` have 64 units and are trained by SGD with momentum 0.9 over five learning
rates. The variants `reference` have 128 units and Adam, and are there to be compared with the
literature: Bai et al. 2018 give 8.91 (tanh), 8.43 (GRU) and 8.45 (LSTM) nats a step on the
published arrays of these chorales. The claim `likelihood` says what differs. Learning rates fall
to 0 along half a cosine.

Seeds: a seed fixes the initial parameters and all batches, whatever the clipper and the learning
rate.
Runtime: about eight minutes on two cores for the methods people ask about and the reference.
Command: `python -m experiments run chorales`
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import models
from experiments.config import Variant
from experiments.data import chorales
from experiments.data.chorales import KEYS, Chorales, piano_rolls
from experiments.draws import below
from experiments.task import Experiment
from experiments.train import Material, Task

LOWER, UPPER = -6, 5
# Where the piano begins in a roll with `-LOWER` more keys on each side, by transposition.
_STARTS = range(-LOWER - UPPER, -2 * LOWER + 1)
_SPLITS = ("valid", "test")
Passages = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class Model:
    """A recurrent net and the passages that it is trained on.

    Attributes:
        cell: name in `models.CELLS`.
        width: hidden units.
        batch: passages an update.
        length: chords of a passage that are predicted.
    """

    cell: str
    width: int = 64
    batch: int = 8
    length: int = 48


def load(cache: Path | None, _: Model) -> Material:
    """The chorales as piano rolls."""
    found = chorales.load(cache)
    floor = floors(found)
    return Material(arrays(found), floor, floor["test"], found.digest)


def arrays(found: Chorales) -> dict[str, Any]:
    """What the jitted functions read: rolls and lengths of each split, and the log-odds."""
    train = piano_rolls(found.train, margin=-LOWER)
    return {
        "train": train,
        "valid": piano_rolls(found.valid),
        "test": piano_rolls(found.test),
        "log_odds": _log_odds(*train),
    }


def _log_odds(rolls: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    # Of the keys as training sees them: the mean over all transpositions.
    share = rolls.sum((0, 1)) / lengths.sum()
    shifted = [share[start : start + KEYS] for start in _STARTS]
    chance = np.clip(np.mean(shifted, axis=0), 1e-4, None)
    return np.log(chance / (1 - chance)).astype(np.float32)


def floors(found: Chorales) -> dict[str, float]:
    """Score of independent keys at their training frequencies, nats a step, by split."""
    rolls, lengths = piano_rolls(found.train)
    chance = (rolls.sum((0, 1)) + 0.5) / (lengths.sum() + 1)
    return {split: _independent(*piano_rolls(getattr(found, split)), chance) for split in _SPLITS}


def _independent(rolls: np.ndarray, lengths: np.ndarray, chance: np.ndarray) -> float:
    share = rolls.sum((0, 1)) / lengths.sum()
    return float(-(share * np.log(chance) + (1 - share) * np.log1p(-chance)).sum())


@cache
def build(model: Model) -> Task:
    """Next-chord prediction."""
    net = models.recurrent(model.cell, KEYS, model.width, KEYS)
    return Task(
        init=lambda key, data: net.init(key, data["log_odds"]),
        batch=lambda key, data: draw(key, data["train"], model.batch, model.length),
        loss=partial(loss, net),
        evaluate=lambda params, _, data: {
            split: loss(net, params, _whole(*data[split])) for split in _SPLITS
        },
    )


def draw(key: jax.Array, found: Passages, batch: int, length: int) -> Passages:
    """Passages of random chorales at a random pitch, `[time, batch, keys]`, and their mask."""
    rolls, lengths = found
    # All numbers at once: most of the time to compile a draw is its calls of the generator.
    chances = jax.random.uniform(key, (3, batch))
    chorale = below(len(rolls), chances[0])
    start = below(jnp.maximum(lengths[chorale] - (length + 1), 0) + 1, chances[1])
    lowest = _STARTS.start + below(len(_STARTS), chances[2])

    def cut(*at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(rolls, at, (1, length + 1, KEYS))[0]

    passages = jax.vmap(cut, out_axes=1)(chorale, start, lowest).astype(jnp.float32)
    return passages, _mask(lengths[chorale] - start, length + 1)


def _whole(rolls: jax.Array, lengths: jax.Array) -> Passages:
    return jnp.swapaxes(rolls, 0, 1).astype(jnp.float32), _mask(lengths, rolls.shape[1])


def _mask(lengths: jax.Array, time: int) -> jax.Array:
    # The first chord is read and never predicted.
    return jnp.arange(1, time)[:, None] < lengths


def loss(net: models.Model, params: Any, batch: Passages) -> jax.Array:
    """Nats a step, over the steps that the mask tells."""
    chords, mask = batch
    logits = net.apply(params, chords[:-1])
    nats = optax.sigmoid_binary_cross_entropy(logits, chords[1:]).sum(-1)
    # `where` and not a product: a masked step must not turn an overflow into NaN.
    return jnp.where(mask, nats, 0).sum() / mask.sum()


def _study(
    cell: str, rates: tuple[float, ...], scale: float, parameters: int, seconds: float
) -> Variant:
    return Variant(Model(cell), "momentum", rates, 240, scale, parameters, seconds)


def _reference(cell: str, scale: float, parameters: int, seconds: float) -> Variant:
    model = Model(cell, width=128, length=64)
    only = ("global_norm",)
    return Variant(model, "adam", (1.5e-2,), 810, scale, parameters, seconds, methods=only)


TASK = Experiment(
    title="Bach's chorales",
    score="negative log-likelihood of the next chord on whole chorales, nats a step",
    unit="nats a step",
    failure="not finite, or worse than independent keys at their training frequencies",
    load=load,
    build=build,
    variants={
        "tanh": _study("tanh", (0.03, 0.1, 0.3, 1, 3), 1.2, 15512, 0.18),
        "gru": _study("gru", (0.1, 0.3, 1, 3, 10), 0.6, 35096, 0.38),
        "lstm": _study("lstm", (0.1, 0.3, 1, 3, 10), 0.48, 44888, 0.48),
        "reference tanh": _reference("tanh", 1.5, 39128, 2.3),
        "reference gru": _reference("gru", 0.64, 94680, 4.4),
        "reference lstm": _reference("lstm", 0.49, 122456, 6.2),
    },
    smoke={
        "tanh": Variant(Model("tanh", 8, 4, 16), "momentum", (0.1, 30.0), 60, 1.2, 1568, 0.01),
    },
    leaderboard="tanh",
)
