"""Exponential moving averages that neither overflow nor lose their last digits."""

import math

import jax.numpy as jnp
from jax import Array


def moved(old: Array, new: Array, decay: float | Array) -> Array:
    """`decay * old + (1 - decay) * new`."""
    return (old + (1 - decay) * (new - old)).astype(old.dtype)


def moved_root(old: Array, new: Array, decay: float | Array) -> Array:
    """`sqrt(decay * old^2 + (1 - decay) * new^2)`, of numbers whose squares may overflow."""
    largest = jnp.maximum(jnp.abs(old), jnp.abs(new))
    unit = jnp.where(largest == 0, 1, largest)
    square = moved((old / unit) ** 2, (new / unit) ** 2, decay)
    nonzero = jnp.where(square == 0, 1, square)
    return jnp.where(square == 0, 0, unit * jnp.sqrt(nonzero)).astype(old.dtype)


def unbiased(mean: Array, count: Array, decay: float) -> Array:
    """An average that began at zero, without the share that this zero still has."""
    return mean / _weight(mean, count, decay)


def unbiased_root(root: Array, count: Array, decay: float) -> Array:
    """The same for the root of an average of squares."""
    return root / jnp.sqrt(_weight(root, count, decay))


def _weight(mean: Array, count: Array, decay: float) -> Array:
    """`1 - decay^count`, and 1 for a count of 0."""
    if decay == 0:
        return jnp.ones_like(mean)
    weight = -jnp.expm1(count.astype(mean.dtype) * math.log(decay))
    return jnp.where(count == 0, 1, weight).astype(mean.dtype)
