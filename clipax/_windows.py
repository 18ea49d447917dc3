"""Windows over the last values of each group, kept in arrays of a fixed shape."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from clipax._bits import exponent_of, times_power
from clipax._trees import incremented


class Ring(NamedTuple):
    """The last values of each group: the oldest is at `position`, and `seen` have come so far."""

    values: Array
    position: Array
    seen: Array


def ring(window: int, like: Array, fill: float) -> Ring:
    """A window filled with `fill` for groups like the zeros `like`."""
    return Ring(filled(window, like, fill), no_count(like), no_count(like))


def filled(window: int, like: Array, fill: float) -> Array:
    """The bare places of a window."""
    column = jnp.full((window,) + (1,) * like.ndim, fill, like.dtype)
    return column + like[None]  # a sum has the sharding of `like`


def no_count(like: Array) -> Array:
    """A counter at zero for each group, in a buffer of its own, so that a state can be donated."""
    return jnp.copy(like.astype(jnp.int32))


def slot(ring: Ring) -> Array:
    """Where the next value goes. A comparison, as slices of a sharded state cannot be updated."""
    return _places(ring) == ring.position[None]


def push(ring: Ring, value: Array) -> Ring:
    window = ring.values.shape[0]
    return Ring(
        values=jnp.where(slot(ring), value[None].astype(ring.values.dtype), ring.values),
        position=(ring.position + 1) % window,
        seen=incremented(ring.seen),
    )


def exchange(ascending: Array, old: Array, new: Array) -> Array:
    """Takes `old` out of a sorted window and puts `new` in: every entry moves at most one place."""
    last = jnp.full_like(ascending[:1], jnp.inf)
    rest = jnp.where(ascending < old[None], ascending, jnp.concatenate([ascending[1:], last]))
    before = jnp.concatenate([jnp.zeros_like(last), rest[:-1]])
    return jnp.minimum(rest, jnp.maximum(before, new[None]))


def mean(ring: Ring) -> Array:
    """The mean of what a ring filled with zeros holds: large values are divided before the sum."""
    held = jnp.clip(ring.seen, 1, ring.values.shape[0]).astype(ring.values.dtype)
    share = jnp.where(jnp.max(ring.values, axis=0) > 1, 1 / held, 1)
    total = jnp.sum(ring.values * share[None], axis=0)
    return jnp.where(share < 1, total, total / held)


def held(ring: Ring) -> Array:
    """Which places of a ring hold a value."""
    return _places(ring) < ring.seen[None]


def _places(ring: Ring) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, ring.values.shape, 0)


def insert(ascending: Array, new: Array) -> Array:
    """Puts `new` into a sorted window that still has a place, `inf`, at its end."""
    return exchange(ascending, jnp.full_like(new, jnp.inf), new)


def median(ascending: Array) -> Array:
    """The median of what a sorted window holds."""
    last = jnp.maximum(jnp.sum(ascending < jnp.inf, axis=0) - 1, 0)
    places = last // 2, (last + 1) // 2
    low, high = (jnp.take_along_axis(ascending, i[None], axis=0)[0] for i in places)
    return jnp.where(low == high, low, low + (high - low) / 2)


def mean_and_deviation(values: Array, chosen: Array) -> tuple[Array, Array]:
    """Of the chosen values of each group, in two passes over values times a power of two.

    Squares of the values themselves could overflow, and the difference of a mean of squares and the
    square of a mean could be negative. Equal values have no deviation, however they are compiled.
    """
    count = jnp.maximum(jnp.sum(chosen, axis=0), 1).astype(values.dtype)
    held = jnp.where(chosen, values, 0)
    k = exponent_of(jnp.max(abs(held), axis=0))
    scaled = times_power(held, -k[None])
    apart = jnp.where(chosen, scaled - jnp.max(scaled, axis=0)[None], 0)
    rest = jnp.where(chosen, apart - (jnp.sum(apart, axis=0) / count)[None], 0)
    square = jnp.sum(rest**2, axis=0) / count
    deviation = jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
    mean = jnp.sum(scaled, axis=0) / count
    return times_power(mean, k), times_power(deviation, k)
