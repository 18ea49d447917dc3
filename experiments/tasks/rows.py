"""Does clipping save recurrent nets that read pictures, one row after the other?

Claim: a net that reads a long sequence and answers once, at its end, has now and then a gradient
that is many times larger than usual (Pascanu et al. 2013); clipping it lets the net learn at a
learning rate about three times as high, and that rate learns more in the same number of updates.

Protocol: 5,000 images of MNIST, 4,000 to train, 500 to validate, 500 to test, pixels between 0
and 1. A cell with 32 units reads the 28 rows of an image from the top, and a linear readout of its
last state names the digit. SGD with momentum 0.9, batches of 16, 400 updates. `pixels`, among the
long variants, reads the same image in 784 steps of one pixel with a tanh cell and Adam; to learn
that well takes many thousands of updates, and here it is seen whether a net begins to. Learning
rates fall to 0 along half a cosine. The score is the share of wrong digits with the last
parameters. A run has failed when a logit is not finite or when more than 85 % are wrong: a net that
always gives the same answer has 90 %, give or take two.

Seeds: a seed fixes the initial parameters and all batches.
Runtime: about seven minutes on two cores for the methods people ask about, and about forty
more with `--long`.
Command: `python -m experiments run rows`
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data, models
from experiments.config import Variant
from experiments.data import digits
from experiments.task import Experiment
from experiments.train import Material, Task

_PIXELS, _CLASSES = 784, 10
_CUTS = (4000, 4500)
_SPLITS = ("train", "valid", "test")
# A net that always names the same digit is wrong nine times in ten, give or take two in a hundred.
_TRIVIAL, _FLOOR = 0.9, 0.85
_TOGETHER = 50


@dataclass(frozen=True)
class Model:
    """A recurrent net and how it reads an image.

    Attributes:
        cell: name in `models.CELLS`.
        pixels: how many it reads a step: 28 is a row, 1 a single pixel.
        width: hidden units.
        batch: images an update.
    """

    cell: str
    pixels: int = 28
    width: int = 32
    batch: int = 16


def load(cache: Path | None, _: Model) -> Material:
    """The digits: 4,000 to train, 500 to validate, 500 to test."""
    images, labels = digits.load(cache)
    parts = zip(np.split(images, _CUTS), np.split(labels, _CUTS), strict=True)
    arrays = dict(zip(_SPLITS, parts, strict=True))
    floors = {"valid": _FLOOR, "test": _FLOOR}
    return Material(arrays, floors, _TRIVIAL, data.digest(images, labels))


@cache
def build(model: Model) -> Task:
    """Digits of images that are read a few pixels at a time."""
    net = models.recurrent(model.cell, model.pixels, model.width, _CLASSES, last=True)
    return Task(
        init=lambda key, _: net.init(key, jnp.zeros(_CLASSES)),
        batch=lambda key, data: _draw(key, model.batch, *data["train"]),
        loss=lambda params, batch: _loss(net, model.pixels, params, *batch),
        evaluate=lambda params, _, data: {
            split: _wrong(net, model.pixels, params, *data[split]) for split in _SPLITS[1:]
        },
    )


def _draw(
    key: jax.Array, batch: int, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows = jax.random.randint(key, (batch,), 0, len(labels))
    return images[rows], labels[rows]


def steps(images: jax.Array, pixels: int) -> jax.Array:
    """Images `[batch, 784]` as sequences `[time, batch, pixels]`, from the top left."""
    return jnp.swapaxes(images.reshape(len(images), -1, pixels), 0, 1)


def _loss(
    net: models.Model, pixels: int, params: Any, images: jax.Array, labels: jax.Array
) -> jax.Array:
    logits = net.apply(params, steps(images, pixels))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _wrong(
    net: models.Model, pixels: int, params: Any, images: jax.Array, labels: jax.Array
) -> jax.Array:
    # A few at a time: the states of all steps of all images would fill the memory.
    few = images.reshape(-1, _TOGETHER, _PIXELS)
    logits = jax.lax.map(lambda part: net.apply(params, steps(part, pixels)), few)
    wrong = logits.reshape(-1, _CLASSES).argmax(-1) != labels
    # The largest of NaNs is the first, and zeros would then be right.
    return jnp.where(jnp.isfinite(logits).all(), wrong.mean(), jnp.nan)


def _variant(
    cell: str, rates: tuple[float, ...], scale: float, parameters: int, seconds: float
) -> Variant:
    return Variant(Model(cell), "momentum", rates, 400, scale, parameters, seconds)


TASK = Experiment(
    title="Digits row by row",
    score="share of wrong digits among 500",
    unit="share of wrong digits",
    failure=f"a logit is not finite, or more than {_FLOOR:.0%} of the digits are wrong",
    load=load,
    build=build,
    variants={
        "tanh": _variant("tanh", (0.003, 0.01, 0.03, 0.1, 0.3), 2.0, 2282, 0.075),
        "gru": _variant("gru", (0.03, 0.1, 0.3, 1, 3), 0.9, 6186, 0.18),
        "lstm": _variant("lstm", (0.1, 0.3, 1, 3, 10), 0.9, 8138, 0.23),
    },
    smoke={
        "gru": Variant(Model("gru", width=4, batch=4), "momentum", (0.1, 3.0), 16, 0.9, 446, 0.002),
    },
    leaderboard="gru",
    long={
        "pixels": Variant(
            Model("tanh", pixels=1),
            "adam",
            (0.0001, 0.0003, 0.001, 0.003, 0.01),
            800,
            5.0,
            1418,
            3.8,
        ),
    },
)
