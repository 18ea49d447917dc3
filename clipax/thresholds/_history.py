"""The policy that takes a percentile of all norms so far, in bounded memory."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from clipax import _validate, _windows
from clipax._trees import where_groups
from clipax.thresholds._policy import ThresholdPolicy

# The norms are counted in bins by the first bits of their float32: 64 bins of equal width for each
# power of two. The sorted order of positive numbers is that of their bits.
_SHIFT = 23 - 6
_FIRST = 1 << 6  # of the smallest normal number, 2^-126
_BINS = 254 << 6
_FULL = 1 << 30


class HistoryPercentileState(NamedTuple):
    """State of `history_percentile`.

    Attributes:
        counts: how many norms are in each bin or in one below it.
        smallest: the smallest norm so far.
        largest: the largest norm so far.
    """

    counts: Array
    smallest: Array
    largest: Array


def history_percentile(percentile: float | Array = 10.0) -> ThresholdPolicy:
    """Follow a percentile of all norms so far, the current one included.

    `tau = percentile_p(n_1, ..., n_t)`, linearly interpolated; `inf` while there are none.

    The norms are counted in 16,256 bins, 64 to each power of two. Tau is the exact percentile of
    the first norm, and at p = 0 and p = 100; in between it is less than the width of a bin off: at
    most 1.6 %, and 0.1 to 0.3 % in the median. When 2^30 norms have been counted all counts are
    halved.

    The norms enter unclipped. A zero norm enters nothing: a thousand of them at the beginning would
    hold tau at 0 for nine thousand steps.

    State: 16,258 numbers a group.

    Args:
        percentile: p in [0, 100].

    Returns:
        A policy.

    Raises:
        TypeError: if `percentile` is no number.
        ValueError: if it is out of its range.

    Example:
        >>> policy = clipax.thresholds.history_percentile(50.0)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (1.0, 9.0, 2.0, 5.0, 4.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau
        Array([4.03125], dtype=float32)
    """
    _validate.number("percentile", percentile, high=100)

    def init_fn(norm):
        counts = _windows.filled(_BINS, _windows.no_count(norm), 0)
        smallest = norm + jnp.asarray(jnp.inf, norm.dtype)
        return HistoryPercentileState(counts, smallest, jnp.copy(norm))

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        # What is returned for a non-finite norm is dropped, but the threshold is read from it.
        present = (norm > 0) & (norm < jnp.inf)
        state = where_groups(present, _entered(norm, state), state)
        return _read(state, percentile).astype(norm.dtype), state

    return ThresholdPolicy(init_fn, update_fn)


def _entered(norm: Array, state: HistoryPercentileState) -> HistoryPercentileState:
    bits = lax.bitcast_convert_type(norm.astype(jnp.float32), jnp.int32)
    own = jnp.clip((bits >> _SHIFT) - _FIRST, 0, _BINS - 1)
    bins = lax.broadcasted_iota(jnp.int32, state.counts.shape, 0)
    counts = state.counts + (bins >= own[None]).astype(jnp.int32)
    return HistoryPercentileState(
        counts=jnp.where(counts[-1] >= _FULL, counts // 2, counts),
        smallest=jnp.minimum(state.smallest, norm),
        largest=jnp.maximum(state.largest, norm),
    )


def _read(state: HistoryPercentileState, percentile: float | Array) -> Array:
    last = state.counts[-1] - 1
    # In this order a rank that is whole comes out whole: where two clusters of norms lie far apart,
    # the smallest part of the upper one would be larger than the lower one.
    rank = percentile * last.astype(jnp.float32) / 100
    below = jnp.minimum(jnp.floor(rank).astype(jnp.int32), last)
    low, high = (_of_rank(state, jnp.minimum(below + i, last)) for i in range(2))
    share = jnp.clip(rank - below.astype(rank.dtype), 0, 1).astype(low.dtype)
    value = low + share * (high - low)
    return jnp.where(last < 0, jnp.inf, value)


def _of_rank(state: HistoryPercentileState, rank: Array) -> Array:
    """The norm of a rank: those of a bin are taken to lie evenly in it, the ends are known."""
    below = jnp.sum(state.counts <= rank[None], axis=0, dtype=jnp.int32)
    own = jnp.minimum(below, _BINS - 1)
    before = jnp.where(own > 0, _taken(state.counts, jnp.maximum(own - 1, 0)), 0)
    inside = jnp.maximum(_taken(state.counts, own) - before, 1)
    share = ((rank - before).astype(jnp.float32) + 0.5) / inside.astype(jnp.float32)
    bits = ((own + _FIRST) << _SHIFT) + (share * (1 << _SHIFT)).astype(jnp.int32)
    norm = lax.bitcast_convert_type(bits, jnp.float32).astype(state.smallest.dtype)
    norm = jnp.clip(norm, state.smallest, state.largest)
    norm = jnp.where(rank >= state.counts[-1] - 1, state.largest, norm)
    return jnp.where(rank <= 0, state.smallest, norm)


def _taken(counts: Array, place: Array) -> Array:
    return jnp.take_along_axis(counts, place[None], axis=0)[0]
