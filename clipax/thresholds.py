"""Thresholds: how large may a group of the gradient be now?

A threshold is a number, a schedule of the step, or a `ThresholdPolicy`: two pure functions that
learn from the norms that pass by.

| policy              | tau                                  | state of a group     |
|---------------------|--------------------------------------|----------------------|
| `constant`          | a number                             | none                 |
| `scheduled`         | a function of the step               | none                 |
| `by_group`          | one of these for each group          | that of each         |
| `window_percentile` | multiplier x percentile of norms     | 2 window + 2 numbers |
| `moving_mean`       | multiplier x mean of clipped norms   | window + 2 numbers   |
| `decayed`           | initial x decay^k, k by steps        | 2 numbers            |
| with `clip_rate`    | the same, k only while much is cut   | window + 4 numbers   |

A policy is written elementwise over the norms of its groups and never asks how many there are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from clipax import _validate, _windows
from clipax._trees import incremented, where_groups


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
            of the state as it was, since `nonfinite="sanitize"` clips by it.
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
        A policy for measures with as many groups.

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

    def init_fn(norm):
        if norm.shape not in ((0,), (len(policies),)):  # (0,): tree_map_params asks with no leaf
            raise ValueError(
                f"`thresholds` must have one entry a group, got {len(policies)} for {norm.shape}"
            )
        return tuple(policy.init(norm) for policy in policies)

    def update_fn(norm, state, **extra_args):
        if not policies:
            return jnp.zeros_like(norm), ()
        pairs = [p.update(norm, s, **extra_args) for p, s in zip(policies, state, strict=True)]
        values, states = zip(*pairs, strict=True)
        own = [jnp.broadcast_to(value, norm.shape)[i] for i, value in enumerate(values)]
        return jnp.stack(own), states

    return ThresholdPolicy(init_fn, update_fn)


class WindowPercentileState(NamedTuple):
    """State of `window_percentile`.

    Attributes:
        history: the last norms in order of time.
        ascending: the same in order of size, `inf` where there are none yet.
    """

    history: _windows.Ring
    ascending: Array


def window_percentile(
    percentile: float = 95.0,
    *,
    multiplier: float | Array = 1.0,
    window: int = 1000,
    warmup: int | Array = 1,
    initial: float | Array = jnp.inf,
) -> ThresholdPolicy:
    """Follow a percentile of the last norms, the current one included.

    `tau = multiplier * percentile_p(n_{t-window+1}, ..., n_t)`, linearly interpolated; `initial`
    until `warmup` norms have been seen, n_t included, and where the percentile is 0.

    The norms enter unclipped, zeros too. The window is kept sorted: an update moves each entry by
    at most one place and never sorts.

    State: the window twice and 2 numbers a group.

    Args:
        percentile: p in [0, 100]; a Python number.
        multiplier: a number > 0.
        window: how many norms are remembered, >= 1; a Python number.
        warmup: how many norms must have been seen, >= 0; it may exceed the window.
        initial: a threshold >= 0, which may be infinite.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.window_percentile(50.0, window=3)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (1.0, 9.0, 2.0, 4.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau
        Array([4.], dtype=float32)
    """
    _validate.number("percentile", percentile, high=100, static=True)
    _validate.number("multiplier", multiplier, above=True)
    _validate.count("window", window)
    _validate.number("warmup", warmup)
    _validate.number("initial", initial)
    rank = percentile / 100 * np.maximum(np.arange(window + 1) - 1, 0)  # by how many are held
    below, above = np.floor(rank).astype(np.int32), np.ceil(rank).astype(np.int32)

    def init_fn(norm):
        history = _windows.ring(window, norm, jnp.inf)
        return WindowPercentileState(history, jnp.copy(history.values))

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        oldest = jnp.max(jnp.where(_windows.slot(state.history), state.history.values, 0), axis=0)
        pushed = WindowPercentileState(
            _windows.push(state.history, norm), _windows.exchange(state.ascending, oldest, norm)
        )
        # What is returned for a non-finite norm is dropped, but the threshold is read from it.
        state = where_groups(jnp.isfinite(norm), pushed, state)
        held = jnp.minimum(state.history.seen, window)
        low, high = (
            jnp.take_along_axis(state.ascending, jnp.asarray(place)[held][None], axis=0)[0]
            for place in (below, above)
        )
        fraction = jnp.asarray(rank - below, norm.dtype)[held]
        value = low + fraction * (high - low)
        usable = (state.history.seen >= warmup) & (value > 0) & (held > 0)
        return jnp.where(usable, multiplier * value, initial).astype(norm.dtype), state

    return ThresholdPolicy(init_fn, update_fn)


class MovingMeanState(NamedTuple):
    """State of `moving_mean`.

    Attributes:
        history: what was left of the last norms, in order of time.
    """

    history: _windows.Ring


def moving_mean(
    multiplier: float | Array = 1.0,
    *,
    window: int = 100,
    warmup: int | Array = 1,
    initial: float | Array = jnp.inf,
) -> ThresholdPolicy:
    """Follow the mean of the last norms, the current one not included.

    `tau = multiplier * mean(m_{t-window}, ..., m_{t-1})`, where `m = min(n, tau)` is what was left
    of a norm; `initial` until `warmup` norms have been seen, and where the mean is 0.

    State: the window and 2 numbers a group.

    Args:
        multiplier: a number > 0. At 1 or below the threshold can only fall once it has left
            `initial`; above 1 it follows a rise.
        window: how many norms are remembered, >= 1; a Python number.
        warmup: how many norms must have been seen, >= 0; it may exceed the window.
        initial: a threshold > 0, which may be infinite; at 0 nothing would ever enter.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.moving_mean(2.0)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (1.0, 3.0, 8.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau
        Array([3.], dtype=float32)
    """
    _validate.number("multiplier", multiplier, above=True)
    _validate.count("window", window)
    _validate.number("warmup", warmup)
    _validate.number("initial", initial, above=True)

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        mean = _windows.mean(state.history)
        usable = (state.history.seen >= warmup) & (mean > 0)
        threshold = jnp.where(usable, multiplier * mean, initial).astype(norm.dtype)
        return threshold, MovingMeanState(
            _windows.push(state.history, jnp.minimum(norm, threshold))
        )

    return ThresholdPolicy(lambda norm: MovingMeanState(_windows.ring(window, norm, 0)), update_fn)


class DecayedState(NamedTuple):
    """State of `decayed`.

    Attributes:
        steps: how many norms have come since k could last grow.
        decays: k.
        clipped: with `clip_rate` which of the last norms were clipped, else `()`.
    """

    steps: Array
    decays: Array
    clipped: _windows.Ring | tuple[()]


def decayed(
    initial: float | Array,
    decay: float | Array = 0.999,
    *,
    every: int = 1,
    floor: float | Array = 0.0,
    clip_rate: float | Array | None = None,
    window: int = 100,
) -> ThresholdPolicy:
    """Decay geometrically, by steps or while much is clipped.

    `tau = max(floor, initial * decay^k)` with k = 0 at the first norm. After each `every` norms k
    grows by 1; with `clip_rate` only if more than this share of the last `window` norms (of all
    norms, while there are fewer) were above their thresholds.

    State: 2 numbers a group; with `clip_rate` the window and 2 numbers more.

    Args:
        initial: the first threshold, finite and >= 0.
        decay: a number in (0, 1].
        every: how many norms lie between two decays, >= 1; a Python number.
        floor: the least threshold, >= 0.
        clip_rate: a share in [0, 1], or `None` to decay whatever was clipped.
        window: over how many norms the share is taken, >= 1; a Python number.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.decayed(8.0, 0.5, every=2)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (1.0, 1.0, 1.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau
        Array([4.], dtype=float32)
    """
    _validate.number("initial", initial, high=float(np.finfo(np.float32).max))
    _validate.number("decay", decay, high=1, above=True)
    _validate.count("every", every)
    _validate.number("floor", floor)
    if clip_rate is not None:
        _validate.number("clip_rate", clip_rate, high=1)
    _validate.count("window", window)
    # float32 holds log(0.999) to 8 digits, but 1 - 0.999 only to 5: take the logarithm in float64.
    log_decay = jnp.log(decay) if isinstance(decay, jax.Array) else math.log(decay)

    def init_fn(norm):
        clipped = () if clip_rate is None else _windows.ring(window, _windows.no_count(norm), 0)
        return DecayedState(_windows.no_count(norm), _windows.no_count(norm), clipped)

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        power = jnp.exp(state.decays.astype(norm.dtype) * log_decay)
        threshold = jnp.maximum(floor, initial * power).astype(norm.dtype)
        steps, clipped = (state.steps + 1) % every, state.clipped
        due = steps == 0
        if clip_rate is not None:
            clipped = _windows.push(clipped, norm > threshold)
            share = jnp.sum(clipped.values, axis=0) / jnp.minimum(clipped.seen, window)
            due &= share > clip_rate
        decays = jnp.where(due, incremented(state.decays), state.decays)
        return threshold, DecayedState(steps, decays, clipped)

    return ThresholdPolicy(init_fn, update_fn)
