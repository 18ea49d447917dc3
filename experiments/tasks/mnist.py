"""Does clipping help where gradients do not explode, on handwritten digits?

Claim: with Adam, which divides each entry of the gradient by its usual size, clipping changes
little; with SGD it lets a small convolutional network learn at a learning rate at which it dies
without clipping.

Protocol: 5,000 images of MNIST, 4,000 to train, 500 to validate, 500 to test. To be quick, images
are averaged down to 14 x 14 pixels; pixels are standardised over the training images. `mlp`: 32
hidden ReLU and Adam. `cnn`: SGD with momentum 0.9 and two layers of 8 and 16 convolutions of
2 x 2 pixels, ReLU; their stride is 2, so that windows do not overlap and a convolution is one
product of matrices, which CPUs do many times faster for many runs at once. Batches of 32, 400
updates, a learning rate that falls to 0 along half a cosine. The score is the share of wrong
digits with the last parameters. A run has failed when a logit is not finite or when more than 85 %
are wrong: a network that always gives the same answer has 90 %, give or take two. Both networks are
written in Flax Linen, all other tasks in Flax NNX.

Seeds: a seed fixes the initial parameters and all batches.
Runtime: about three minutes on two cores for the methods people ask about.
Command: `python -m experiments run mnist`
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data
from experiments.config import Variant
from experiments.data import digits
from experiments.task import Experiment
from experiments.train import Material, Record, Task

_CUTS = [4000, 4500]
_SIDE = 14
_CLASSES = 10
_BATCH = 32
_FLOOR = 0.85


@dataclass(frozen=True)
class Model:
    """Kind of network, `mlp` or `cnn`, and the width of its first layer."""

    kind: str
    width: int


def load(cache: Path | None, model: Model) -> Material:
    """The digits, split into training, validation and test."""
    images, labels = digits.load(cache)
    pooled = images.reshape(-1, _SIDE, 2, _SIDE, 2).mean((2, 4))
    train = pooled[: _CUTS[0]]
    pooled = (pooled - train.mean()) / train.std()
    parts = zip(np.split(pooled, _CUTS), np.split(labels, _CUTS), strict=True)
    arrays = dict(zip(("train", "valid", "test"), parts, strict=True))
    floors = {"valid": _FLOOR, "test": _FLOOR}
    return Material(arrays, floors, 1 - 1 / _CLASSES, data.digest(pooled, labels))


class Perceptron(nn.Module):
    """One hidden layer."""

    width: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits `[batch, class]` of images `[batch, row, column]`."""
        pixels = images.reshape(len(images), -1)
        return nn.Dense(_CLASSES)(nn.relu(nn.Dense(self.width)(pixels)))


class Convolutional(nn.Module):
    """Two layers of convolutions, the second twice as wide as the first."""

    width: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits `[batch, class]` of images `[batch, row, column]`."""
        maps = images[..., None]
        for width in (self.width, 2 * self.width):
            maps = nn.relu(nn.Dense(width)(_windows(maps)))
        return nn.Dense(_CLASSES)(maps.reshape(len(images), -1))


def _windows(maps: jax.Array) -> jax.Array:
    """The four pixels of each window of 2 x 2, side by side in the last axis."""
    # What is padded at the lower and right edge is nothing where the side is even.
    odd = maps.shape[1] % 2
    maps = jnp.pad(maps, ((0, 0), (0, odd), (0, odd), (0, 0)))
    count, side, _, channels = maps.shape
    half = side // 2
    split = maps.reshape(count, half, 2, half, 2, channels)
    return split.swapaxes(2, 3).reshape(count, half, half, 4 * channels)


_NETWORKS = {"mlp": Perceptron, "cnn": Convolutional}


@cache
def build(model: Model) -> Task:
    """Digits, told apart by a network."""
    network = _NETWORKS[model.kind](model.width)
    return Task(
        init=lambda key, data: network.init(key, jnp.zeros((1, _SIDE, _SIDE))),
        batch=lambda key, data: _draw(key, *data["train"]),
        loss=lambda params, batch: _loss(network, params, *batch),
        evaluate=partial(_evaluate, network),
    )


def _draw(key: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    chosen = jax.random.randint(key, (_BATCH,), 0, len(labels))
    return images[chosen], labels[chosen]


def _loss(network: nn.Module, params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    logits: Any = network.apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _evaluate(
    network: nn.Module, params: Any, record: Record, data: dict[str, Any]
) -> dict[str, jax.Array]:
    def wrong(images: jax.Array, labels: jax.Array) -> jax.Array:
        logits: Any = network.apply(params, images)
        share = jnp.mean(logits.argmax(-1) != labels)
        return jnp.where(jnp.all(jnp.isfinite(logits)), share, jnp.inf)

    return {split: wrong(*data[split]) for split in ("valid", "test")}


_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
TASK = Experiment(
    title="Handwritten digits",
    score="share of wrong digits among 500",
    unit="share of wrong digits",
    failure=f"a logit is not finite, or more than {_FLOOR:.0%} of the digits are wrong",
    load=load,
    build=build,
    variants={
        "mlp": Variant(Model("mlp", 32), "adam", _RATES, 400, 1.2, 6634, 0.02),
        "cnn": Variant(Model("cnn", 8), "momentum", _RATES, 400, 1.5, 3138, 0.054),
    },
    smoke={
        "mlp": Variant(Model("mlp", 2), "adam", (0.01, 1.0), 16, 1.2, 424, 0.001),
    },
    leaderboard="cnn",
)
