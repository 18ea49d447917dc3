"""How a list of arrays falls into groups, and small arrays put above each other."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType

from clipax._trees import promoted


class Layout(NamedTuple):
    """How a list of arrays falls into groups: all that is static about one measurement.

    Attributes:
        groups: the group of each array, or those of its rows along the first axis behind the batch;
            `None` where every array holds groups of its own.
        slices: how many groups the arrays of each of these hold, one behind the other; `None` if
            they are one group.
        axes: the axes of each array that one group spans, those of the batch not counted.
        names: for each array the mapped axes over which its pieces lie.
        batch: the number of leading axes that are a batch, with norms for each of its entries.
    """

    groups: tuple[int | tuple[int, ...], ...] | None
    slices: tuple[int | None, ...]
    axes: tuple[tuple[int, ...], ...]
    names: tuple[tuple[Hashable, ...], ...]
    batch: int = 0

    def spanned(self, i: int) -> tuple[int, ...]:
        """The axes of array i that one group spans, the batch in front of them."""
        return tuple(self.batch + axis for axis in self.axes[i])


def of_whole_arrays(
    arrays: Sequence[Array],
    groups: tuple[int, ...],
    slices: tuple[int | None, ...],
    names: tuple[tuple[Hashable, ...], ...],
) -> Layout:
    """The layout of groups that are made of whole arrays, or of their slices along axis 0."""
    first = (int(slices[group] is not None) for group in groups)
    axes = tuple(tuple(range(n, x.ndim)) for n, x in zip(first, arrays, strict=True))
    return Layout(groups, slices, axes, names)


def on_one_device(arrays: Sequence[Array]) -> bool:
    """Whether no array can be spread, each in its own way: also where others are compiled for."""
    on_meshes = any(jax.typeof(x).sharding.mesh.size > 1 for x in arrays)
    return jax.device_count() == 1 and not on_meshes


def joinable(arrays: Sequence[Array]) -> bool:
    """Whether arrays of other shapes can be joined: no type tells how one is spread.

    The types of arrays on a mesh, even of one device, do if its axes are explicit or manual.
    """
    kinds = (kind for x in arrays for kind in jax.typeof(x).sharding.mesh.axis_types)
    return on_one_device(arrays) and all(kind == AxisType.Auto for kind in kinds)


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
        axes=(
            *(layout.axes[i] for i in alone),
            *(tuple(range(1, 1 + arrays[members[0]].ndim)) for members in many),
        ),
        names=tuple(layout.names[i] for i in first),
    )
    return kept, (*(arrays[i] for i in alone), *rows)


def in_one_vector(layout: Layout, arrays: tuple[Array, ...]) -> Layout | None:
    """Groups inside arrays as stacks of groups, whose norms are one vector.

    `None` where that cannot be: for whole arrays, mapped axes, dtypes that differ and several
    devices; nor is it worth it for one array, or for norms that are nearly as many as the entries.
    """
    if layout.groups is not None or any(layout.names) or len(arrays) == 1:
        return None
    sizes = tuple(
        math.prod(n for axis, n in enumerate(x.shape) if axis not in axes)
        for x, axes in zip(arrays, layout.axes, strict=True)
    )
    few = sum(sizes) <= max(_SMALL, sum(x.size for x in arrays) // 8)
    alike = len({promoted(x.dtype, jnp.float32) for x in arrays}) == 1
    if not (few and alike and joinable(arrays)):
        return None
    return layout._replace(groups=tuple(range(len(arrays))), slices=sizes)


def counts(layout: Layout, shapes: Sequence[tuple[int, ...]], copies: Sequence[int]) -> np.ndarray:
    """The number of entries of each group that is made of whole arrays or of rows."""
    assert layout.groups is not None
    of_group = np.zeros(len(layout.slices), int)
    for i, (shape, group) in enumerate(zip(shapes, layout.groups, strict=True)):
        entries = math.prod(shape[axis] for axis in layout.spanned(i))
        np.add.at(of_group, np.array(group), entries * copies[i])
    return np.repeat(of_group, [1 if n is None else n for n in layout.slices])
