"""The norms of groups inside leaves, and all that is shaped like them, as few vectors.

A leaf has little of it and there are many leaves. One by one, most of the time of a step would go
into calls of loops over a few entries, and most of the compilation into these loops.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from clipax._layout import on_one_device
from clipax._places import entries_at, places

_SMALL = 2**16  # entries, which are copied in less time than it takes to call the loops


class Batch(NamedTuple):
    """Leaves whose norms are worked on as one vector; a leaf by itself stays as it is.

    Attributes:
        members: the positions of these leaves.
        shapes: those of their norms.
    """

    members: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    def joined(self, trees: Sequence[Any] | Mapping[int, Any]) -> Any:
        """Of the trees at all positions, those of the members as one tree of vectors.

        Every array ends with the axes of the norms, and every vector has one axis instead.
        """
        own = [trees[i] for i in self.members]
        return own[0] if len(own) == 1 else jax.tree.map(self._vector, *own)

    def _vector(self, *arrays: Array) -> Array:
        rows = [
            jnp.reshape(x, (*x.shape[: x.ndim - len(shape)], -1))
            for x, shape in zip(arrays, self.shapes, strict=True)
        ]
        return lax.optimization_barrier(jnp.concatenate(rows, axis=-1))

    def apart(self, tree: Any) -> list[Any]:
        """The trees of the members."""
        if len(self.members) == 1:
            return [tree]
        vectors, treedef = jax.tree.flatten(tree)
        return [treedef.unflatten(own) for own in self._own(vectors)]

    def _own(self, vectors: list[Array]) -> list[list[Array]]:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1].tolist()
        split = [jnp.split(vector, ends, axis=-1) for vector in vectors]
        return [
            [jnp.reshape(parts[i], (*parts[i].shape[:-1], *shape)) for parts in split]
            for i, shape in enumerate(self.shapes)
        ]


def batches(shapes: Sequence[tuple[int, ...]], *trees: Sequence[Any]) -> list[Batch]:
    """Puts small leaves that are alike into one batch, if on one device.

    On several devices each leaf may be spread in its own way.

    Args:
        shapes: those of the norms of each leaf.
        trees: lists with a tree for each leaf, of arrays that end with the axes of its norms.
    """
    of_leaves = [jax.tree.leaves(several) for several in zip(*trees, strict=True)]
    together = on_one_device([x for arrays in of_leaves for x in arrays])
    alike: dict[Hashable, list[int]] = {}
    for i, (arrays, shape) in enumerate(zip(of_leaves, shapes, strict=True)):
        small = all(x.size <= _SMALL for x in arrays)
        kinds = tuple((x.dtype, x.shape[: x.ndim - len(shape)]) for x in arrays)
        alike.setdefault(kinds if together and small else i, []).append(i)
    return [Batch(tuple(own), tuple(shapes[i] for i in own)) for own in alike.values()]


def of_each(several: Iterable[tuple[Batch, tuple[Array, ...]]]) -> list[tuple[Array, ...]]:
    """For each leaf, in order, its own arrays of the vectors of its batch.

    The compiler is not to know which entries these are, see `entries_at`.
    """
    found: dict[int, tuple[Array, ...]] = {}
    for (members, shapes), vectors in several:
        if len(members) == 1:
            found[members[0]] = vectors
            continue
        own = entries_at(places([math.prod(shape) for shape in shapes]), vectors)
        for i, shape, entries in zip(members, shapes, own, strict=True):
            found[i] = tuple(jnp.reshape(x, shape) for x in entries)
    return [found[i] for i in sorted(found)]
