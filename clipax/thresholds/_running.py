"""Policies that follow the norms with a few running numbers and remember none of them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from clipax import _averages, _validate, _windows
from clipax._trees import incremented, where_groups
from clipax.thresholds._policy import ThresholdPolicy

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)


class ExponentialMeanState(NamedTuple):
    """State of `exponential_mean`.

    Attributes:
        mean: the average of what was left of the norms.
        seen: how many norms have entered it.
    """

    mean: Array
    seen: Array


def exponential_mean(
    multiplier: float | Array, *, decay: float | Array = 0.99, warmup: int | Array = 1
) -> ThresholdPolicy:
    """Follow an exponential moving average of what was left of the norms.

    `tau = multiplier * m` and then `m <- decay m + (1 - decay) min(n, tau)`. For the first `warmup`
    norms `tau = inf`, and m is the smallest of them.

    A zero norm enters nothing, not even the count: at m = 0 nothing would ever come through again.

    State: 2 numbers a group.

    Args:
        multiplier: a number > 0. At 1 or below the threshold can only fall; above 1 it follows a
            rise by the factor `1 + (1 - decay) (multiplier - 1)` a step.
        decay: a number in [0, 1).
        warmup: how many norms m starts with, >= 1.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.exponential_mean(2.0, decay=0.5)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (1.0, 4.0, 1.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau
        Array([3.], dtype=float32)
    """
    _validate.number("multiplier", multiplier, above=True)
    _validate.number("decay", decay, high=1, below=True)
    _validate.number("warmup", warmup, low=1)

    def init_fn(norm):
        return ExponentialMeanState(jnp.copy(norm), _windows.no_count(norm))

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        starting = state.seen < warmup
        threshold = jnp.where(starting, jnp.inf, multiplier * state.mean).astype(norm.dtype)
        least = jnp.where(state.seen == 0, norm, jnp.minimum(state.mean, norm))
        followed = _averages.moved(state.mean, jnp.minimum(norm, threshold), decay)
        mean = jnp.maximum(jnp.where(starting, least, followed), _SMALLEST)
        new = ExponentialMeanState(mean.astype(norm.dtype), incremented(state.seen))
        return threshold, where_groups(norm > 0, new, state)

    return ThresholdPolicy(init_fn, update_fn)


class ZScoreState(NamedTuple):
    """State of `z_score`.

    Attributes:
        mean: the average of the norms.
        deviation: the root of the average squared distance from it.
        seen: how many norms have come.
        first: the norms of the warm-up in order of size, `inf` where there are none yet.
    """

    mean: Array
    deviation: Array
    seen: Array
    first: Array


def z_score(
    z: float | Array = 2.5,
    *,
    decay: float | Array = 0.97,
    warmup: int = 25,
    eps: float | Array = 1e-6,
    mode: str = "adaptive",
    clip_factor: float | Array = 1.0,
    skip_update_on_spike: bool = False,
    outlier: float | Array | None = 10.0,
    spread: float | Array = 0.01,
) -> ThresholdPolicy:
    """Clip norms that stand out by their z-score.

    With `s = (n - mu) / (max(sigma, spread mu) + eps)`, where `s > z`:
    `tau = clip_factor * (mu + z^2 sigma / s)`, and `tau = inf` elsewhere. Then with
    `e = min(n, tau)`: `mu <- decay mu + (1 - decay) e`, and with the new mu
    `sigma^2 <- decay sigma^2 + (1 - decay) (e - mu)^2`.

    The first `warmup` norms are not clipped, and mu and sigma start as their mean and deviation.
    A zero norm enters nothing: with mu = sigma = 0 nothing would ever come through again.

    State: `warmup` and 3 numbers a group.

    Args:
        z: the score above which a norm is clipped, > 0.
        decay: a number in [0, 1).
        warmup: how many norms mu and sigma start with, >= 1; a Python number.
        eps: what is added to sigma, >= 0. It does not scale with the norms: let it be far below
            their deviation.
        mode: what a clipped norm is clipped to: `"adaptive"` as above, the less the more it stands
            out; `"mean"` mu; `"percentile"` `mu + z max(sigma, spread mu)`, and all norms above are
            clipped.
        clip_factor: a number > 0, for the mode `"adaptive"`.
        skip_update_on_spike: whether a clipped norm enters nothing, instead of entering as e.
        outlier: norms of the warm-up that are more than this many times its median do not enter;
            `None` to let all of them in.
        spread: the least sigma that the score is taken with, in units of mu, >= 0. Without one
            every rise is clipped after a warm-up with equal norms.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range or `mode` is unknown.

    Example:
        >>> policy = clipax.thresholds.z_score(warmup=3)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (1.0, 2.0, 3.0, 50.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau.round(3)
        Array([2.087], dtype=float32)

    References:
        Kumar, Owen, Chowdhury, Güra, *ZClip: adaptive spike mitigation for LLM pre-training*, 2025,
        https://arxiv.org/abs/2504.02507
    """
    _validate.number("z", z, above=True)
    _validate.number("decay", decay, high=1, below=True)
    _validate.count("warmup", warmup)
    _validate.number("eps", eps)
    _validate.choice("mode", mode, ("adaptive", "mean", "percentile"))
    _validate.number("clip_factor", clip_factor, above=True)
    _validate.flag("skip_update_on_spike", skip_update_on_spike)
    if outlier is not None:
        _validate.number("outlier", outlier, low=1)
    _validate.number("spread", spread)

    def init_fn(norm):
        first = _windows.filled(warmup, norm, jnp.inf)
        return ZScoreState(jnp.copy(norm), jnp.copy(norm), _windows.no_count(norm), first)

    def started(norm, state):
        first = _windows.insert(state.first, norm)
        mean, deviation = _windows.mean_and_deviation(first, _usual(first, outlier))
        return ZScoreState(mean, deviation, incremented(state.seen), first)

    def least_deviation(state):
        return jnp.maximum(state.deviation, spread * state.mean)

    def score_of(norm, state):
        deviation = least_deviation(state) + eps
        excess = norm - state.mean
        flat = jnp.where(excess > 0, jnp.inf, 0)
        return jnp.where(deviation > 0, excess / jnp.where(deviation > 0, deviation, 1), flat)

    def followed(norm, state):
        score = score_of(norm, state)
        highest = state.mean + z * least_deviation(state)
        if mode == "percentile":
            aim = highest
            clipped = norm > aim
        else:
            clipped = score > z
            further = z * (z / jnp.where(clipped, score, 1)) * state.deviation
            aim = state.mean if mode == "mean" else clip_factor * (state.mean + further)
        threshold = jnp.where(clipped, aim, jnp.inf).astype(norm.dtype)
        kept = jnp.minimum(norm, threshold)
        mean = _averages.moved(state.mean, kept, decay)
        deviation = _averages.moved_root(state.deviation, kept - mean, decay)
        new = ZScoreState(mean, deviation, incremented(state.seen), state.first)
        # Beside a norm that is not finite stands what no score is needed for.
        threshold = jnp.where(jnp.isfinite(norm), threshold, highest)
        return threshold, where_groups(clipped, state, new) if skip_update_on_spike else new

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        starting = state.seen < warmup
        threshold, new = followed(norm, state)
        threshold = jnp.where(starting, jnp.inf, threshold).astype(norm.dtype)
        new = where_groups(starting, started(norm, state), new)
        return threshold, where_groups(norm > 0, new, state)

    return ThresholdPolicy(init_fn, update_fn)


def _usual(first: Array, outlier: float | Array | None) -> Array:
    """Which of the norms of a warm-up are there and not too far above their median."""
    held = first < jnp.inf
    if outlier is None:
        return held
    return held & (first <= outlier * _windows.median(first)[None])


class TrackedQuantileState(NamedTuple):
    """State of `tracked_quantile`.

    Attributes:
        log_threshold: the natural logarithm of the threshold.
        lost: what rounding took from it so far.
        seen: how many norms have come.
    """

    log_threshold: Array
    lost: Array
    seen: Array


def tracked_quantile(
    target: float | Array = 0.5,
    *,
    rate: float | Array = 0.2,
    initial: float | Array | None = None,
) -> ThresholdPolicy:
    """Track a quantile of the norms by geometric steps.

    `tau <- tau exp(-rate (b - target))` after each norm, where b is 1 if `n <= tau` and else 0:
    in the long run the share `target` of the norms is at most tau.

    A zero norm enters nothing. Tau follows a rise of all norms by a factor s in
    `ln(s) / (rate target)` steps and a fall in `ln(s) / (rate (1 - target))`; at rest it strays by
    about 12 to 26 % at rate 0.2, by 4 to 8 % at rate 0.02.

    State: 3 numbers a group.

    Args:
        target: the quantile, in (0, 1).
        rate: the step, > 0.
        initial: the first threshold, > 0 and finite; `None` for the first norm.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.tracked_quantile(initial=1.0)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (5.0, 5.0, 1.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau.round(3)
        Array([1.221], dtype=float32)

    References:
        Andrew, Thakkar, McMahan, Ramaswamy, *Differentially private learning with adaptive
        clipping*, 2021, https://arxiv.org/abs/1905.03871
    """
    _validate.number("target", target, high=1, above=True, below=True)
    _validate.number("rate", rate, above=True)
    if initial is not None:
        _validate.number("initial", initial, high=_LARGEST, above=True)

    def init_fn(norm):
        first = jnp.log(jnp.inf if initial is None else initial)
        log_threshold = norm + jnp.asarray(first, norm.dtype)
        return TrackedQuantileState(log_threshold, jnp.copy(norm), _windows.no_count(norm))

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        present = (norm > 0) & (norm < jnp.inf)
        log_threshold = state.log_threshold
        if initial is None:
            first = (state.seen == 0) & present
            own = jnp.log(jnp.where(first, norm, 1))
            log_threshold = jnp.where(first, own, log_threshold)
            threshold = jnp.where(first, norm, jnp.exp(log_threshold))
        else:
            threshold = jnp.exp(log_threshold)
        move = rate * jnp.where(norm <= threshold, target - 1, target) - state.lost
        moved = jnp.clip(log_threshold + move, math.log(_SMALLEST), math.log(_LARGEST))
        lost = (moved - log_threshold) - move  # hundreds of small steps would drift without it
        new = TrackedQuantileState(moved, lost, incremented(state.seen))
        new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)
        return threshold.astype(norm.dtype), where_groups(present, new, state)

    return ThresholdPolicy(init_fn, update_fn)
