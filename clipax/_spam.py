"""The gradient transformations of SPAM and Stable-SPAM."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from clipax import _averages, _validate, _windows, measures, rules, thresholds
from clipax._core import Given, clip_by, follow, initial_policy_state, without_nonfinite
from clipax._places import entries_at
from clipax._scale import like, scale
from clipax._state import ClipState, initial_metrics
from clipax._trees import incremented, is_measured, leaves_where, promoted, where_groups
from clipax.measures import Norms
from clipax.thresholds import ThresholdPolicy


def spam(
    ratio: float | Array = 5000.0,
    *,
    decay: float | Array = 0.999,
    every: int | Array | None = 500,
    warmup: int | Array = 20,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip single entries by their own second moment.

    `tau_i = sqrt(ratio * v_i)`, `g_i <- min(1, tau_i / |g_i|) g_i` and then
    `v_i <- decay v_i + (1 - decay) g_i^2`, which begins at 0 anew at each multiple t of `every`,
    t = 1 being the first step, before g_i enters. While `t mod every < warmup` nothing is clipped.

    Parts: per_element -> second_moment -> rescale. State: 1 number an entry.

    Args:
        ratio: a number > 0.
        decay: a number in [0, 1): that of Adam's second moment.
        every: how many steps lie between two beginnings of v, >= 1; `None` for only one.
        warmup: for how many steps nothing is clipped then, >= 0 and below `every`; at the start for
            one fewer, as t begins at 1.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`; of single entries.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. It keeps no metrics, see `clipax.metrics`. With
        `optax.inject_hyperparams`, `every` is one of the `static_args` if it is `None`. Where v is
        0 nothing is clipped. A step that is not finite leaves v of that entry as it was; it counts
        as a step.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> clipper = clipax.spam(4.0, decay=0.5, warmup=0)
        >>> state = clipper.init([jnp.zeros(2)])
        >>> for entries in ([2.0, 0.0], [60.0, -2.5]):
        ...     clipped, state = clipper.update([jnp.array(entries)], state)
        >>> clipped[0].round(3)
        Array([ 2.828, -2.5  ], dtype=float32)

    References:
        Huang, Zhu, Jin, Liu, Wang, Liu, *SPAM: spike-aware Adam with momentum reset for stable LLM
        training*, 2025, https://arxiv.org/abs/2501.06842

    Deviations: there v is Adam's own; here it is kept once more, and it is the same while Adam
    comes next and is reset at the same steps, as `clipax.momentum_reset` does. There an entry whose
    gradient was 0 so far stays at 0 once the clipping begins; here it comes through.
    """
    policy = thresholds.second_moment(ratio, decay=decay, every=every, warmup=warmup)
    return clip_by(measures.per_element(), policy, nonfinite=nonfinite, name=name)


class StableSpamState(NamedTuple):
    """State of the thresholds of `stable_spam`.

    Attributes:
        largest: of the largest entries, for the first part.
        norm: of the norms, for the second.
    """

    largest: Any
    norm: Any


class MaximumState(NamedTuple):
    """State of the average of the largest entries.

    Attributes:
        mean: the average, biased towards the zero that it began with.
        seen: how many have entered.
    """

    mean: Array
    seen: Array


class NormMomentsState(NamedTuple):
    """State of the moments of the norms.

    Attributes:
        mean: the first moment, biased towards the zero that it began with.
        root: the root of the second moment, biased likewise.
        seen: how many have entered.
    """

    mean: Array
    root: Array
    seen: Array


def stable_spam(
    *,
    decay: float = 0.999,
    decays: tuple[float, float] = (0.7, 0.9),
    eps: float | Array = 1e-8,
    stacked: Any = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Shrink the largest entries of each leaf to their usual size, then normalise its norm.

    For every leaf, with `a = max |g|` and the unbiased averages `M` of a (by `decay`), `m` of n (by
    `decays[0]`) and `v` of n^2 (by `decays[1]`), the current step included:
    `g_j <- (M / a) g_j` for the entries with `|g_j| > M`, and then, with the norm n of the result
    and `tau = m / (sqrt(v) + eps)`, `g <- (tau / n) g`.

    Parts: per_leaf(linf) -> average -> rescale of the entries above it; per_leaf(l2) -> ratio of
    moments -> normalize. State: 5 numbers a leaf.

    Args:
        decay: of the largest entries, in [0, 1); a Python number.
        decays: of the first and second moment of the norms, both in [0, 1); Python numbers.
        eps: what is added to the root of the second moment, >= 0.
        stacked: which leaves are stacks of layers, see `clipax.measures.per_leaf`; each slice then
            counts for a leaf. The axis of the layers may not be spread over `axis_name`.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. The metrics are those of the second part. With
        `optax.inject_hyperparams`, `decay`, `decays`, `stacked` and `axis_name` are `static_args`.
        A leaf of zeros stays as it is, and a tiny gradient is enlarged as by `rules.normalize`.
        Neither zeros nor a leaf that is not finite enter anything.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> clipper = clipax.stable_spam()
        >>> state = clipper.init([jnp.zeros(2)])
        >>> for entries in ([3.0, 4.0], [3.0, 400.0]):
        ...     clipped, state = clipper.update([jnp.array(entries)], state)
        >>> clipped[0].round(2)
        Array([0.01, 0.82], dtype=float32)

    References:
        Huang, Hu, Zhang, Jin, Li, Shen, Chen, Liu, Wen, Wang, Liu, *Stable-SPAM: how to train in
        4-bit more stably than 16-bit Adam*, 2025, https://arxiv.org/abs/2502.17055; its third
        version is called *GradientStabilizer: fix the norm, not the gradient*, 2026.

    Deviations: the published code restarts the count of the corrections, but not the averages, when
    it resets the momentum, after which neither part does what it should for hundreds of steps; here
    each has a count of its own. The reset itself is `clipax.momentum_reset`. The schedule of
    `decays[0]` in some of its experiments is left out.
    """
    _validate.number("decay", decay, high=1, below=True, static=True)
    if not isinstance(decays, (tuple, list)) or len(decays) != 2:
        raise TypeError(f"`decays` must be a pair of numbers, got {_validate.shown(decays)}")
    for i, entry in enumerate(decays):
        _validate.number(f"decays[{i}]", entry, high=1, below=True, static=True)
    _validate.number("eps", eps)
    _validate.options(nonfinite, name)
    by_maximum = measures.per_leaf(measures.linf, stacked=stacked, axis_name=axis_name)
    by_norm = measures.per_leaf(stacked=stacked, axis_name=axis_name)
    maximum, moments = _average_maximum(decay), _ratio_of_moments(*decays, eps)

    @_validate.naming(name)
    def init_fn(params):
        norms = jax.tree.leaves(by_norm.init(params).values)
        metrics = initial_metrics(norms, name, observed=True, scalar=False)
        policies = StableSpamState(
            initial_policy_state(by_maximum, maximum, params),
            initial_policy_state(by_norm, moments, params),
        )
        return ClipState(jnp.zeros((), jnp.int32), policies, metrics)

    @_validate.naming(name)
    def update_fn(updates, state, params=None, **extra_args):
        given = Given(by_maximum, state.step, params, extra_args)
        largest = by_maximum.norms(updates)
        limits, first = follow(maximum, largest, state.policy.largest, given)
        finite = jnp.isfinite(largest.values)
        if nonfinite == "sanitize":
            updates = jax.tree.map(without_nonfinite, updates)
            largest = by_maximum.norms(updates)
        updates = _shrink_entries(updates, largest, limits)
        norms = by_norm.norms(updates)
        raw = norms._replace(values=jnp.where(finite, norms.values, jnp.nan))
        targets, second = follow(moments, raw, state.policy.norm, given._replace(measure=by_norm))
        updates, metrics = scale(
            rules.normalize, nonfinite, updates, (raw, norms), targets, state.metrics
        )
        policies = StableSpamState(first, second)
        return updates, ClipState(incremented(state.step), policies, metrics)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _average_maximum(decay: float) -> ThresholdPolicy:
    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        present = (norm > 0) & (norm < jnp.inf)
        new = MaximumState(_averages.moved(state.mean, norm, decay), incremented(state.seen))
        state = where_groups(present, new, state)
        mean = _averages.unbiased(state.mean, state.seen, decay)
        # Of the first norm the average is that norm, which rounding must not undercut.
        return jnp.where((state.seen == 0) | (state.seen == 1) & present, jnp.inf, mean), state

    return ThresholdPolicy(
        lambda norm: MaximumState(jnp.copy(norm), _windows.no_count(norm)), update_fn
    )


def _ratio_of_moments(first: float, second: float, eps: float | Array) -> ThresholdPolicy:
    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        new = NormMomentsState(
            _averages.moved(state.mean, norm, first),
            _averages.moved_root(state.root, norm, second),
            incremented(state.seen),
        )
        state = where_groups((norm > 0) & (norm < jnp.inf), new, state)
        mean = _averages.unbiased(state.mean, state.seen, first)
        root = _averages.unbiased_root(state.root, state.seen, second)
        ratio = mean / jnp.where(root + eps > 0, root + eps, 1)
        return jnp.where(state.seen == 0, jnp.inf, ratio), state

    def init_fn(norm):
        return NormMomentsState(jnp.copy(norm), jnp.copy(norm), _windows.no_count(norm))

    return ThresholdPolicy(init_fn, update_fn)


def _shrink_entries(updates: optax.Updates, largest: Norms, limits: Array) -> optax.Updates:
    """Multiplies the entries of each group that are above its limit by one factor."""
    taken, put = leaves_where(is_measured, updates)
    groups = tuple(i for i in largest.groups or () if i is not None)
    return put(_shrunk(groups, taken(updates), largest.values, limits))


@functools.partial(jax.jit, static_argnums=0)
def _shrunk(groups: tuple[int | range, ...], leaves, largest: Array, limits: Array) -> list[Array]:
    own = entries_at(groups, (limits, rules.rescale(largest, limits)))

    def shrunk(x: Any, limit: Array, factor: Array) -> Array:
        x = jnp.asarray(x)
        wide = x.astype(promoted(x.dtype, factor.dtype))
        rest = tuple(range(limit.ndim, x.ndim))  # of a stack both have an entry for each slice
        limit, factor = jnp.expand_dims(limit, rest), jnp.expand_dims(factor, rest)
        smaller = jnp.where(jnp.abs(wide) > limit, wide * factor.astype(wide.dtype), wide)
        return like(x, smaller.astype(x.dtype))

    return [shrunk(x, *several) for x, several in zip(leaves, own, strict=True)]
