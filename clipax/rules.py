"""Rules: what a group of the gradient is multiplied by, given its norm and its threshold.

A rule is a function `(norm, threshold) -> factor`, elementwise over the groups, with
`norm >= 0`, `threshold >= 0` (which may be infinite) and `factor >= 0`. The edge cases:

| rule      | norm = 0 | norm <= tau   | norm > tau | tau = inf | tau = 0          |
|-----------|----------|---------------|------------|-----------|------------------|
| rescale   | 1        | 1             | tau / norm | 1         | 0 unless norm = 0|
| normalize | 1        | tau / norm    | tau / norm | 1         | 0                |
| smooth    | 1        | tau/(tau+norm)| the same   | 1         | 0 unless norm = 0|
| skip      | 1        | 1             | 0          | 1         | 0 unless norm = 0|

A norm that is not finite is decided by the argument `nonfinite` of the clipper, not by the rule.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Rule = Callable[[Array, Array], Array]


@jax.custom_jvp
def _ratio(a: Array, b: Array) -> Array:
    """`a / b`, with a derivative that is finite wherever the true one is: `b^2` is never formed."""
    return a / b


@_ratio.defjvp
def _ratio_jvp(primals, tangents):
    (a, b), (da, db) = primals, tangents
    ratio = a / b
    return ratio, da / b - ratio * (db / b)


def rescale(norm: Array, threshold: Array) -> Array:
    """Shrink what is larger than the threshold down to it.

    `phi = min(1, tau / n)`; where it clips it is smaller by two units in the last place, so that
    the rounded result does not exceed tau.

    Args:
        norm: norms n >= 0.
        threshold: thresholds tau >= 0, of a shape that broadcasts against `norm`.

    Returns:
        The factors phi, in [0, 1].

    Example:
        >>> rescale(jnp.array([0.5, 2.0, 4.0]), jnp.array(2.0)).round(3)
        Array([1. , 1. , 0.5], dtype=float32)

    References:
        Pascanu, Mikolov, Bengio, *On the difficulty of training recurrent neural networks*, 2013,
        https://arxiv.org/abs/1211.5063
    """
    over = norm > threshold
    shrunk = 1 - 2 * jnp.finfo(norm.dtype).eps
    return jnp.where(
        over, _ratio(jnp.broadcast_to(threshold, norm.shape), jnp.where(over, norm, 1)) * shrunk, 1
    )


def normalize(norm: Array, threshold: Array) -> Array:
    """Bring every group to the threshold, small ones too.

    `phi = tau / n`, and 1 where n = 0 or tau is infinite. A tiny gradient is enlarged by as much,
    and so is its derivative, which overflows where `phi / n` does.

    Args:
        norm: norms n >= 0.
        threshold: thresholds tau >= 0, of a shape that broadcasts against `norm`.

    Returns:
        The factors phi >= 0.

    Example:
        >>> normalize(jnp.array([0.5, 2.0, 4.0]), jnp.array(2.0)).round(3)
        Array([4. , 1. , 0.5], dtype=float32)
    """
    threshold = jnp.broadcast_to(threshold, norm.shape)
    free = (norm == 0) | (threshold == jnp.inf)
    factor = _ratio(jnp.where(free, 1, threshold), jnp.where(free, 1, norm))
    largest = jnp.finfo(factor.dtype).max  # an infinite factor would make NaN of zero entries
    return jnp.where(threshold == 0, jnp.zeros_like(factor), jnp.minimum(factor, largest))


def smooth(norm: Array, threshold: Array) -> Array:
    """Shrink every group a little and large ones to almost the threshold, without a kink.

    `phi = tau / (tau + n)`: the norm afterwards is below tau and grows with n.

    Args:
        norm: norms n >= 0.
        threshold: thresholds tau >= 0, of a shape that broadcasts against `norm`.

    Returns:
        The factors phi, in [0, 1].

    Example:
        >>> smooth(jnp.array([0.5, 2.0, 6.0]), jnp.array(2.0)).round(3)
        Array([0.8 , 0.5 , 0.25], dtype=float32)
    """
    half = jnp.where(jnp.maximum(norm, threshold) > 1, 0.5, 1).astype(norm.dtype)
    above = threshold * half
    below = above + norm * half  # tau + n itself may overflow
    free = (norm == 0) | (threshold == jnp.inf)
    factor = _ratio(jnp.where(free, 1, above), jnp.where(free, 1, below))
    shrunk = jnp.where(norm > threshold, 1 - 2 * jnp.finfo(norm.dtype).eps, 1)
    return jnp.where(free, 1, factor * shrunk).astype(norm.dtype)


def skip(norm: Array, threshold: Array) -> Array:
    """Drop what is larger than the threshold.

    `phi = 1` where `n <= tau`, else 0.

    Args:
        norm: norms n >= 0.
        threshold: thresholds tau >= 0, of a shape that broadcasts against `norm`.

    Returns:
        The factors phi, 0 or 1.

    Example:
        >>> skip(jnp.array([0.5, 2.0, 6.0]), jnp.array(2.0))
        Array([1., 1., 0.], dtype=float32)
    """
    return (norm <= threshold).astype(norm.dtype)
