"""Which leaves, slices of leaves or axes of a leaf form one group."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from clipax._places import places
from clipax._trees import flag_of_each_leaf, is_measured, path_name, paths_of


class Groups(NamedTuple):
    """The groups of whole leaves of a tree, or of their slices.

    Attributes:
        of_leaves: the position of each leaf's group in the other two; `None` for a leaf in none.
        keys: what the groups are called.
        slices: how many groups the slices of these leaves are; `None` for one of whole leaves.
    """

    of_leaves: tuple[int | None, ...]
    keys: tuple[Hashable, ...]
    slices: tuple[int | None, ...]

    @property
    def size(self) -> int:
        return sum(1 if n is None else n for n in self.slices)

    @property
    def members(self) -> tuple[int | range | None, ...]:
        where = places(self.slices)
        return tuple(None if group is None else where[group] for group in self.of_leaves)

    def names(self) -> list[str]:
        found = []
        for key, slices in zip(self.keys, self.slices, strict=True):
            name = _shown(key)
            if slices is None:
                found.append(name)
                continue
            digits = len(str(slices - 1))  # in order of their numbers where they are sorted
            found += ["/".join(filter(None, (name, f"{i:0{digits}}"))) for i in range(slices)]
        return found


def grouped(
    tree: Any, keys: Iterable[Hashable], names: Sequence[Hashable] | None, stacked: Any
) -> Groups:
    """The groups of a tree.

    Args:
        tree: what is grouped.
        keys: what the group of each leaf is called.
        names: the keys that may occur, in order; by default all that do.
        stacked: which leaves are stacks, see `clipax.measures.per_layer`.
    """
    told = zip(keys, slices_of(stacked, tree), jax.tree.leaves(tree), strict=True)
    found = [(key, n) if is_measured(x) else None for key, n, x in told]
    usual = (group for group in found if group is not None)
    order = dict.fromkeys(usual if names is None else ((name, None) for name in names))
    index = {group: i for i, group in enumerate(order)}
    unknown = [group for group in found if group is not None and group not in index]
    if unknown:
        accepted = [key for key, _ in index]
        raise ValueError(f"`labels` gave {unknown[0][0]!r}; accepted are {accepted}")
    return Groups(
        of_leaves=tuple(None if group is None else index[group] for group in found),
        keys=tuple(key for key, _ in order),
        slices=tuple(n for _, n in order),
    )


def slices_of(stacked: Any, tree: Any) -> list[int | None]:
    """For each leaf the number of its slices, if it is said to be a stack and has a norm."""
    leaves = jax.tree.leaves(tree)
    if stacked is None:
        return [None] * len(leaves)
    found = []
    flags = flag_of_each_leaf("stacked", stacked, tree)
    for path, x, flag in zip(paths_of(tree), leaves, flags, strict=True):
        stack = flag and is_measured(x)
        if stack and not np.shape(x):
            raise ValueError(
                f"`stacked` must be False for scalars, got True for {path_name(path)!r}"
            )
        found.append(np.shape(x)[0] if stack else None)
    return found


def _shown(key: Hashable) -> str:
    return path_name(key) if isinstance(key, tuple) else str(key)


def unit_axes(
    shape: tuple[int, ...], axis: int | Sequence[int] | None, *, stack: bool = False
) -> tuple[int, ...]:
    """The axes of a leaf that one unit spans, see `clipax.measures.per_unit`."""
    if stack:
        return tuple(1 + a for a in unit_axes(shape[1:], axis))
    rank = len(shape)
    if rank < 2:
        return tuple(range(rank))
    if axis is None:
        return (0,) if rank < 4 else tuple(range(rank - 1))
    axes = as_tuple(axis)
    if any(not -rank <= a < rank for a in axes):
        raise ValueError(f"`axis` must be axes of every leaf, got {axis!r} for a leaf of {shape}")
    return tuple(sorted({a % rank for a in axes}))


def as_tuple(axis: Any) -> tuple:
    """One axis, or several, as several."""
    return tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
