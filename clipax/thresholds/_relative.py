"""Policies relative to the parameters, or to the second moment of the gradient."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from clipax import _averages, _validate
from clipax._trees import incremented
from clipax.thresholds._policy import ThresholdPolicy


def relative(ratio: float | Array = 0.01, *, eps: float | Array = 1e-3) -> ThresholdPolicy:
    """Allow a share of the norm of the parameters.

    `tau = ratio * max(||w||, eps)` with the parameters w of the group.

    State: none; `update` needs `params`.

    Args:
        ratio: a number >= 0.
        eps: the least norm that parameters are taken to have, >= 0, so that those at zero can move.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> clipper = clipax.clip_by(clipax.measures.per_leaf(), clipax.thresholds.relative(0.1))
        >>> clipax.clip([jnp.array([3.0, 4.0])], clipper, params=[jnp.array([15.0, 20.0])])[0]
        [Array([1.5, 2.0], dtype=float32)]
    """
    _validate.number("ratio", ratio)
    _validate.number("eps", eps)

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, extra_args
        threshold = ratio * jnp.maximum(param_norm(), eps)
        return threshold.astype(norm.dtype), state

    return ThresholdPolicy(lambda norm: (), update_fn)


class SecondMomentState(NamedTuple):
    """State of `second_moment`.

    Attributes:
        root: the root of the average square of what was left of the norms.
    """

    root: Array


def second_moment(
    ratio: float | Array = 5000.0,
    *,
    decay: float | Array = 0.999,
    every: int | Array | None = 500,
    warmup: int | Array = 20,
) -> ThresholdPolicy:
    """Allow a multiple of the second moment of the norms before the current one.

    `tau = sqrt(ratio * v)` and then `v <- decay v + (1 - decay) min(n, tau)^2`, without correction
    of the bias. At each multiple t of `every`, t = 1 being the first step, v begins at 0 again
    before that norm enters. `tau = inf` while `t mod every < warmup`, and where v is 0, so that
    zeros let everything through and pin nothing.

    State: 1 number a group.

    Args:
        ratio: a number > 0.
        decay: a number in [0, 1).
        every: how many steps lie between two beginnings of v, >= 1; `None` for only one.
        warmup: for how many steps nothing is clipped then, >= 0 and below `every`; at the start for
            one fewer, as t begins at 1.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.second_moment(4.0, decay=0.5, warmup=1)
        >>> state = policy.init(jnp.zeros(1))
        >>> for step in range(3):
        ...     tau, state = policy.update(jnp.ones(1), state, step=step, param_norm=None)
        >>> tau.round(3)
        Array([1.732], dtype=float32)
    """
    _validate.number("ratio", ratio, above=True)
    _validate.number("decay", decay, high=1, below=True)
    _validate.number("warmup", warmup)
    if every is not None:
        _validate.number("every", every, low=1)
        _validate.shorter("warmup", warmup, "every", every)

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del param_norm, extra_args
        count = incremented(jnp.asarray(step, jnp.int32))
        age = count if every is None else count % every
        root = jnp.where(age == 0, 0, state.root).astype(norm.dtype)
        usable = (age >= warmup) & (root > 0)
        threshold = jnp.where(usable, jnp.sqrt(ratio) * root, jnp.inf).astype(norm.dtype)
        kept = jnp.minimum(norm, threshold)
        return threshold, SecondMomentState(_averages.moved_root(root, kept, decay))

    return ThresholdPolicy(lambda norm: SecondMomentState(jnp.copy(norm)), update_fn)
