"""The one vector with the norms of all groups: which entries are whose, to it and back."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clipax._layout import on_one_device


def places(slices: Sequence[int | None]) -> list[int | range]:
    """Each group's entry of the vector; for a stack of n groups the range of their n entries."""
    spans = zip(slices, itertools.pairwise(_starts(slices)), strict=True)
    return [span[0] if n is None else range(*span) for n, span in spans]


def _starts(slices: Sequence[int | None]) -> list[int]:
    """Where the entries of each group begin, and where those of the last end."""
    return np.cumsum([0, *(1 if n is None else n for n in slices)]).tolist()


def places_of(
    groups: Sequence[int | tuple[int, ...]], slices: Sequence[int | None]
) -> list[int | range | tuple[int, ...]]:
    """The entries of each array of a layout; of rows that are all of one group its entry alone."""
    where, starts = places(slices), _starts(slices)

    def of(group: int | tuple[int, ...]) -> int | range | tuple[int, ...]:
        if isinstance(group, int):
            return where[group]
        return where[group[0]] if len(set(group)) == 1 else tuple(starts[i] for i in group)

    return [of(group) for group in groups]


def vector_of(parts: Sequence[Array | None], slices: Sequence[int | None], missing: float) -> Array:
    """The vector, along the last axis, of what belongs to each group.

    Args:
        parts: an array for each group, with a last axis of n entries for a stack of n groups;
            `None` where there is nothing.
        slices: that n, and `None` for a group of whole leaves.
        missing: what stands for `None`.
    """
    known, axis = next(
        (p, p.ndim - (n is not None)) for p, n in zip(parts, slices, strict=True) if p is not None
    )

    def filled(part: Array | None, n: int | None) -> Array:
        shape = known.shape[:axis] if n is None else (*known.shape[:axis], n)
        return jnp.full_like(known, missing, shape=shape) if part is None else part

    full = list(map(filled, parts, slices))
    if all(n is None for n in slices):
        return jnp.stack(full, axis=-1)
    columns = [p[..., None] if n is None else p for p, n in zip(full, slices, strict=True)]
    return jnp.concatenate(columns, axis=-1)


def vector_of_rows(
    rows: Sequence[tuple[Array, tuple[int, ...]]],
    slices: Sequence[int | None],
    reduce: Callable[..., Array],
    least: float,
) -> Array:
    """The same of rows, of which a group may have several or none.

    Args:
        rows: arrays with one entry a row along the last axis, and the groups of the rows.
        slices: as above.
        reduce: makes one of the rows of a group.
        least: what is made of none.
    """
    values = jnp.concatenate([part for part, _ in rows], axis=-1)
    *starts, size = _starts(slices)
    place = np.array([starts[group] for _, groups in rows for group in groups])
    several = np.bincount(place, minlength=size)
    order = np.argsort(place, kind="stable")
    nth = np.arange(len(place)) - np.repeat(np.cumsum(several) - several, several)
    table = np.full((size, several.max()), len(place))  # rows of each, the last of no row
    table[place[order], nth] = order
    if np.array_equal(table.ravel(), np.arange(len(place))):
        found = values.reshape(*values.shape[:-1], *table.shape)
    else:
        found = jnp.take(values, table, axis=-1, mode="fill", fill_value=least)
    return reduce(found, axis=-1)


def hidden(arrays: Any) -> Any:
    """The arrays themselves, of which the compiler is not to know what they come from.

    That of jax 0.10 drops barriers on CPUs before it fuses loops. On a CPU with one device the
    arrays come out of a conditional, which no version looks through. Its branches are the same, so
    that any number which is not known before will do. Accelerators would wait for the host there.
    """
    last = jax.tree.leaves(arrays)[-1]
    if not on_one_device([last]):
        return lax.optimization_barrier(arrays)

    def behind_conditional(arrays: Any) -> Any:
        unknown = _any_nan(lax.stop_gradient(last))
        return lax.cond(unknown, lax.optimization_barrier, lambda same: same, arrays)

    return lax.platform_dependent(arrays, cpu=behind_conditional, default=lax.optimization_barrier)


@custom_vmap
def _any_nan(x: Array) -> Array:
    """One scalar, also for a batch: of one for each run `vmap` makes the `cond` a `select`."""
    return jnp.any(jnp.isnan(x))


@_any_nan.def_vmap
def _(axis_size: int, in_batched: Any, x: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return _any_nan(x), False


def entries_at(
    where: Sequence[int | range | tuple[int, ...]], vectors: tuple[Array, ...]
) -> list[tuple[Array, ...]]:
    """For each place the entry of the vectors there, or the entries, along their last axis.

    Those of rows are a tuple, the entries of a stack a range.

    The compiler is not to know the places. The loops over arrays of one shape are then the same
    code, which it compiles once, and the arrays of one group share no scalar, which it would spread
    over a whole array in memory. Nor is it to put what the vectors come from into every loop.
    """
    if all(isinstance(p, int) for p in where) and vectors[0].shape[-1] == 1:
        only = tuple(v[..., 0] for v in lax.optimization_barrier(vectors))  # it knows which entry
        return lax.optimization_barrier([only for _ in where])
    first = [p.start if isinstance(p, range) else np.array(p) for p in where]
    starts, vectors = hidden(([np.uint32(i) for i in first], vectors))

    def taken(v: Array, place: int | range | tuple[int, ...], start: Array) -> Array:
        if isinstance(place, int):
            return lax.dynamic_index_in_dim(v, start, axis=-1, keepdims=False)
        if isinstance(place, tuple):
            return jnp.take(v, start, axis=-1, mode="clip")
        return lax.dynamic_slice_in_dim(v, start, len(place), axis=-1)

    return [
        tuple(taken(v, place, start) for v in vectors)
        for place, start in zip(where, starts, strict=True)
    ]


def resharded(x: Array, spec: Iterable[Any]) -> Array:
    """An array spread over devices as `spec` says, if its mesh has explicit axes.

    Elsewhere the compiler sees to it, and the array is returned as it is.
    """
    mesh = jax.typeof(x).sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*spec)))
