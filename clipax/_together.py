"""The norms of groups inside leaves, and all that is shaped like them, as few vectors.

A leaf has little of it and there are many leaves. One by one, most of the time of a step would go
into calls of loops over a few entries, and most of the compilation into these loops.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from clipax._layout import joinable
from clipax._places import entries_at, hidden, places
from clipax._trees import promoted

# Entries that are worth copying for fewer loops: beside a leaf with many more, and of its own.
_SMALL, _SMALL_LEAF = 2**16, 2**8


class Bundle(NamedTuple):
    """Leaves whose norms are worked on as one vector; a leaf by itself stays as it is.

    Attributes:
        members: the positions of these leaves.
        shapes: those of their norms.
    """

    members: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    def joined(self, trees: Sequence[Any]) -> Any:
        """Of the trees of all leaves, those of the members as one tree of vectors.

        Every array ends with the axes of the norms, and its vector has one axis in their place.
        """
        own = [trees[i] for i in self.members]
        return own[0] if len(own) == 1 else jax.tree.map(self._vector, *own)

    def _vector(self, *arrays: Array) -> Array:
        dtype = promoted(*(x.dtype for x in arrays))
        rows = [
            jnp.reshape(x, (*x.shape[: x.ndim - len(shape)], -1)).astype(dtype)
            for x, shape in zip(arrays, self.shapes, strict=True)
        ]
        return lax.optimization_barrier(jnp.concatenate(rows, axis=-1))

    def apart(self, tree: Any) -> list[Any]:
        """The trees of the members, of that of vectors."""
        if len(self.members) == 1:
            return [tree]
        vectors, treedef = jax.tree.flatten(tree)
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1].tolist()
        parts = [jnp.split(vector, ends, axis=-1) for vector in vectors]
        return [
            treedef.unflatten(jnp.reshape(p[i], (*p[i].shape[:-1], *shape)) for p in parts)
            for i, shape in enumerate(self.shapes)
        ]

    def apart_hidden(
        self, vectors: tuple[Array, ...], leaves: Sequence[Array]
    ) -> list[tuple[Array, ...]]:
        """The arrays of the members; the compiler is not to know their places, see `entries_at`.

        Nor is it to compute anew for every entry of a leaf what many of them share.
        """
        if len(self.members) == 1:
            shared = any(v.size < leaves[self.members[0]].size for v in vectors)
            return [hidden(vectors) if shared else vectors]
        own = entries_at(places([math.prod(shape) for shape in self.shapes]), vectors)
        return [
            tuple(jnp.reshape(x, shape) for x in entries)
            for entries, shape in zip(own, self.shapes, strict=True)
        ]


def bundles(
    norms: Sequence[Array], states: Sequence[Any] | None = None, *, dense: bool
) -> list[Bundle]:
    """Small leaves that are alike in one bundle, if on one device.

    On several devices each leaf may be spread in its own way.

    Args:
        norms: those of each leaf.
        states: for each leaf a tree of arrays that end with the axes of its norms.
        dense: whether the norms are about as many as the entries of the leaves. A loop over these
            then makes them by the way, and would have to wait for a vector of them.
    """
    of_leaves = [[norm] for norm in norms]
    for own, state in zip(of_leaves, states or [()] * len(norms), strict=True):
        own += jax.tree.leaves(state)
    together = joinable([x for arrays in of_leaves for x in arrays])
    alike: dict[Hashable, list[int]] = {}
    for i, arrays in enumerate(of_leaves):
        small = norms[i].size <= (_SMALL_LEAF if dense else _SMALL)
        small = small and all(x.size <= _SMALL for x in arrays)
        kinds = tuple((x.dtype, x.shape[: x.ndim - norms[i].ndim]) for x in arrays)
        alike.setdefault(kinds if together and small else i, []).append(i)
    return [Bundle(tuple(own), tuple(norms[i].shape for i in own)) for own in alike.values()]


def in_order(bundles: Sequence[Bundle], parts: Iterable[Sequence[Any]]) -> list[Any]:
    """What belongs to each leaf, in the order of the leaves, of that of the members of bundles."""
    found = {
        i: part
        for bundle, own in zip(bundles, parts, strict=True)
        for i, part in zip(bundle.members, own, strict=True)
    }
    return [found[i] for i in range(len(found))]
