"""Do adaptive thresholds widen the stable learning rates of language models, on folk tunes?

Claim: methods that follow the history of norms (AutoClip, ZClip, AdaGC, SPAM) are said to train
language models at learning rates at which a fixed threshold fails, and to leave fewer spikes of
the loss. At this scale the page says what the numbers say.

Protocol: 1.65 million characters of folk tunes in ABC notation, or a text of your own (`--text`),
as 128 symbols. The text is cut into ten stretches; the first 90 % of each train, 5 % validate, 5 %
test. A model reads 32 symbols one-hot and predicts the symbol after each; training draws 8 such
windows an update, and the score is the mean over 256 fixed ones that do not overlap, in nats a
symbol. `lstm` has 48 units and 200 updates. `transformer` has two layers of width 32 with four
heads, layer norms before attention and perceptron, learnt positions and no dropout, and 600
updates. The readout's bias starts at the log-frequencies of the training symbols. Adam, no weight
decay, a learning rate that falls to 0 along half a cosine without a warm-up. In the variants `bad
batches` the symbols to predict are random in each batch with probability 2 %, and nothing tells the
model. Scores are those of the last parameters. A run has failed when its score is not finite or
worse than that of symbols at their training frequencies (3.63 nats validation, 3.58 test).

Seeds: a seed fixes the initial parameters and all batches, the bad ones too.
Runtime: about a quarter of an hour on two cores for the methods people ask about.
Command: `python -m experiments run characters`
"""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import data, models
from experiments.config import Variant
from experiments.data import folk_tunes
from experiments.task import Experiment
from experiments.train import Material, Task

SYMBOLS = 128
_STRETCHES = 10
_TRAIN, _VALID = 0.9, 0.95
_SCORED = 256
_LAYERS, _HEADS = 2, 4
_POSITIONS = nnx.initializers.normal(0.02)

Batch = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class Model:
    """A language model and the windows of text that it reads.

    Attributes:
        net: `lstm` or `transformer`.
        width: hidden units, or size of the transformer's residual stream.
        length: symbols of a window that are predicted.
        batch: windows an update.
        bad: share of the batches whose targets are random symbols.
        text: path of a text file to read instead of the folk tunes.
    """

    net: str
    width: int = 48
    length: int = 32
    batch: int = 8
    bad: float = 0.0
    text: str = ""


def load(_: Path | None, model: Model) -> Material:
    """The text as numbers of symbols, and the score of symbols by their frequency alone."""
    content = folk_tunes.read(model.text) if model.text else folk_tunes.text()
    symbols, _names = folk_tunes.encode(content, SYMBOLS)
    train, valid, test = split(symbols)
    counts = np.bincount(train.ravel(), minlength=SYMBOLS) + 1
    frequencies = np.log(counts / counts.sum()).astype(np.float32)
    arrays = {
        "train": train,
        "valid": windows(valid, model.length),
        "test": windows(test, model.length),
        "frequencies": frequencies,
    }
    floors = {part: -float(frequencies[arrays[part][1:]].mean()) for part in ("valid", "test")}
    return Material(arrays, floors, floors["test"], data.digest(symbols))


def split(symbols: np.ndarray) -> list[np.ndarray]:
    """Ten stretches of the text, the first 90 % of each to train, 5 % to validate, 5 % to test."""
    # Not the end of the whole: collections of tunes follow each other and differ.
    size = len(symbols) // _STRETCHES
    stretches = symbols[: size * _STRETCHES].reshape(_STRETCHES, size)
    return np.split(stretches, [int(_TRAIN * size), int(_VALID * size)], axis=1)


def windows(stretches: np.ndarray, length: int) -> np.ndarray:
    """At most 256 windows `[length + 1, window]`, evenly over the stretches, none overlapping."""
    per_stretch = stretches.shape[1] // (length + 1)
    cut = stretches[:, : per_stretch * (length + 1)].reshape(-1, length + 1)
    chosen = np.linspace(0, len(cut) - 1, min(_SCORED, len(cut))).astype(int)
    return cut[chosen].T


@cache
def build(model: Model) -> Task:
    """Next-symbol prediction."""
    language = net(model)
    return Task(
        init=lambda key, data: language.init(key, data["frequencies"]),
        batch=lambda key, data: draw(key, model, data["train"]),
        loss=partial(_loss, language),
        evaluate=lambda params, _, data: {
            part: _loss(language, params, (data[part][:-1], data[part][1:]))
            for part in ("valid", "test")
        },
    )


def net(model: Model) -> models.Model:
    """A model of one-hot symbols `[time, batch, symbols]`; `init` takes the bias of the readout."""
    if model.net == "lstm":
        return models.recurrent("lstm", SYMBOLS, model.width, SYMBOLS)
    return models.pure(
        lambda key, bias: Transformer(model, bias, nnx.Rngs(key)), jnp.zeros(SYMBOLS)
    )


class Transformer(nnx.Module):
    """Causal, layer norms before each sublayer, learnt positions."""

    def __init__(self, model: Model, bias: jax.Array, rngs: nnx.Rngs):
        width = model.width
        self.embed = nnx.Linear(SYMBOLS, width, use_bias=False, rngs=rngs)
        self.positions = nnx.Param(_POSITIONS(rngs.params(), (model.length, 1, width)))
        self.first, self.second = Block(width, rngs), Block(width, rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.readout = nnx.Linear(width, SYMBOLS, bias_init=lambda *_: bias, rngs=rngs)

    def __call__(self, symbols: jax.Array) -> jax.Array:
        stream = self.embed(symbols) + self.positions[...]
        return self.readout(self.norm(self.second(self.first(stream))))


class Block(nnx.Module):
    """Attention and a perceptron, each added to what it reads, `[time, batch, width]`."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.before_attention = nnx.LayerNorm(width, rngs=rngs)
        self.project = nnx.Linear(width, 3 * width, rngs=rngs)
        self.merge = nnx.Linear(width, width, rngs=rngs)
        self.before_perceptron = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, stream: jax.Array) -> jax.Array:
        stream = stream + self.merge(_attend(self.project(self.before_attention(stream))))
        return stream + self.down(nnx.gelu(self.up(self.before_perceptron(stream))))


def _attend(projected: jax.Array) -> jax.Array:
    time, batch, _ = projected.shape
    heads = jnp.swapaxes(projected, 0, 1).reshape(batch, time, 3, _HEADS, -1)
    query, key, value = jnp.moveaxis(heads, 2, 0)
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    return jnp.swapaxes(mixed.reshape(batch, time, -1), 0, 1)


def draw(key: jax.Array, model: Model, stretches: jax.Array) -> Batch:
    """Random windows `[time, batch]` and the symbols that follow, in a bad batch random ones."""
    places, spoilt, noise = jax.random.split(key, 3)
    stretch, start = jax.random.randint(
        places,
        (2, model.batch),
        0,
        jnp.array([[len(stretches)], [stretches.shape[1] - model.length]]),
    )
    window = stretches[stretch, start + jnp.arange(model.length + 1)[:, None]]
    if not model.bad:
        return window[:-1], window[1:]
    random = jax.random.randint(noise, window[1:].shape, 0, SYMBOLS).astype(window.dtype)
    return window[:-1], jnp.where(jax.random.bernoulli(spoilt, model.bad), random, window[1:])


def _loss(language: models.Model, params: Any, batch: Batch) -> jax.Array:
    symbols, following = batch
    logits = language.apply(params, jax.nn.one_hot(symbols, SYMBOLS))
    return optax.softmax_cross_entropy_with_integer_labels(logits, following).mean()


def _lstm(bad: float = 0.0) -> Variant:
    model = Model("lstm", width=48, bad=bad)
    return Variant(model, "adam", (0.01, 0.03, 0.1, 0.3, 1), 200, 0.3, 40256, 0.24)


def _transformer(bad: float = 0.0) -> Variant:
    model = Model("transformer", width=32, bad=bad)
    return Variant(model, "adam", (0.001, 0.003, 0.01, 0.03, 0.1), 600, 1.2, 34816, 0.95)


_BAD = 0.02
_TINY = Model("", width=8, length=8, batch=2)


TASK = Experiment(
    title="Folk tunes, symbol by symbol",
    score="negative log-likelihood of held-out text, nats a symbol",
    unit="nats a symbol",
    failure="not finite, or worse than symbols at their training frequencies",
    load=load,
    build=build,
    variants={
        "lstm": _lstm(),
        "lstm, bad batches": _lstm(_BAD),
        "transformer": _transformer(),
        "transformer, bad batches": _transformer(_BAD),
    },
    smoke={
        "lstm, bad batches": Variant(
            replace(_TINY, net="lstm", bad=0.1), "adam", (0.03, 1.0), 16, 0.3, 5536, 0.01
        ),
        "transformer": Variant(
            replace(_TINY, net="transformer"), "adam", (0.01, 0.1), 16, 1.2, 4000, 0.01
        ),
    },
    leaderboard="lstm",
)
