"""The state of a clipper and what it observes of itself."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from clipax._trees import incremented, promoted


class Metrics(NamedTuple):
    """What a clipper did at its last step, and how often so far; read by `clipax.metrics`.

    A field is `None` where keeping it would cost another pass over the gradient.

    Attributes:
        norm: the largest norm of a group before clipping.
        threshold: the threshold of that group.
        factor: the smallest factor of a group.
        clipped: the share of groups with a factor below 1.
        clipped_steps: the number of steps at which any group was clipped.
        nonfinite: the number of steps at which any norm was not finite.
    """

    norm: Array | None
    threshold: Array | None
    factor: Array | None
    clipped: Array | None
    clipped_steps: Array | None
    nonfinite: Array | None


class ClipState(NamedTuple):
    """State of a clipper.

    Attributes:
        step: the number of updates so far.
        policy: the state of the threshold.
        metrics: a `Metrics`, or `{name: Metrics}` for a clipper with a name, so that the name is
            part of the structure of the state and every leaf of it is an array.
    """

    step: Array
    policy: Any
    metrics: Any


def initial_metrics(norms: list[Array], name: str | None, *, observed: bool, scalar: bool) -> Any:
    """The metrics before the first step.

    Args:
        norms: zeros in place of the norms.
        name: the name of the clipper.
        observed: whether the norms are few enough to be looked at.
        scalar: whether the threshold is one number for all groups, and so free to keep.
    """
    dtype = promoted(jnp.float32, *(n.dtype for n in norms))

    def array(value: float, kind: Any = dtype) -> Array:
        return jnp.array(value, kind)  # in a buffer of its own, so that a state can be donated

    threshold = array(jnp.inf) if observed or scalar else None
    metrics = Metrics(None, threshold, None, None, None, None)
    if observed:
        counts = array(0, jnp.int32), array(0, jnp.int32)
        metrics = Metrics(array(0), threshold, array(1), array(0), *counts)
    return metrics if name is None else {name: metrics}


def observe(old: Any, norms: list[Array], thresholds: list[Array], factors: list[Array]) -> Any:
    """The metrics after a step. The three lists have one array for each array of norms."""
    if isinstance(old, dict):
        return {name: observe(kept, norms, thresholds, factors) for name, kept in old.items()}
    size = sum(n.size for n in norms)
    if size == 0:
        return old
    if old.norm is None:
        if old.threshold is None:
            return old
        number = jnp.ravel(thresholds[0])[0]  # it is one for all groups
        return old._replace(threshold=number.astype(old.threshold.dtype))
    wide = promoted(old.norm.dtype, *(n.dtype for n in norms))
    norms, thresholds, factors = (
        [x.astype(wide) for x in arrays] for arrays in (norms, thresholds, factors)
    )
    kind = _over_all(jnp.max, [_kind(n) for n in norms])
    largest = jnp.where(kind == _NAN, jnp.nan, _over_all(jnp.max, norms))
    at_largest = [
        jnp.where((n == largest) | jnp.isnan(n), t, jnp.inf)
        for n, t in zip(norms, thresholds, strict=True)
    ]
    clipped = _over_all(jnp.sum, [f < 1 for f in factors])
    new = Metrics(
        norm=largest,
        threshold=_smallest(at_largest),
        factor=_smallest(factors),
        clipped=clipped.astype(wide) / size,
        clipped_steps=counted(old.clipped_steps, clipped > 0),
        nonfinite=counted(old.nonfinite, kind > 0),
    )
    return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)


# A maximum or minimum over devices may lose a NaN, so that something else must stand in its place.

_NAN = 2


def _kind(norm: Array) -> Array:
    """0 for a number, 1 for an infinity, and `_NAN`."""
    return jnp.where(jnp.isnan(norm), _NAN, (norm == jnp.inf).astype(jnp.int32))


def _smallest(arrays: list[Array]) -> Array:
    """NaN where there is one."""
    least = _over_all(jnp.min, [jnp.where(jnp.isnan(x), -jnp.inf, x) for x in arrays])
    return jnp.where(least == -jnp.inf, jnp.nan, least)


def _over_all(reduce, arrays: list[Array]) -> Array:
    parts = [reduce(x) for x in arrays if x.size]
    return parts[0] if len(parts) == 1 else reduce(jnp.stack(parts))


def counted(count: Array, event: Array) -> Array:
    """One more where the event happened."""
    return jnp.where(event, incremented(count), count)
