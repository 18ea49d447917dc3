"""Measures: how large is each group of the gradient?

A measure says which entries of a gradient form one group and which norm a group has:

| measure       | one group is                                                          |
|---------------|-----------------------------------------------------------------------|
| `per_tree`    | the whole gradient                                                    |
| `per_layer`   | all leaves that share a parent module                                 |
| `per_leaf`    | one leaf                                                              |
| `per_group`   | all leaves with the same label                                        |
| `per_unit`    | the weights of one unit inside a leaf (a column of a dense kernel)    |
| `per_element` | one entry                                                             |

over one of the norms `l1`, `l2`, `linf`, `rms` and `lp(p)`.

Norms are computed in float32, or float64 where a leaf is, whatever the dtype of the gradient, and
neither overflow nor underflow while the true norm is a normal number of that dtype. Complex leaves
count by modulus; integer and float0 leaves belong to no group.
"""

import functools
import math
import numbers
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from clipax import _validate
from clipax._groups import Groups, as_tuple, grouped, slices_of, unit_axes
from clipax._layout import Layout, of_whole_arrays
from clipax._norms import Norm, group_norms
from clipax._trees import (
    is_measured,
    label_of_each_leaf,
    layer_of_each_leaf,
    mapped_names,
    paths_of,
    promoted,
)

__all__ = [
    "Measure", "Norms", "l1", "l2", "linf", "lp", "per_element", "per_group", "per_layer",
    "per_leaf", "per_tree", "per_unit", "rms",
]  # fmt: skip

l1 = Norm(1)
l2 = Norm(2)
linf = Norm(math.inf)
rms = Norm(2, mean=True)


class Norms(NamedTuple):
    """The norms of the groups of one tree.

    Attributes:
        values: for groups made of whole leaves one vector, an entry for each group; for groups
            inside leaves a tree like the one that was measured, with arrays that broadcast against
            its leaves. Leaves that belong to no group have an unused zero there.
        groups: for groups made of whole leaves the group of each leaf, a range of groups for a
            leaf that is a stack of as many, `None` for a leaf in no group. For groups inside leaves
            `None`.
    """

    values: Any
    groups: tuple[int | range | None, ...] | None


class Measure(NamedTuple):
    """Functions of a tree: which norms it has, and what they are.

    Attributes:
        init: returns zeros in place of the norms. It calls no collective, so that an optimizer can
            be initialised outside of the mapped function that uses it.
        norms: returns the norms.
        observed: whether `clipax.metrics` looks at the norms; not if these are as many as the
            entries of the gradient, where a look would cost another pass over it.
        names: returns the name of each group of whole leaves, such as the path of a layer; `None`
            for a measure that names none.
    """

    init: Callable[[optax.Params], Norms]
    norms: Callable[[optax.Updates], Norms]
    observed: bool = True
    names: Callable[[optax.Params], list[str]] | None = None


def lp(p: float) -> Norm:
    """Return the norm `(sum |x|^p)^(1/p)`.

    Args:
        p: the power, p > 0; `math.inf` is the maximum.

    Returns:
        A norm, for the measures.

    Raises:
        TypeError: if p is no number.
        ValueError: if p is not above 0.

    Example:
        >>> clipax.measures.per_tree(clipax.measures.lp(3)).norms([jnp.array([3.0, 4.0])]).values
        Array([4.497942], dtype=float32)
    """
    _validate.number("p", p, above=True, static=True)
    return Norm(float(p))


def per_tree(norm: Norm = l2, *, axis_name: Any = None, replicated: Any = None) -> Measure:
    """Measure the whole gradient as one group.

    Args:
        norm: one of `l1`, `l2`, `linf`, `rms` and `lp(p)`.
        axis_name: a mapped axis, or several, over which the gradient is spread; needed inside
            `shard_map` and `pmap`, not under `jit` with sharded arrays.
        replicated: which leaves are the same on all of `axis_name` and count once: a prefix tree
            of booleans, or a function of the path. It is only read where JAX does not track that
            by itself (`pmap`, `vmap`, and `shard_map` with `check_vma=False`).

    Returns:
        A measure with one norm.

    Raises:
        TypeError: if `norm` is not one of these or `axis_name` is no name.

    Example:
        >>> measure = clipax.measures.per_tree(clipax.measures.l2)
        >>> measure.norms({"kernel": jnp.array([2.0, 3.0]), "bias": jnp.array([6.0])}).values
        Array([7.], dtype=float32)
    """
    return _over_leaves(_one_for_all, norm, axis_name, replicated, names=[_ALL])


def per_layer(
    norm: Norm = l2, *, stacked: Any = None, axis_name: Any = None, replicated: Any = None
) -> Measure:
    """Measure each layer: all leaves that share a parent, whatever kind of node that is.

    A flat dict is one layer and `[(w, b), (w, b)]` is two. Leaves that lie directly in a list or
    tuple at the root are layers of their own. A box around a single array, such as the variables
    of Flax NNX (their paths end in `/value`), does not count as a parent.

    Args:
        norm: one of `l1`, `l2`, `linf`, `rms` and `lp(p)`.
        stacked: which leaves hold the parameters of several layers along their first axis, as
            those of `nn.scan` or `nnx.scan` do: a prefix tree of booleans, or a function of the
            path. Each slice counts for a layer of its own, together with that of the leaves beside
            it that have as many; leaves beside them that are not stacked are a further one.
        axis_name: see `per_tree`. The axis of the layers may not be spread over it.
        replicated: see `per_tree`.

    Returns:
        A measure with one norm a layer, in the order of their first leaves.

    Raises:
        TypeError: if `norm` is not one of these or `axis_name` is no name; when it is used, if
            `stacked` is not made of booleans.
        ValueError: when it is used, if `stacked` does not fit the tree or is True for a scalar.

    Example:
        >>> gradient = {"dense": {"bias": jnp.ones(2), "kernel": jnp.ones((2, 3))}, "out": [1.0]}
        >>> clipax.measures.per_layer().norms(gradient).values
        Array([2.828427, 1.      ], dtype=float32)
        >>> measure = clipax.measures.per_layer(stacked={"dense": True, "out": False})
        >>> measure.norms(gradient).values
        Array([2., 2., 1.], dtype=float32)
    """
    return _over_leaves(layer_of_each_leaf, norm, axis_name, replicated, stacked=stacked)


def per_leaf(
    norm: Norm = l2, *, stacked: Any = None, axis_name: Any = None, replicated: Any = None
) -> Measure:
    """Measure each leaf.

    Args:
        norm: one of `l1`, `l2`, `linf`, `rms` and `lp(p)`.
        stacked: which leaves have a norm for each slice along their first axis, see `per_layer`.
        axis_name: see `per_tree`. The axis of the slices may not be spread over it.
        replicated: see `per_tree`.

    Returns:
        A measure with one norm a leaf, or a slice.

    Raises:
        TypeError: if `norm` is not one of these or `axis_name` is no name; when it is used, if
            `stacked` is not made of booleans.
        ValueError: when it is used, if `stacked` does not fit the tree or is True for a scalar.

    Example:
        >>> clipax.measures.per_leaf().norms([jnp.array([3.0, 4.0]), jnp.array(2.0)]).values
        Array([5., 2.], dtype=float32)
    """
    return _over_leaves(paths_of, norm, axis_name, replicated, stacked=stacked)


def per_group(
    labels: Any,
    norm: Norm = l2,
    *,
    names: Sequence[Hashable] | None = None,
    axis_name: Any = None,
    replicated: Any = None,
) -> Measure:
    """Measure all leaves with the same label together.

    Args:
        labels: a prefix tree of labels, or a function that takes the path of a leaf, such as
            `"encoder/dense/kernel"`, and returns its label.
        norm: one of `l1`, `l2`, `linf`, `rms` and `lp(p)`.
        names: the labels that may occur, in the order that their norms are to have. By default
            any label may, and the order is that of their first leaves.
        axis_name: see `per_tree`.
        replicated: see `per_tree`.

    Returns:
        A measure with one norm a label.

    Raises:
        TypeError: if `norm` is not one of these or `axis_name` is no name; when it is used, if a
            label is None or cannot be hashed.
        ValueError: when it is used, if `labels` does not fit the tree or gives a label that is not
            among `names`.

    Example:
        >>> measure = clipax.measures.per_group({"encoder": "slow", "head": "fast"})
        >>> gradient = {"encoder": [jnp.array(3.0), jnp.array(4.0)], "head": jnp.array(2.0)}
        >>> measure.norms(gradient).values
        Array([5., 2.], dtype=float32)
    """
    assign = functools.partial(label_of_each_leaf, labels)
    return _over_leaves(assign, norm, axis_name, replicated, names=names)


def per_unit(
    norm: Norm = l2,
    *,
    axis: int | Sequence[int] | None = None,
    stacked: Any = None,
    axis_name: Any = None,
    replicated: Any = None,
) -> Measure:
    """Measure each unit of a layer: by default the weights that lead into one output.

    Args:
        norm: one of `l1`, `l2`, `linf`, `rms` and `lp(p)`.
        axis: the axes of a leaf that one unit spans. By default axis 0 of leaves with two or three
            axes and all but the last of leaves with more, as in `optax.adaptive_grad_clip`, which
            stops at four or five. A leaf with fewer than two axes is one unit.
        stacked: which leaves hold the parameters of several layers along their first axis, see
            `per_layer`. The units are then those of each slice, and `axis` counts its axes.
        axis_name: mapped axes over which the spanned axes are spread, see `per_tree`.
        replicated: see `per_tree`.

    Returns:
        A measure with an array of norms for each leaf; the spanned axes have length one.

    Raises:
        TypeError: if `norm` is not one of these, `axis` is not made of integers or `axis_name` is
            no name; when it is used, if `stacked` is not made of booleans.
        ValueError: when it is used, if a leaf does not have `axis`, or `stacked` does not fit the
            tree or is True for a scalar.

    Example:
        >>> clipax.measures.per_unit().norms([jnp.array([[3.0, 0.0], [4.0, 1.0]])]).values
        [Array([[5., 1.]], dtype=float32)]
    """
    _check_norm(norm)
    if axis is not None and not all(isinstance(a, numbers.Integral) for a in as_tuple(axis)):
        raise TypeError(f"`axis` must be an integer, or several, got {_validate.shown(axis)}")

    across = _validate.axis_names(axis_name)

    def axes(tree: Any) -> tuple[tuple[int, ...], ...]:
        told = zip(jax.tree.leaves(tree), slices_of(stacked, tree), strict=True)
        return tuple(
            unit_axes(jnp.shape(x), axis, stack=n is not None) for x, n in told if is_measured(x)
        )

    def zeros(params: optax.Params, leaves: list[Array]) -> Iterable[Array]:
        entries = (jnp.zeros_like(x, _wide(x)) for x in leaves)  # sums of them keep the sharding
        return (jnp.sum(x, a, keepdims=True) for x, a in zip(entries, axes(params), strict=True))

    def measure(updates: optax.Updates, leaves: list[Array]) -> Iterable[Array]:
        if not leaves:
            return ()
        names = mapped_names(updates, across, replicated)
        layout = Layout(None, (), axes(updates), names)
        return group_norms(norm, layout, tuple(map(_real, leaves)))

    return _inside_leaves(zeros, measure)


def per_element(norm: Norm = l2, *, axis_name: Any = None, replicated: Any = None) -> Measure:
    """Measure each entry: its modulus, which is every norm of a single number.

    Args:
        norm: without effect; the arguments are those of the measures that it can stand in for.
        axis_name: without effect, since an entry lies on one device.
        replicated: without effect.

    Returns:
        A measure with an array of norms for each leaf.

    Example:
        >>> clipax.measures.per_element().norms([jnp.array([-3.0, 0.5])]).values
        [Array([3. , 0.5], dtype=float32)]
    """
    del norm, axis_name, replicated
    return _inside_leaves(
        lambda params, leaves: [jnp.zeros_like(x, _wide(x)) for x in leaves],
        lambda updates, leaves: [abs(_real(x).astype(_wide(x))) for x in leaves],
    )._replace(observed=False)


_ALL = ()  # the key of the one group of a whole tree


def _one_for_all(tree: Any) -> list[Hashable]:
    return [_ALL for _ in jax.tree.leaves(tree)]


def _over_leaves(assign, norm: Norm, axis_name, replicated, *, names=None, stacked=None) -> Measure:
    """The measure of groups of whole leaves, or of slices of them.

    Args:
        assign: gives for every leaf of a tree the key of its group.
        norm: the norm of a group.
        axis_name: see `per_tree`.
        replicated: see `per_tree`.
        names: the keys that may occur, in order; by default all that do.
        stacked: see `per_layer`.
    """
    _check_norm(norm)
    across = _validate.axis_names(axis_name)

    def groups(tree: Any) -> Groups:
        return grouped(tree, assign(tree), names, stacked)

    def init(params: optax.Params) -> Norms:
        found = groups(params)
        dtypes = [_wide(x) for x in jax.tree.leaves(params) if is_measured(x)]
        dtype = promoted(jnp.float32, *dtypes)
        return Norms(jnp.zeros(found.size, dtype), found.members)

    def norms(updates: optax.Updates) -> Norms:
        found = groups(updates)
        leaves = tuple(_real(x) for x in jax.tree.leaves(updates) if is_measured(x))
        if not leaves:
            return init(updates)
        group_of = tuple(i for i in found.of_leaves if i is not None)
        spread = mapped_names(updates, across, replicated)
        layout = of_whole_arrays(leaves, group_of, found.slices, spread)
        return Norms(group_norms(norm, layout, leaves)[0], found.members)

    return Measure(init, norms, names=lambda params: groups(params).names())


def _inside_leaves(zeros, measure) -> Measure:
    """The measure of groups inside leaves.

    Args:
        zeros: gives zeros in the shape of the norms of a list of leaves, told the tree from which
            these come.
        measure: gives the norms, likewise.
    """

    def norms_of(function: Callable[[Any, list[Array]], Iterable[Array]], tree: Any) -> Norms:
        leaves, treedef = jax.tree.flatten(tree)
        values = iter(function(tree, [jnp.asarray(x) for x in leaves if is_measured(x)]))
        filled = [next(values) if is_measured(x) else jnp.zeros(()) for x in leaves]
        return Norms(jax.tree.unflatten(treedef, filled), None)

    return Measure(functools.partial(norms_of, zeros), functools.partial(norms_of, measure))


def _check_norm(norm: Any) -> None:
    if not isinstance(norm, Norm):
        raise TypeError(
            f"`norm` must be one of l1, l2, linf, rms and lp(p), got {_validate.shown(norm)}"
        )


def _wide(leaf: Any) -> Any:
    return promoted(jnp.finfo(jnp.result_type(leaf)).dtype, jnp.float32)


def _real(leaf: Any) -> Array:
    array = jnp.asarray(leaf)
    if partial := jax.typeof(array).sharding.spec.unreduced:
        raise ValueError(
            f"a leaf of shape {array.shape} is a sum that is yet to be taken over the mesh axes "
            f"{sorted(partial)}: take it before clipping, with `jax.sharding.reshard(gradient, "
            "jax.sharding.PartitionSpec())`"
        )
    return abs(array) if jnp.iscomplexobj(array) else array
