"""Policies that remember the last norms."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from clipax import _validate, _windows
from clipax._trees import where_groups
from clipax.thresholds._policy import ThresholdPolicy


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
    include_current: bool = True,
) -> ThresholdPolicy:
    """Follow a percentile of the last norms, the current one included.

    `tau = multiplier * percentile_p(n_{t-window+1}, ..., n_t)`, linearly interpolated; `initial`
    until `warmup` norms have been seen, n_t included, and where the percentile is 0. Without
    `include_current` the window ends with `n_{t-1}`, and n_t does not count for the warm-up.

    The norms enter unclipped, zeros too. The window is kept sorted: an update moves each entry by
    at most one place and never sorts.

    State: the window twice and 2 numbers a group.

    Args:
        percentile: p in [0, 100]; a Python number.
        multiplier: a number > 0.
        window: how many norms are remembered, >= 1; a Python number.
        warmup: how many norms must have been seen, >= 0; it may exceed the window.
        initial: a threshold >= 0, which may be infinite.
        include_current: whether a norm enters before the threshold for it is read.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is of the wrong kind.
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
    _validate.flag("include_current", include_current)
    rank = percentile / 100 * np.maximum(np.arange(window + 1) - 1, 0)  # by how many are held
    below, above = np.floor(rank).astype(np.int32), np.ceil(rank).astype(np.int32)

    def init_fn(norm):
        history = _windows.ring(window, norm, jnp.inf)
        return WindowPercentileState(history, jnp.copy(history.values))

    def entered(norm, state):
        oldest = jnp.max(jnp.where(_windows.slot(state.history), state.history.values, 0), axis=0)
        return WindowPercentileState(
            _windows.push(state.history, norm), _windows.exchange(state.ascending, oldest, norm)
        )

    def read(state):
        held = jnp.minimum(state.history.seen, window)
        low, high = (
            jnp.take_along_axis(state.ascending, jnp.asarray(place)[held][None], axis=0)[0]
            for place in (below, above)
        )
        low, high = (jnp.where(held > 0, x, 0) for x in (low, high))  # an empty place holds inf
        fraction = jnp.asarray(rank - below, low.dtype)[held]
        value = low + fraction * (high - low)
        usable = (state.history.seen >= warmup) & (value > 0)
        return jnp.where(usable, multiplier * value, initial)

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        # What is returned for a non-finite norm is dropped, but the threshold is read from it.
        new = where_groups(jnp.isfinite(norm), entered(norm, state), state)
        return read(new if include_current else state).astype(norm.dtype), new

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


class WindowDeviationState(NamedTuple):
    """State of `window_deviation`.

    Attributes:
        history: the last norms in order of time.
    """

    history: _windows.Ring


def window_deviation(
    sigmas: float | Array = 3.0,
    *,
    window: int = 128,
    warmup: int | Array = 64,
    min_sigma: float | Array = 1e-6,
) -> ThresholdPolicy:
    """Allow the mean of the last norms and some standard deviations more, the current one excluded.

    `tau = mu + sigmas * max(sigma, min_sigma)` with the mean mu and the population standard
    deviation sigma of `n_{t-window}, ..., n_{t-1}`; `inf` until `warmup` norms have been seen, and
    where mu is 0.

    The norms enter unclipped, zeros too. Sigma is computed anew at each step, about the mean, of
    norms divided by the largest: running sums of squares turn negative, and overflow.

    State: the window and 2 numbers a group.

    Args:
        sigmas: a number >= 0.
        window: how many norms are remembered, >= 1; a Python number.
        warmup: how many norms must have been seen, >= 1; it may exceed the window.
        min_sigma: the least standard deviation, >= 0.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.window_deviation(2.0, warmup=3)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (1.0, 2.0, 3.0, 50.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau.round(3)
        Array([3.633], dtype=float32)
    """
    _validate.number("sigmas", sigmas)
    _validate.count("window", window)
    _validate.number("warmup", warmup, low=1)
    _validate.number("min_sigma", min_sigma)

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        held = _windows.held(state.history)
        mean, deviation = _windows.mean_and_deviation(state.history.values, held)
        usable = (state.history.seen >= warmup) & (mean > 0)
        threshold = jnp.where(usable, mean + sigmas * jnp.maximum(deviation, min_sigma), jnp.inf)
        return threshold.astype(norm.dtype), WindowDeviationState(
            _windows.push(state.history, norm)
        )

    return ThresholdPolicy(
        lambda norm: WindowDeviationState(_windows.ring(window, norm, 0)), update_fn
    )


class PeriodicMedianState(NamedTuple):
    """State of `periodic_median`.

    Attributes:
        threshold: the threshold until the next one.
        seen: how many norms this period has.
        ascending: they in order of size, `inf` where there are none yet.
        warm: whether the first period is over.
    """

    threshold: Array
    seen: Array
    ascending: Array
    warm: Array


def periodic_median(
    multiplier: float | Array = 2.0, *, window: int = 100, early: Sequence[int] = (10, 20, 40)
) -> ThresholdPolicy:
    """Take a multiple of the median of the norms, anew after every so many of them.

    `tau = multiplier * median(n_{t-window+1}, ..., n_t)` whenever t is a multiple of `window`, and
    that until the next time; before, `tau = 2 * multiplier * median(n_1, ..., n_t)` from each t in
    `early`, and `inf` before the first of these and where the median is 0. The median of m norms is
    the one of rank `2 floor(m / 4)`, counted from 0.

    The norms enter unclipped, zeros too.

    State: `window` and 3 numbers a group.

    Args:
        multiplier: a number > 0.
        window: how many norms lie between two thresholds, >= 1; a Python number.
        early: after how many norms a first threshold is taken; Python numbers >= 1. Those that are
            not below `window` have no effect.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.periodic_median(2.0, window=3)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (1.0, 3.0, 2.0, 50.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau
        Array([2.], dtype=float32)
    """
    _validate.number("multiplier", multiplier, above=True)
    _validate.count("window", window)
    if not isinstance(early, (tuple, list)):
        raise TypeError(f"`early` must be a tuple of integers, got {_validate.shown(early)}")
    for i, step in enumerate(early):
        _validate.count(f"early[{i}]", step)
    first = [step for step in early if step < window]

    def init_fn(norm):
        threshold = norm + jnp.asarray(jnp.inf, norm.dtype)
        ascending = _windows.filled(window, norm, jnp.inf)
        return PeriodicMedianState(
            threshold, _windows.no_count(norm), ascending, _windows.no_count(norm)
        )

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        ascending = _windows.insert(state.ascending, norm)
        seen = state.seen + 1
        whole = seen == window
        due = whole | ((state.warm == 0) & _is_one_of(seen, first))
        rank = 2 * (seen // 4)
        median = jnp.take_along_axis(ascending, rank[None], axis=0)[0]
        fresh = multiplier * jnp.where(whole, 1, 2) * jnp.where(median > 0, median, jnp.inf)
        threshold = jnp.where(due, fresh, state.threshold).astype(norm.dtype)
        new = PeriodicMedianState(
            threshold=threshold,
            seen=jnp.where(whole, 0, seen),
            ascending=jnp.where(whole[None], jnp.inf, ascending).astype(ascending.dtype),
            warm=jnp.where(whole, 1, state.warm),
        )
        # The threshold beside a non-finite norm is that of the norms before it.
        return jnp.where(norm < jnp.inf, threshold, state.threshold), new

    return ThresholdPolicy(init_fn, update_fn)


def _is_one_of(count: Array, accepted: Sequence[int]) -> Array:
    return functools.reduce(
        jnp.logical_or, [count == a for a in accepted], jnp.zeros_like(count, bool)
    )
