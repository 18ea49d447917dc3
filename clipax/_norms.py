"""Norms of groups of arrays that neither overflow nor underflow: the numerics of `measures`.

A norm is computed the plain way, in at least float32. Only where a plain sum of squares left the
range in which it is exact is it computed once more, with every entry times a power of two chosen
from that sum. The second look is one scalar `lax.cond`, also under `vmap`, and costs nothing when
it is not taken. It is taken for all groups as soon as one of them is out of range, and so also when
one is all zeros.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap

from clipax._bits import exponent_of, lowered, mantissa, powers_of_two, raised, times_power
from clipax._layout import Layout, counts, in_one_vector, in_rows, joinable
from clipax._places import entries_at, places_of, resharded, vector_of, vector_of_rows
from clipax._together import Bundle
from clipax._trees import promoted


class Norm(NamedTuple):
    """The vector norm `(sum |x|^p)^(1/p)`; of the mean instead of the sum where `mean` is set."""

    p: float
    mean: bool = False


class _Range(NamedTuple):
    smallest: float  # a sum of squares below it may have lost entries that flushed to zero
    exponent: int  # 2^exponent brings every entry back from below, 2^-exponent from above


# A flushed square is below 2^-126 (float64: 2^-1022). Against `smallest`, 2^38 (2^69) of them stay
# below the last digit of the sum.
_RANGES = {"float32": _Range(2.0**-64, 66), "float64": _Range(2.0**-900, 542)}


def group_norms(norm: Norm, layout: Layout, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Returns one vector of norms; for groups inside arrays one array each, with its axes kept."""
    for known in _REUSED.get():
        if (known.norm, known.layout) == (norm, layout) and _identical(known.arrays, arrays):
            return known.values
    values = _jitted_norms(norm, layout, arrays)
    if (recorded := _RECORDED.get()) is not None:
        recorded.append(_Known(norm, layout, arrays, values))
    return values


class _Known(NamedTuple):
    """What was measured, and the norms."""

    norm: Norm
    layout: Layout
    arrays: tuple[Array, ...]
    values: tuple[Array, ...]


_RECORDED: ContextVar[list[_Known] | None] = ContextVar("recorded", default=None)
_REUSED: ContextVar[Sequence[_Known]] = ContextVar("reused", default=())


@contextlib.contextmanager
def recording() -> Iterator[list[_Known]]:
    """Keeps the norms that are measured, for `reusing`."""
    token = _RECORDED.set(recorded := [])
    try:
        yield recorded
    finally:
        _RECORDED.reset(token)


@contextlib.contextmanager
def reusing(known: Sequence[_Known]) -> Iterator[None]:
    """Spares a clipper inside a wrapper the norms that the wrapper has measured of the same arrays.

    A compiler does not see that they are the same on both sides of a `lax.cond`.
    """
    token = _REUSED.set((*known, *_REUSED.get()))
    try:
        yield
    finally:
        _REUSED.reset(token)


def _identical(some: tuple[Array, ...], others: tuple[Array, ...]) -> bool:
    return len(some) == len(others) and all(x is y for x, y in zip(some, others, strict=True))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _jitted_norms(norm: Norm, layout: Layout, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """The `jit` is for eager callers: without it `lax.cond` would compile at every call."""
    together = in_one_vector(layout, arrays)
    if together is None:
        return _norms(norm, *in_rows(layout, arrays))
    (vector,) = _norms(norm, together, arrays)
    shapes = tuple(_kept_axes(x, axes) for x, axes in zip(arrays, layout.axes, strict=True))
    return tuple(Bundle(tuple(range(len(shapes))), shapes).apart(vector))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _norms(norm: Norm, layout: Layout, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    arrays = tuple(_kept_narrow(x) for x in arrays)
    if norm.p == 1:
        return _plain(norm, layout, arrays)
    if norm.p == math.inf:
        return _maxima(layout, arrays)
    if norm.p != 2:
        return _over_maximum(norm, layout, arrays)
    if any(layout.names):  # a collective must see its mapped axis: no batching rule around it
        return _checked(norm, layout, arrays)
    return _checked_in_batches(norm, layout)(*arrays)


@_norms.defjvp
def _norms_jvp(norm, layout, primals, tangents):
    """Differentiates the plain formula at `x / 2^k` near 1: it is safe there, of the same slope."""
    (arrays,), (tangents,) = primals, tangents
    values = _norms(norm, layout, arrays)
    factors = [powers_of_two(-exponent_of(lax.stop_gradient(n)), n.dtype) for n in values]
    units = _times(layout, arrays, factors)
    plain = functools.partial(_plain, norm, layout)
    return values, jax.jvp(plain, (units,), (_wide(layout, tangents),))[1]


def _checked_in_batches(norm: Norm, layout: Layout) -> Callable[..., tuple[Array, ...]]:
    """`_checked` with a batching rule: by itself `vmap` turns `cond` into a `select` of both."""

    @custom_vmap
    def checked(*arrays):
        return _checked(norm, layout, arrays)

    @checked.def_vmap
    def _(axis_size, in_batched, *arrays):
        stacked = (
            x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            for x, batched in zip(arrays, in_batched, strict=True)
        )
        values = _checked_in_batches(norm, layout._replace(batch=layout.batch + 1))(*stacked)
        return values, tuple(True for _ in values)

    return checked


def _checked(norm: Norm, layout: Layout, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The norm from the sums of squares; from rescaled entries where a sum left its range."""
    sums = _power_sums(2, layout, arrays)
    plain = _roots(norm, layout, arrays, sums)
    if all(x.dtype == jnp.float16 for x in arrays):  # its squares cannot leave the range
        return plain
    lost = tuple((s < _RANGES[s.dtype.name].smallest) | (s == jnp.inf) for s in sums)
    return lax.cond(
        _anywhere(lost),
        lambda: _rescaled(norm, layout, arrays, sums, lost, plain),
        lambda: plain,
    )


def _anywhere(conditions: Sequence[Array]) -> Array:
    """Whether any holds, on one device in one loop."""
    if joinable(conditions):
        return jnp.any(jnp.concatenate([jnp.ravel(x) for x in conditions]))
    return functools.reduce(jnp.logical_or, map(jnp.any, conditions))


def _rescaled(norm, layout, arrays, sums, lost, plain) -> tuple[Array, ...]:
    """The norms where `lost`, of entries times 2^k or 2^-k, whichever the sum asks for."""
    counts = _counts(layout, arrays)
    spare = math.ceil(math.log2(max(np.max(c, initial=1) for c in counts)) / 2) if norm.mean else 0

    def exponent(s: Array, b: Array) -> Array:
        k = _RANGES[s.dtype.name].exponent
        return jnp.where(b, jnp.where(s == jnp.inf, -k - spare, k), 0)

    exponents = [exponent(s, b) for s, b in zip(sums, lost, strict=True)]
    # In two halves: of one power the compiler of jax 0.7 makes NaN where all of it is constant.
    powers = [powers_of_two(k, s.dtype) for k, s in zip(exponents, sums, strict=True)]
    scaled = _plain(norm, layout, _times(layout, arrays, powers))

    def back(b: Array, n: Array, k: Array, old: Array) -> Array:
        return jnp.where(b, times_power(n, -k), old)

    return tuple(map(back, lost, scaled, exponents, plain))


def _over_maximum(norm: Norm, layout: Layout, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The norm of `x / max|x|`, times the maximum: for powers that have no safe range."""
    maxima = _plain(Norm(math.inf), layout, arrays)
    exponents = [exponent_of(m) for m in maxima]
    mantissas = [mantissa(m) for m in maxima]
    factors = [
        (*powers_of_two(-k, m.dtype), 1 / m) for k, m in zip(exponents, mantissas, strict=True)
    ]
    # The root is taken in two halves: max|x| s^(1/p) may be representable where s^(1/p) is not.
    halved = norm._replace(p=2 * norm.p)
    sums = _power_sums(norm.p, layout, _times(layout, arrays, factors))
    halves = _roots(halved, layout, arrays, sums)

    def back(half: Array, k: Array, mantissa: Array, maximum: Array) -> Array:
        first, second = powers_of_two(k, half.dtype)
        # Powers are rounded worse than what `rescale` makes up for: rather too large than small.
        half = jnp.where(half > 1, half * (1 + jnp.finfo(half.dtype).eps), half)
        return jnp.maximum(maximum, (half * first * mantissa) * (half * second))

    return tuple(map(back, halves, exponents, mantissas, maxima))


def _plain(norm: Norm, layout: Layout, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The formula as it stands, with derivatives that are finite at zero."""
    if norm.p != math.inf:
        return _roots(norm, layout, arrays, _power_sums(norm.p, layout, arrays))
    return _reduced(layout, [abs(x) for x in _wide(layout, arrays)], _MAXIMUM)


def _maxima(layout: Layout, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """`max |x|` of every group, NaN where it holds one, of entries that are not subnormal.

    A maximum over devices may lose a NaN. It is taken one number lower, where infinity stands for
    NaN: of the bits as integers it would be safe as well, but three times as slow on CPUs.
    """
    entries = [lowered(x) for x in _wide(layout, arrays)]
    return tuple(raised(m) for m in _reduced(layout, entries, _MAXIMUM._replace(least=-1)))


def _power_sums(p: float, layout: Layout, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """`sum |x|^p` of every group."""
    return _reduced(layout, [_power(x, p) for x in _wide(layout, arrays)], _SUM)


def _power(x: Array, p: float) -> Array:
    if p == 1:
        return abs(x)
    if p == 2:
        return x * x
    return jnp.where(x == 0, 0, jnp.where(x == 0, 1, abs(x)) ** p)


def _roots(norm: Norm, layout: Layout, arrays, sums) -> tuple[Array, ...]:
    """`(s / count)^(1/p)`, the count being 1 unless the norm is a mean."""
    if norm.mean:
        counts = _counts(layout, arrays)
        sums = tuple(
            s / _behind(np.asarray(c, s.dtype), s) for s, c in zip(sums, counts, strict=True)
        )
    return tuple(_root(s, norm.p) for s in sums)


def _behind(count: np.ndarray, s: Array) -> np.ndarray:
    """With as many axes: those of a batch stand in front."""
    return np.reshape(count, (1,) * (s.ndim - count.ndim) + count.shape)


def _root(s: Array, p: float) -> Array:
    if p == 1:
        return s
    nonzero = jnp.where(s == 0, 1, s)  # `s == 0` and not `s > 0`, which would lose NaN
    return jnp.where(s == 0, 0, jnp.sqrt(nonzero) if p == 2 else nonzero ** (1 / p))


class _Reduction(NamedTuple):
    reduce: Callable[..., Array]
    collective: Callable[..., Array]
    least: float  # what is made of no entries


_SUM = _Reduction(jnp.sum, lax.psum, 0)
_MAXIMUM = _Reduction(jnp.max, lax.pmax, 0)


def _reduced(layout: Layout, entries: Sequence[Array], by: _Reduction) -> tuple[Array, ...]:
    """Reduces the entries of each group, with one collective for each set of mapped axes."""
    if layout.groups is None:
        return tuple(
            _across(by.reduce(x, layout.spanned(i), keepdims=True, initial=by.least), names, by)
            for i, (x, names) in enumerate(zip(entries, layout.names, strict=True))
        )
    parts = []
    for i, (x, group) in enumerate(zip(entries, layout.groups, strict=True)):
        part = by.reduce(x, layout.spanned(i), initial=by.least)
        if isinstance(group, int) and layout.slices[group] is not None:
            part = _in_a_row(part, layout.batch)
        batch = jax.typeof(part).sharding.spec[: layout.batch]
        parts.append(resharded(part, batch) if part.ndim > layout.batch else part)
    vectors = []
    for names in sorted(set(layout.names)):
        rows: list[tuple[Array, tuple[int, ...]]] = []
        members: list[list[Array]] = [[] for _ in layout.slices]
        for part, group, own in zip(parts, layout.groups, layout.names, strict=True):
            if own != names:
                continue
            if isinstance(group, tuple):
                rows.append((part, group))
            else:
                members[group].append(part)
        found = [vector_of_rows(rows, layout.slices, by.reduce, by.least)] if rows else []
        if any(members):
            of_groups = [_combined(m, by) if m else None for m in members]
            found.append(vector_of(of_groups, layout.slices, by.least))
        vectors.append(_across(_combined(found, by), names, by))
    return (_combined(vectors, by),)


def _combined(parts: list[Array], by: _Reduction) -> Array:
    return parts[0] if len(parts) == 1 else by.reduce(jnp.stack(parts), axis=0)


def _across(x: Array, names: tuple[Hashable, ...], by: _Reduction) -> Array:
    return by.collective(x, names) if names else x


def _in_a_row(x: Array, batch: int) -> Array:
    """With one axis behind those of the batch."""
    return x if x.ndim == batch + 1 else jnp.reshape(x, (*x.shape[:batch], -1))


def _kept_axes(x: Array, spanned: Sequence[int]) -> tuple[int, ...]:
    """The shape of an array of norms: the axes that one group spans have length one."""
    return tuple(1 if axis in spanned else n for axis, n in enumerate(x.shape))


def _counts(layout: Layout, arrays: Sequence[Array]) -> tuple[np.ndarray | int, ...]:
    """The number of entries of each group, pieces on other devices included; known when traced."""
    copies = [lax.psum(1, names) if names else 1 for names in layout.names]
    if layout.groups is None:
        spans = [[x.shape[a] for a in layout.spanned(i)] for i, x in enumerate(arrays)]
        return tuple(max(1, math.prod(s) * c) for s, c in zip(spans, copies, strict=True))
    return (np.maximum(1, counts(layout, [x.shape for x in arrays], copies)),)


def _times(layout, arrays: Sequence[Array], factors: Sequence[tuple[Array, ...]]) -> list[Array]:
    """Every array times the factors of its group, one after the other."""
    wide = _wide(layout, arrays)
    if layout.groups is None:  # not one loop for what the factors come from and the product
        own = lax.optimization_barrier(list(factors))
    else:
        own = entries_at(places_of(layout.groups, layout.slices), factors[0])

    def product(i: int, x: Array, several: tuple[Array, ...]) -> Array:
        for factor in several:
            x = x * _beside(x, factor, layout.spanned(i), layout.batch)
        return x

    return [product(i, *both) for i, both in enumerate(zip(wide, own, strict=True))]


def _beside(x: Array, factor: Array, spanned: tuple[int, ...], batch: int) -> Array:
    """Factors with as many axes as x: given so, one for all of x, or one for each group."""
    if factor.ndim == x.ndim:
        return factor
    if factor.ndim == batch:
        return jnp.expand_dims(factor, tuple(range(batch, x.ndim)))
    if factor.ndim + len(spanned) == x.ndim:  # it keeps its sharding, as `reshape` may not
        return jnp.expand_dims(factor, spanned)
    return jnp.reshape(factor, _kept_axes(x, spanned))


def _wide(layout: Layout, arrays: Sequence[Array]) -> list[Array]:
    """The arrays in the dtype of their norms: float32, or float64 where there is some."""
    wide = [promoted(x.dtype, jnp.float32) for x in arrays]
    if layout.groups is not None:  # one vector has one dtype
        wide = [promoted(*wide)] * len(wide)
    return [x.astype(dtype) for x, dtype in zip(arrays, wide, strict=True)]


def _kept_narrow(x: Array) -> Array:
    """Hides that `x` is used again, so that no wide copy of a 16-bit array is kept for it."""
    return lax.optimization_barrier(x) if x.dtype.itemsize == 2 else x
