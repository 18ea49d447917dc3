"""What a threshold policy is, and those that learn nothing: numbers, schedules, one a group."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import optax
from jax import Array

from clipax import _validate


class ThresholdPolicy(NamedTuple):
    """A threshold that has a state: a pair of pure functions.

    Attributes:
        init: receives zeros shaped like the norms and returns the state, any pytree of arrays
            whose last axes are those of the norms (a window over k groups is `[window, k]`), so
            that the state of one group can be kept while that of another moves on.
        update: `update(norm, state, *, step, param_norm, **extra_args) -> (threshold, state)`.
            `step` counts every update from 0. `param_norm()` gives the norms of the parameters in
            the same groups. `extra_args` are those of the optimizer's `update`. A norm may be NaN
            or infinite. The state that is returned for it is dropped; the threshold should be that
            of the state as it was, since `nonfinite="sanitize"` clips by it. The threshold is one
            number or shaped like `norm`, whatever that is: for groups inside leaves the norms of
            several leaves may come as one vector, so that each group is to be treated by itself.
    """

    init: Callable[[Array], Any]
    update: Callable[..., tuple[Array, Any]]


Threshold = float | Array | optax.Schedule | ThresholdPolicy


def as_policy(name: str, threshold: Any) -> ThresholdPolicy:
    """Turn a number, a schedule or a policy into a policy.

    Args:
        name: the argument's name, for messages.
        threshold: a number or scalar array >= 0, which may be infinite; a schedule; a policy.

    Returns:
        The policy.

    Raises:
        TypeError: if it is none of the three.
        ValueError: if it is a negative number or NaN.

    Example:
        >>> policy = as_policy("max_norm", 2.5)
        >>> policy.update(jnp.array([1.0]), policy.init(jnp.zeros(1)), step=0, param_norm=None)
        (Array(2.5, dtype=float32), ())
    """
    if isinstance(threshold, ThresholdPolicy):
        return threshold
    if callable(threshold):
        return scheduled(cast(optax.Schedule, threshold))
    try:
        _validate.number(name, threshold)
    except TypeError:
        kinds = "a number, a schedule (a function of the step) or a clipax.ThresholdPolicy"
        raise TypeError(f"`{name}` must be {kinds}, got {_validate.shown(threshold)}") from None
    return constant(threshold)


def constant(threshold: float | Array) -> ThresholdPolicy:
    """Keep to one threshold.

    `tau = threshold`

    State: none.

    Args:
        threshold: a number >= 0, `inf` for no clipping, or a scalar array, in which a negative
            number acts as zero.

    Returns:
        A policy.

    Raises:
        TypeError: if `threshold` is no number.
        ValueError: if it is negative or NaN.

    Example:
        >>> gradient = [jnp.array([3.0, 4.0])]
        >>> clipax.clip(gradient, clipax.global_norm(clipax.thresholds.constant(2.5)))[0]
        [Array([1.5, 2.0], dtype=float32)]
    """
    _validate.number("threshold", threshold)

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        return jnp.asarray(threshold).astype(norm.dtype), state

    return ThresholdPolicy(lambda norm: (), update_fn)


def scheduled(schedule: optax.Schedule) -> ThresholdPolicy:
    """Follow a schedule.

    `tau = schedule(step)`; a negative value acts as zero.

    State: none; the step is that of the clipper, which counts every update from 0.

    Args:
        schedule: a function of the step.

    Returns:
        A policy.

    Raises:
        TypeError: if `schedule` is not callable.

    Example:
        >>> policy = clipax.thresholds.scheduled(optax.linear_schedule(4.0, 1.0, 100))
        >>> policy.update(jnp.ones(1), (), step=50, param_norm=None)[0]
        Array(2.5, dtype=float32)
    """
    if not callable(schedule):
        raise TypeError(f"`schedule` must be a function, got {_validate.shown(schedule)}")

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del param_norm, extra_args
        return jnp.asarray(schedule(step)).astype(norm.dtype), state

    return ThresholdPolicy(lambda norm: (), update_fn)


def by_group(thresholds: Sequence[Threshold]) -> ThresholdPolicy:
    """Give each group a threshold of its own.

    `tau_i = thresholds[i]` for the group i of the measure.

    State: that of each policy, for all groups.

    Args:
        thresholds: numbers, schedules and policies, one for each group.

    Returns:
        A policy for measures with as many groups of whole leaves.

    Raises:
        TypeError: if an entry is no threshold.
        ValueError: if an entry is negative or NaN, or, when it is used, if there are more or fewer
            groups than thresholds.

    Example:
        >>> policy = clipax.thresholds.by_group([1.0, optax.linear_schedule(4.0, 1.0, 100)])
        >>> policy.update(jnp.ones(2), policy.init(jnp.zeros(2)), step=50, param_norm=None)[0]
        Array([1. , 2.5], dtype=float32)
    """
    if not isinstance(thresholds, (list, tuple)) or isinstance(thresholds, ThresholdPolicy):
        raise TypeError(f"`thresholds` must be a list, got {_validate.shown(thresholds)}")
    policies = [as_policy(f"thresholds[{i}]", t) for i, t in enumerate(thresholds)]

    def check(norm):
        if norm.shape not in ((0,), (len(policies),)):  # (0,): tree_map_params asks with no leaf
            raise ValueError(
                f"`thresholds` must have one entry a group, got {len(policies)} for {norm.shape}"
            )

    def init_fn(norm):
        check(norm)
        return tuple(policy.init(norm) for policy in policies)

    def update_fn(norm, state, **extra_args):
        check(norm)
        if not policies:
            return jnp.zeros_like(norm), ()
        pairs = [p.update(norm, s, **extra_args) for p, s in zip(policies, state, strict=True)]
        values, states = zip(*pairs, strict=True)
        own = [jnp.broadcast_to(value, norm.shape)[i] for i, value in enumerate(values)]
        return jnp.stack(own), states

    return ThresholdPolicy(init_fn, update_fn)
