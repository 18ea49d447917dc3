"""Policies that wrap another threshold."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from clipax import _validate, _windows
from clipax._trees import where_groups
from clipax.thresholds._policy import Threshold, ThresholdPolicy, as_policy


def scaled(threshold: Threshold, schedule: optax.Schedule) -> ThresholdPolicy:
    """Multiply a threshold by a schedule.

    `tau = schedule(step) * tau_0`; a negative value acts as zero, and an infinite tau_0 stays
    infinite.

    What `threshold` learns it learns as if its own tau_0 had been applied.

    State: that of `threshold`.

    Args:
        threshold: a number, a schedule or a policy.
        schedule: a function of the step, such as `optax.exponential_decay(1.0, 1, 0.999)`.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `threshold` is negative or NaN.

    Example:
        >>> policy = clipax.thresholds.scaled(2.0, optax.exponential_decay(1.0, 1, 0.5))
        >>> policy.update(jnp.ones(1), policy.init(jnp.zeros(1)), step=2, param_norm=None)[0]
        Array([0.5], dtype=float32)

    References:
        Opacus, `ExponentialGradClip`, `LambdaGradClip` and `StepGradClip`, which multiply the
        threshold by gamma each epoch, by a function of the epoch, and by gamma every few epochs.
    """
    policy = as_policy("threshold", threshold)
    if not callable(schedule):
        raise TypeError(f"`schedule` must be a function, got {_validate.shown(schedule)}")

    def update_fn(norm, state, *, step, **extra_args):
        inner, state = policy.update(norm, state, step=step, **extra_args)
        return _times(inner, jnp.asarray(schedule(step)), norm), state

    return ThresholdPolicy(policy.init, update_fn)


def _times(threshold: Array, factor: Array, norm: Array) -> Array:
    """The product; infinite where the threshold is, unless the factor is NaN."""
    threshold = jnp.broadcast_to(threshold, norm.shape).astype(norm.dtype)
    free = threshold == jnp.inf
    product = jnp.where(free, 1, threshold) * factor.astype(norm.dtype)
    return jnp.where(free & (product == product), jnp.inf, product).astype(norm.dtype)


def warmup(
    threshold: Threshold, factor: float | Array = 10.0, steps: int | Array = 1000
) -> ThresholdPolicy:
    """Raise a threshold for the first steps.

    `tau = factor * tau_0` for the first `steps` steps, then `tau = tau_0`.

    What `threshold` learns it learns as if its own tau_0 had been applied.

    State: that of `threshold`.

    Args:
        threshold: a number, a schedule or a policy.
        factor: a finite number > 0.
        steps: how many steps the threshold is raised for, >= 0.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.warmup(2.0, factor=10.0, steps=5)
        >>> state = policy.init(jnp.zeros(1))
        >>> [policy.update(jnp.ones(1), state, step=t, param_norm=None)[0].item() for t in (4, 5)]
        [20.0, 2.0]

    References:
        OLMo, `grad_clip_warmup_steps` and `grad_clip_warmup_factor` of its training options.
    """
    _validate.number("factor", factor, high=float(np.finfo(np.float32).max), above=True)
    _validate.number("steps", steps)
    return scaled(threshold, lambda step: jnp.where(jnp.asarray(step) < steps, factor, 1))


def capped(threshold: Threshold, maximum: float | Array) -> ThresholdPolicy:
    """Hold a threshold below a number.

    `tau = min(tau_0, maximum)`

    What `threshold` learns it learns as if its own tau_0 had been applied.

    State: that of `threshold`.

    Args:
        threshold: a number, a schedule or a policy.
        maximum: a number >= 0, which may be infinite.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is negative or NaN.

    Example:
        >>> policy = clipax.thresholds.capped(optax.linear_schedule(0.0, 8.0, 8), 3.0)
        >>> [policy.update(jnp.ones(()), (), step=t, param_norm=None)[0].item() for t in (2, 7)]
        [2.0, 3.0]
    """
    policy = as_policy("threshold", threshold)
    _validate.number("maximum", maximum)

    def update_fn(norm, state, **extra_args):
        inner, state = policy.update(norm, state, **extra_args)
        return jnp.minimum(inner, jnp.asarray(maximum)).astype(norm.dtype), state

    return ThresholdPolicy(policy.init, update_fn)


class RestartedState(NamedTuple):
    """State of `restarted`.

    Attributes:
        policy: the state of the policy.
        candidate: the state that it would have if it had begun with the current run of norms far
            above the threshold.
        run: how long that run is.
    """

    policy: Any
    candidate: Any
    run: Array


def restarted(
    policy: ThresholdPolicy, patience: int | Array = 25, *, ratio: float | Array = 1.0
) -> ThresholdPolicy:
    """Let a policy begin anew at a level that lasts: it is no spike.

    `tau = tau_0`; after `patience` norms in a row with `n > ratio * tau_0` the state of `policy`
    becomes what it would be if these were the only norms that it has seen.

    Put what lowers a threshold, such as `capped`, around this and not inside it: "far above" is
    meant of the threshold that `policy` gives.

    A policy that learns from clipped norms alone can be stuck below a new level for thousands of
    steps, or for ever. The price: that many explosions in a row are accepted. A zero norm neither
    extends a run nor ends it.

    State: that of `policy` twice and 1 number a group.

    Args:
        policy: a policy.
        patience: how many norms in a row make a new level, >= 1.
        ratio: how far above the threshold they are, >= 1.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.restarted(clipax.thresholds.exponential_mean(1.1), 3)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (1.0, 9.0, 8.0, 9.0, 9.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau.round(2)
        Array([9.89], dtype=float32)
    """
    if not isinstance(policy, ThresholdPolicy):
        raise TypeError(f"`policy` must be a clipax.ThresholdPolicy, got {_validate.shown(policy)}")
    _validate.number("patience", patience, low=1)
    _validate.number("ratio", ratio, low=1)

    def init_fn(norm):
        return RestartedState(policy.init(norm), policy.init(norm), _windows.no_count(norm))

    def update_fn(norm, state, **extra_args):
        threshold, main = policy.update(norm, state.policy, **extra_args)
        far = norm / ratio > threshold
        _, candidate = policy.update(norm, state.candidate, **extra_args)
        fresh = policy.init(jnp.zeros_like(norm))
        run = jnp.where(far, state.run + 1, 0)
        due = run >= patience
        new = RestartedState(
            policy=where_groups(due, candidate, main),
            candidate=where_groups(far & ~due, candidate, fresh),
            run=jnp.where(due, 0, run),
        )
        return threshold, where_groups(norm > 0, new, state._replace(policy=main))

    return ThresholdPolicy(init_fn, update_fn)
