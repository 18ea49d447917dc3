"""How a list of arrays falls into groups, and small arrays put above each other."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Layout(NamedTuple):
    """How a list of arrays falls into groups: all that is static about one measurement.

    Attributes:
        groups: the group of each array, or those of its rows along the first axis behind the batch;
            `None` where every array holds groups of its own.
        slices: for each of these groups the length of the axis along which its arrays are stacks
            of as many groups; `None` for one that is made of whole arrays.
        axes: for groups inside arrays, the axes of each array that one group spans.
        names: for each array the mapped axes over which its pieces lie.
        batch: the number of leading axes that are a batch, with norms for each of its entries.
    """

    groups: tuple[int | tuple[int, ...], ...] | None
    slices: tuple[int | None, ...]
    axes: tuple[tuple[int, ...], ...]
    names: tuple[tuple[Hashable, ...], ...]
    batch: int = 0

    def leading(self, group: int | tuple[int, ...]) -> int:
        """The axes before those that one group spans, of an array of whole groups or of rows."""
        return self.batch + (isinstance(group, tuple) or self.slices[group] is not None)


def on_one_device(arrays: Sequence[Array]) -> bool:
    """Whether no array can be spread, each in its own way: also where others are compiled for."""
    on_meshes = any(jax.typeof(x).sharding.mesh.size > 1 for x in arrays)
    return jax.device_count() == 1 and not on_meshes


_SMALL, _FEWEST = 2**14, 4  # entries of an array; arrays that are worth it


def in_rows(layout: Layout, arrays: tuple[Array, ...]) -> tuple[Layout, tuple[Array, ...]]:
    """Small arrays of one shape as the rows of one, if on one device: there it is much faster."""
    if layout.groups is None or not on_one_device(arrays):
        return layout, arrays
    alike: dict[Hashable, list[int]] = {}
    for i, (x, group) in enumerate(zip(arrays, layout.groups, strict=True)):
        small = x.size <= _SMALL and isinstance(group, int) and layout.slices[group] is None
        alike.setdefault((jax.typeof(x), layout.names[i]) if small else i, []).append(i)
    many = [members for members in alike.values() if len(members) >= _FEWEST]
    alone = sorted(set(range(len(arrays))).difference(*many))
    groups = [layout.groups[i] for i in alone]
    groups += [tuple(layout.groups[i] for i in members) for members in many]
    first = [*alone, *(members[0] for members in many)]
    rows = (jnp.stack([arrays[i] for i in members]) for members in many)
    kept = layout._replace(
        groups=tuple(groups),
        axes=tuple(layout.axes[i] for i in first),
        names=tuple(layout.names[i] for i in first),
    )
    return kept, (*(arrays[i] for i in alone), *rows)


def counts(layout: Layout, shapes: Sequence[tuple[int, ...]], copies: Sequence[int]) -> np.ndarray:
    """The number of entries of each group that is made of whole arrays or of rows."""
    assert layout.groups is not None
    of_group = np.zeros(len(layout.slices), int)
    for shape, group, several in zip(shapes, layout.groups, copies, strict=True):
        np.add.at(of_group, np.array(group), math.prod(shape[layout.leading(group) :]) * several)
    return np.repeat(of_group, [1 if n is None else n for n in layout.slices])
