"""Multiplies every group of the gradient by its factor."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from clipax._bits import select
from clipax._places import entries_at
from clipax._state import observe
from clipax._together import Bundle, bundles, in_order
from clipax._trees import is_measured, leaves_where, promoted
from clipax.measures import Norms
from clipax.rules import Rule


class _Static(NamedTuple):
    rule: Rule
    nonfinite: str
    groups: tuple[int | range, ...] | None  # of the measured leaves


def scale(
    rule: Rule,
    nonfinite: str,
    updates: optax.Updates,
    norms: tuple[Norms, Norms],
    thresholds: Any,
    metrics: Any,
) -> tuple[optax.Updates, Any]:
    """Returns the clipped updates and the metrics.

    Args:
        rule: `(norm, threshold) -> factor`.
        nonfinite: see `clip_by`.
        updates: the gradient, without its non-finite entries if it is to be sanitized.
        norms: of the gradient as it came, and of `updates`.
        thresholds: shaped like the norms, or in place of each the same scalar.
        metrics: those of the last step.
    """
    taken, put = leaves_where(is_measured, updates)
    raw, clean = norms
    groups = None
    if raw.groups is not None:
        groups = tuple(i for i in raw.groups if i is not None)

    def arrays(values: Any) -> list[Array]:
        return taken(values) if groups is None else [values]

    scaled, metrics = _scaled(
        _Static(rule, nonfinite, groups),
        taken(updates),
        arrays(raw.values),
        arrays(clean.values),
        arrays(thresholds),
        metrics,
    )
    return put(scaled), metrics


@functools.partial(jax.jit, static_argnums=0)
def _scaled(static: _Static, leaves, norms, clean, thresholds, metrics) -> tuple[list[Array], Any]:
    """`scale` for arrays only. The `jit` makes one dispatch of it for eager callers."""
    dense = 8 * sum(norm.size for norm in norms) > sum(x.size for x in leaves)
    parts = bundles(norms, dense=dense)
    shapes = [norm.shape for norm in norms]
    norms, clean = ([part.joined(x) for part in parts] for x in (norms, clean))
    thresholds = [_joined_thresholds(part, thresholds, shapes) for part in parts]
    factors, powers = [], []
    for norm, cleaned, threshold in zip(norms, clean, thresholds, strict=True):
        factor, power = _factor(static.rule, cleaned, threshold)
        factor = jnp.where(jnp.isnan(threshold), jnp.nan, factor)  # loud, whatever the rule
        if static.nonfinite != "sanitize":
            lost = 0 if static.nonfinite == "zero" else jnp.nan
            factor = jnp.where(jnp.isfinite(norm), factor, lost)
        factors.append(factor)
        powers.append(power)
    products = [f * p for f, p in zip(factors, powers, strict=True)]
    metrics = observe(metrics, norms, thresholds, products)
    multiply = functools.partial(_multiplied, zero_is_final=static.nonfinite == "zero")
    if static.groups is not None:
        own = entries_at(static.groups, (factors[0], powers[0]))
    else:
        both = zip(parts, zip(factors, powers, strict=True), strict=True)
        own = in_order(parts, (part.apart_hidden(vectors, leaves) for part, vectors in both))
    return [multiply(x, *several) for x, several in zip(leaves, own, strict=True)], metrics


def _joined_thresholds(part: Bundle, thresholds: list[Array], shapes: list[Any]) -> Array:
    if all(thresholds[i].ndim < len(shapes[i]) for i in part.members):
        return thresholds[part.members[0]]  # one number for all
    return part.joined(list(map(jnp.broadcast_to, thresholds, shapes)))


# A factor below the smallest normal number would flush to zero and take the gradient with it. The
# gradient is then multiplied by 2^-96 first. With n / tau above 2^122, a norm times 2^-96 is still
# far above tau, where every rule of `clipax.rules` is tau / n or 0.
_FAR, _FIRST, _TINY, _SMALL = 2.0**-122, 2.0**-96, 2.0**-100, 2.0**-20


def _factor(rule: Rule, norm: Array, threshold: Array) -> tuple[Array, Array]:
    """The factor, and the power of two by which to multiply before."""

    def at(n: Array) -> Array:
        return jnp.broadcast_to(rule(n, threshold), n.shape).astype(n.dtype)

    factor = at(norm)
    lost = (norm * _FAR > threshold) & (factor < _TINY)
    # Of the norm itself where nothing is lost: elsewhere the slope of a rule could be infinite.
    lifted = at(norm * jnp.where(lost, _FIRST, 1).astype(norm.dtype))
    far = lost & (lifted < _SMALL)  # a rule that jumps in between keeps its own factor
    power = jnp.where(far, _FIRST, 1).astype(norm.dtype)
    return jnp.where(far, lifted, factor), power


def _multiplied(x: Any, factor: Array, power: Array, *, zero_is_final: bool) -> Array:
    """`power * factor * x` in the dtype of x; x itself, with no copy, where that is 1."""
    x = jnp.asarray(x)
    wide = promoted(x.dtype, factor.dtype)
    if 0 < factor.ndim < x.ndim:  # of the slices of x
        rest = tuple(range(factor.ndim, x.ndim))
        factor, power = jnp.expand_dims(factor, rest), jnp.expand_dims(power, rest)
    product = x.astype(wide) * power.astype(wide) * factor.astype(wide)
    result = select(_everywhere(factor == 1, x), x, product.astype(x.dtype))
    if zero_is_final:  # 0 times NaN is not zero
        result = select(_everywhere(factor == 0, x), jnp.zeros_like(x), result)
    return like(x, result)


def _everywhere(condition: Array, x: Array) -> Array:
    """The condition at every entry of x; as it is where it is a scalar.

    NaN entries count as true, which changes nothing: x and its product are NaN alike, and where
    zero is final the factor of a NaN is 0. An operation on x keeps its sharding, as
    `broadcast_to` does not.
    """
    return (x != x) | condition if condition.ndim else condition


def like(x: Array, result: Array) -> Array:
    """Makes `result` weakly typed if x is: assignment is the one public operation that does."""
    return x.at[...].set(result) if jax.typeof(x).weak_type else result
