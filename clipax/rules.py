"""Rules: what a group of the gradient is multiplied by, given its norm and its threshold.

A rule is a function `(norm, threshold) -> factor`, elementwise over the groups, with
`norm >= 0`, `threshold >= 0` (which may be infinite) and `factor >= 0`. The edge cases:

| rule      | norm = 0 | norm <= tau   | norm > tau | tau = inf | tau = 0          |
|-----------|----------|---------------|------------|-----------|------------------|
| rescale   | 1        | 1             | tau / norm | 1         | 0 unless norm = 0|
| normalize | 1        | tau / norm    | tau / norm | 1         | 0                |
| smooth    | 1        | tau/(tau+norm)| the same   | 1         | 0 unless norm = 0|
| skip      | 1        | 1             | 0          | 1         | 0 unless norm = 0|

Variants of these with the same edges: `smooth_root` and `trust_region` of `smooth`;
`stabilized(gamma)` and `per_sample(r)` of `normalize`; `at_least(floor)` of `rescale`, but for the
smallest factor, which is `floor`.

A norm that is not finite is decided by the argument `nonfinite` of the clipper, not by the rule.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from clipax import _validate

__all__ = [
    "Rule", "at_least", "normalize", "per_sample", "rescale", "skip", "smooth", "smooth_root",
    "stabilized", "trust_region",
]  # fmt: skip

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
    return _over_sum(norm, threshold, threshold)


def _over_sum(norm: Array, threshold: Array, addition: Array) -> Array:
    """`tau / (n + addition)`; 1 where n = 0 or tau is infinite."""
    half = jnp.where(jnp.maximum(norm, jnp.maximum(threshold, addition)) > 1, 0.5, 1)
    half = half.astype(norm.dtype)
    above = threshold * half
    below = norm * half + addition * half  # n + addition itself may overflow
    free = (norm == 0) | (threshold == jnp.inf)
    factor = _ratio(jnp.where(free, 1, above), jnp.where(free, 1, below))
    shrunk = jnp.where(norm > threshold, 1 - 2 * jnp.finfo(norm.dtype).eps, 1)
    factor = jnp.minimum(factor * shrunk, jnp.finfo(norm.dtype).max)  # as in `normalize`
    return jnp.where(free, 1, factor).astype(norm.dtype)


def smooth_root(norm: Array, threshold: Array) -> Array:
    """Shrink every group a little, small ones less than `smooth` does.

    `phi = 1 / sqrt(1 + (n / tau)^2)`: the norm afterwards is below tau and grows with n.

    Args:
        norm: norms n >= 0.
        threshold: thresholds tau >= 0, of a shape that broadcasts against `norm`.

    Returns:
        The factors phi, in [0, 1].

    Example:
        >>> smooth_root(jnp.array([0.0, 3.0, 40.0]), jnp.array(4.0)).round(3)
        Array([1. , 0.8, 0.1], dtype=float32)

    References:
        With `per_element` it is the smoothed clipping y / sqrt(y^2 + eps) of Yu, Jakovetic, Kar,
        *Smoothed gradient clipping and error feedback for decentralized optimization under
        symmetric heavy-tailed noise*, 2023, https://arxiv.org/abs/2310.16920, times the root of
        eps. On vectors above tau it is the rule of Jiang, Semenov, Stich, *Enhancing LLM training
        via spectral clipping*, 2026, https://arxiv.org/abs/2603.14315, which leaves the others
        alone and so jumps at tau.
    """
    free = (norm == 0) | (threshold == jnp.inf)
    n, tau = jnp.where(free, 1, norm), jnp.where(free, 1, threshold)
    largest = jnp.maximum(n, tau)
    share = _ratio(tau, largest)
    factor = share / jnp.sqrt(_ratio(n, largest) ** 2 + share**2)
    shrunk = jnp.where(norm > threshold, 1 - 2 * jnp.finfo(norm.dtype).eps, 1)
    return jnp.where(free, 1, factor * shrunk).astype(norm.dtype)


def trust_region(norm: Array, threshold: Array) -> Array:
    """Bend single entries: straight near zero, like a tanh further out, cut off at the threshold.

    `phi = min(tau, s (0.1 log(1 + n / s) + 0.9 tanh(n / s))) / n` with `s = 0.75 tau`.

    Meant for `measures.per_element` and `tau = 2`, where `s = 1.5`.

    Args:
        norm: norms n >= 0.
        threshold: thresholds tau >= 0, of a shape that broadcasts against `norm`.

    Returns:
        The factors phi, in [0, 1].

    Example:
        >>> trust_region(jnp.array([0.015, 1.5, 60.0]), jnp.array(2.0)).round(4)
        Array([0.9995, 0.7547, 0.0318], dtype=float32)

    References:
        HeavyBall, `trust_region_clip_`, by default for the updates of its PSGD optimizers.
    """
    free = (norm == 0) | (threshold == jnp.inf) | (threshold == 0)
    n, tau = jnp.where(free, 1, norm), jnp.where(free, 1, threshold)
    x = jnp.minimum(_ratio(n, 0.75 * tau), 2.0**60)
    bent = 0.75 * (0.1 * jnp.log1p(x) + 0.9 * jnp.tanh(x))  # in units of tau
    near = x < 1e-3  # where the quotient would lose its derivative
    series = 1 - 0.05 * x - (0.9 - 0.1) / 3 * x * x
    inside = jnp.where(near, series, bent / (0.75 * jnp.where(near, 1, x)))
    factor = jnp.where(bent > 1, _ratio(tau, n) * (1 - 2 * jnp.finfo(norm.dtype).eps), inside)
    factor = jnp.minimum(factor, 1)
    edge = jnp.where((threshold == 0) & (norm > 0), 0, 1)
    return jnp.where(free, edge, factor).astype(norm.dtype)


def stabilized(gamma: float | Array) -> Rule:
    """Return the rule that normalises, the less the smaller a group is.

    `phi = tau / (n + gamma)`

    Args:
        gamma: a number >= 0; at 0 this is `normalize`.

    Returns:
        A rule with factors phi >= 0.

    Raises:
        TypeError: if `gamma` is no number.
        ValueError: if it is negative or NaN.

    Example:
        >>> stabilized(1.0)(jnp.array([0.5, 1.0, 7.0]), jnp.array(2.0)).round(4)
        Array([1.3333, 1.    , 0.25  ], dtype=float32)

    References:
        Bu, Wang, Zha, Karypis, *Automatic clipping: differentially private deep learning made
        easier and stronger*, 2023, https://arxiv.org/abs/2206.07136
    """
    _validate.number("gamma", gamma)
    if not isinstance(gamma, jax.Array) and gamma == 0:
        return normalize

    def rule(norm: Array, threshold: Array) -> Array:
        return _over_sum(norm, threshold, jnp.asarray(gamma, norm.dtype))

    return rule


def per_sample(r: float | Array = 0.1) -> Rule:
    """Return the rule that weights small groups less than `stabilized` does.

    `phi = tau / (n + r / (n + r))`: near n = 0 it is tau, and for r < 1 it is the largest at
    `n = sqrt(r) - r`.

    Args:
        r: a number > 0.

    Returns:
        A rule with factors phi >= 0.

    Raises:
        TypeError: if `r` is no number.
        ValueError: if it is not above 0.

    Example:
        >>> per_sample(1.0)(jnp.array([1.0, 3.0]), jnp.array(3.25)).round(3)
        Array([2.167, 1.   ], dtype=float32)

    References:
        Xia, Shen, Yao, Fu, Xu, Xu, Fu, *Differentially private learning with per-sample adaptive
        clipping*, 2023, https://arxiv.org/abs/2212.00328
    """
    _validate.number("r", r, above=True)

    def rule(norm: Array, threshold: Array) -> Array:
        half = jnp.where(norm > 1, 0.5, 1).astype(norm.dtype)  # n + r itself may overflow
        addition = _ratio(jnp.broadcast_to(r * half, norm.shape), norm * half + r * half)
        return _over_sum(norm, threshold, addition.astype(norm.dtype))

    return rule


def at_least(floor: float | Array) -> Rule:
    """Return the rule `rescale` with a smallest factor: what is huge stays larger than tau.

    `phi = min(1, max(floor, tau / n))`

    Args:
        floor: a number in [0, 1].

    Returns:
        A rule with factors phi in [floor, 1].

    Raises:
        TypeError: if `floor` is no number.
        ValueError: if it is outside [0, 1].

    Example:
        >>> at_least(0.1)(jnp.array([0.5, 4.0, 400.0]), jnp.array(2.0)).round(3)
        Array([1. , 0.5, 0.1], dtype=float32)

    References:
        Tucat, Mukherjee, Sen, Sun, Rivasplata, *Regularized gradient clipping provably trains wide
        and deep neural networks*, 2025, https://arxiv.org/abs/2404.08624
    """
    _validate.number("floor", floor, high=1)

    def rule(norm: Array, threshold: Array) -> Array:
        return jnp.maximum(rescale(norm, threshold), jnp.asarray(floor, norm.dtype))

    return rule


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
