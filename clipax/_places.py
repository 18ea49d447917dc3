"""The one vector with the norms of all groups: which entries are whose, to it and back."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def places(slices: Sequence[int | None]) -> list[int | range]:
    """Each group's entry of the vector; for a stack of n groups the range of their n entries."""
    starts = np.cumsum([0, *(1 if n is None else n for n in slices)]).tolist()
    spans = zip(slices, itertools.pairwise(starts), strict=True)
    return [span[0] if n is None else range(*span) for n, span in spans]


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


def entries_at(where: Sequence[int | range], vectors: tuple[Array, ...]) -> list[tuple[Array, ...]]:
    """For each place the entry of the vectors there, or the entries, along their last axis.

    The compiler is not to know the places. The loops over arrays of one shape are then the same
    code, which it compiles once, and the arrays of one group share no scalar, which it would spread
    over a whole array in memory. Nor is it to put what the vectors come from into every loop.
    """
    vectors = lax.optimization_barrier(vectors)
    if all(isinstance(p, int) for p in where) and vectors[0].shape[-1] == 1:
        only = tuple(v[..., 0] for v in vectors)  # which entry, the compiler knows
        return lax.optimization_barrier([only for _ in where])
    starts = [p if isinstance(p, int) else p.start for p in where]
    hidden = lax.optimization_barrier([np.uint32(i) for i in starts])

    def taken(v: Array, place: int | range, start: Array) -> Array:
        if isinstance(place, int):
            return lax.dynamic_index_in_dim(v, start, axis=-1, keepdims=False)
        return lax.dynamic_slice_in_dim(v, start, len(place), axis=-1)

    return [
        tuple(taken(v, place, start) for v in vectors)
        for place, start in zip(where, hidden, strict=True)
    ]


def resharded(x: Array, spec: Iterable[Any]) -> Array:
    """An array spread over devices as `spec` says, if its mesh has explicit axes.

    Elsewhere the compiler sees to it, and the array is returned as it is.
    """
    mesh = jax.typeof(x).sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*spec)))
