"""What a measure has to know of the leaves of a tree: their kind, parents, labels, mapped axes."""

import collections
import functools
import itertools
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.tree_util import FlattenedIndexKey, GetAttrKey, SequenceKey


def is_measured(leaf: Any) -> bool:
    """Whether a leaf has a norm: floating-point and complex leaves do."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.inexact)


def leaves_where(
    wanted: Callable[[Any], bool], tree: Any
) -> tuple[Callable[[Any], list], Callable[[Iterable], Any]]:
    """Two functions, which take leaves out of a tree and put others back in their places.

    The first is for this tree or another of its structure, the second gives this tree with the
    others. The places are those of the leaves of this tree that are `wanted`.
    """
    leaves, treedef = jax.tree.flatten(tree)
    chosen = list(map(wanted, leaves))

    def taken(other: Any) -> list:
        return list(itertools.compress(treedef.flatten_up_to(other), chosen))

    def put(others: Iterable) -> Any:
        rest = iter(others)
        pairs = zip(leaves, chosen, strict=True)
        return treedef.unflatten([next(rest) if c else x for x, c in pairs])

    return taken, put


def paths_of(tree: Any) -> list[tuple]:
    """The path of each leaf."""
    return [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def path_name(path: tuple) -> str:
    """A path as a text, such as "encoder/dense/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def for_each_leaf(argument: str, value: Any, tree: Any) -> list[Any]:
    """Spreads `value`, a prefix tree or a function of the path, over the leaves of `tree`.

    Raises:
        ValueError: if it is a tree that is no prefix; `argument` is its name in the message.
    """
    paths = paths_of(tree)
    if not paths:
        return []
    if callable(value) and all(map(callable, jax.tree.leaves(value))):  # modules are trees, too
        return [value(path_name(path)) for path in paths]
    try:
        return jax.tree.leaves(jax.tree.broadcast(value, tree))
    except ValueError as error:
        found, wanted = jax.tree.structure(value), jax.tree.structure(tree)
        raise ValueError(
            f"`{argument}` must be a prefix of the gradient's tree or a function of the path of a "
            f"leaf, got {found} for {wanted}"
        ) from error


def flag_of_each_leaf(argument: str, value: Any, tree: Any) -> list[bool]:
    """`for_each_leaf` for a prefix tree, or a function, of booleans.

    Raises:
        TypeError: if it gives something else.
        ValueError: if it is a tree that is no prefix.
    """
    flags = for_each_leaf(argument, value, tree)
    for path, flag in zip(paths_of(tree), flags, strict=True):
        if not isinstance(flag, (bool, np.bool_)):
            raise TypeError(
                f"`{argument}` must be True or False for every leaf, got {flag!r} for "
                f"{path_name(path)!r}"
            )
    return flags


def label_of_each_leaf(labels: Any, tree: Any) -> list[Hashable]:
    """`for_each_leaf` for labels.

    Raises:
        TypeError: if one is None or has no hash.
        ValueError: if they are a tree that is no prefix, or a label is missing there.
    """
    found = for_each_leaf("labels", labels, tree)
    for path, label in zip(paths_of(tree), found, strict=True):
        if label is None or not isinstance(label, Hashable):
            raise TypeError(
                f"`labels` must give hashable values and not None, got {label!r} for "
                f"{path_name(path)!r}"
            )
    return found


def layer_of_each_leaf(tree: Any) -> list[Hashable]:
    """The path of the parent of every leaf; of the leaf itself where the root is its list."""
    paths = paths_of(tree)
    leaves_below = collections.Counter(path[:n] for path in paths for n in range(len(path)))

    def layer(path: tuple) -> tuple:
        if path and _is_box(path[-1]) and leaves_below[path[:-1]] == 1:
            path = path[:-1]
        in_root_list = len(path) == 1 and isinstance(path[0], SequenceKey)
        return path if in_root_list else path[:-1]

    return [layer(path) for path in paths]


def _is_box(key: Any) -> bool:
    """Whether a path may end in `key` because its array is boxed, as NNX and Linen do."""
    if isinstance(key, GetAttrKey):
        return key.name in ("value", "raw_value")
    return isinstance(key, FlattenedIndexKey)


def mapped_names(
    tree: Any, names: tuple[Hashable, ...], replicated: Any
) -> tuple[tuple[Hashable, ...], ...]:
    """For every measured leaf those of the mapped axes `names` over which it is spread.

    A leaf is spread over an axis if its type varies over it. Where types do not tell (`pmap`,
    `vmap`, `shard_map` with `check_vma=False`), it is unless `replicated` says otherwise.
    """
    leaves = jax.tree.leaves(tree)
    told = [False] * len(leaves)
    if replicated is not None:
        told = flag_of_each_leaf("replicated", replicated, tree)
    tracked = [name for name in names if name in _varying(_axis_index(name))]

    def spread(leaf: Any, same: bool) -> tuple[Hashable, ...]:
        return tuple(n for n in names if (n in _varying(leaf) if n in tracked else not same))

    return tuple(spread(x, same) for x, same in zip(leaves, told, strict=True) if is_measured(x))


def _axis_index(name: Any) -> Any:
    try:
        return lax.axis_index(name)
    except NameError as error:
        raise ValueError(
            f"`axis_name` must be bound by the `shard_map`, `pmap` or `vmap` around the update, "
            f"got {name!r}, which is not; under `jit` with sharded arrays leave it out"
        ) from error


def _varying(x: Any) -> frozenset:
    """The mapped axes over which `x` is known to vary."""
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)
    return manual.varying if manual is not None else getattr(kind, "vma", frozenset())


def promoted(*dtypes: Any) -> Any:
    """The dtype of numbers of these together, whatever `jax_numpy_dtype_promotion` allows."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def widened(array: Array) -> Array:
    """An array in float32 if it has fewer bits."""
    return array.astype(promoted(array.dtype, jnp.float32))


def where_groups(condition: Array, new: Any, old: Any) -> Any:
    """Takes the state of each group from `new` or `old`: the groups are the last axes of both."""

    def select(a: Array, b: Array) -> Array:
        return jnp.where(jnp.broadcast_to(condition, b.shape), a, b).astype(b.dtype)

    return jax.tree.map(select, new, old)


def incremented(count: Array) -> Array:
    """One more, and no more than the largest integer."""
    return jnp.asarray(optax.safe_increment(count))
