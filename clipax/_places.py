"""Where the numbers of groups stand in the one vector of all: one number, or one for each slice."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec


def places(slices: Sequence[int | None]) -> list[int | range]:
    """Where in the vector the numbers of each group are.

    Args:
        slices: for each group as how many of its kind it counts, if it is made of stacks.
    """
    starts = np.cumsum([0, *(1 if n is None else n for n in slices)]).tolist()
    spans = zip(slices, itertools.pairwise(starts), strict=True)
    return [span[0] if n is None else range(*span) for n, span in spans]


def joined(parts: Sequence[Array | None], slices: Sequence[int | None], missing: float) -> Array:
    """The vector, along the last axis, of the numbers of each group; `None` for `missing` ones."""
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


def everywhere(x: Array) -> Array:
    """The same on all devices: of stacks whose layers are spread over a mesh with explicit axes."""
    kind = jax.typeof(x).sharding
    if not any(kind.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(kind.mesh, PartitionSpec()))


def entries(vectors: tuple[Array, ...], of: Sequence[int | range]) -> list[tuple[Array, ...]]:
    """For each place the entry of the vectors there, or the entries, along their last axis.

    The compiler is not to know the places. The loops over arrays of one shape are then the same
    code, which it compiles once, and the arrays of one group share no scalar, which it would spread
    over a whole array in memory. Nor is it to put what the vectors come from into every loop.
    """
    vectors = lax.optimization_barrier(vectors)
    if all(isinstance(p, int) for p in of) and vectors[0].shape[-1] == 1:
        only = tuple(v[..., 0] for v in vectors)  # which entry, the compiler knows
        return lax.optimization_barrier([only for _ in of])
    starts = [p if isinstance(p, int) else p.start for p in of]
    hidden = lax.optimization_barrier([np.uint32(i) for i in starts])

    def taken(v: Array, place: int | range, start: Array) -> Array:
        if isinstance(place, int):
            return lax.dynamic_index_in_dim(v, start, axis=-1, keepdims=False)
        return lax.dynamic_slice_in_dim(v, start, len(place), axis=-1)

    return [
        tuple(taken(v, place, start) for v in vectors)
        for place, start in zip(of, hidden, strict=True)
    ]
