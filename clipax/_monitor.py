"""Norms of a gradient, kept and not clipped."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from clipax import _bits, _validate, measures
from clipax._clippers.parts import measure_of
from clipax._state import counted
from clipax._trees import incremented
from clipax.measures import Measure

_BINS = 64
_LOWEST = -40  # the second bin begins at 2^-39


class MonitorState(NamedTuple):
    """What `monitor` has seen, an entry for each group; read by `clipax.metrics`.

    Attributes:
        groups: `{name: None}` for each group, in the order of the entries. It holds no array. Of
            a tree without groups an empty array: `optax.tree_utils.tree_map_params` looks at the
            state of such a tree, and takes a leaf there for a place where any state may stand.
        steps: how many updates there were so far.
        norm: the last norm.
        mean: the mean of the finite norms so far.
        max: the largest of them.
        nonfinite: how many norms were not finite.
        first_nonfinite: the number of the step of the first of them, -1 while there is none.
        histogram: how many of the finite norms lay in `[2^(i - 40), 2^(i - 39))`, for i from 0 to
            63. Smaller ones, zero too, count in the first bin, larger ones in the last.
    """

    groups: dict[str, None] | Array
    steps: Array
    norm: Array
    mean: Array
    max: Array
    nonfinite: Array
    first_nonfinite: Array
    histogram: Array


def monitor(
    *,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    name: str = "monitor",
) -> optax.GradientTransformationExtraArgs:
    """Look at the norms of a gradient and change nothing.

    State: 69 numbers a group, and 1.

    Args:
        measure: the groups, such as `clipax.measures.per_leaf()`; `None` for the layers.
        ord: the order of the norm, see `clipax.per_layer`.
        axis_name: the mapped axes over which the gradient is split, see `clipax.per_layer`.
        name: the prefix of the keys in `clipax.metrics`.

    Returns:
        A gradient transformation. Several of them show the gradient at several places of a chain,
        as before and behind a clipper. Of each group `clipax.metrics` gives
        `"<name>/<group>/norm"`, the last norm, `mean` and `max` of all finite ones, `nonfinite`,
        how many were not, and `first_nonfinite`, the number of the first step at which one was
        not, counted from 0, or -1. A group is named by its path, or not at all if it is the whole
        tree, as the arrays of a flat dict are one layer, and a slice of a stack by its path and its
        number; groups without different names are numbered. The state, which
        `optax.tree_utils.tree_get(state, "histogram")` reads, also has a histogram of the norms
        over powers of two: row i counts those in `[2^(i-40), 2^(i-39))`, and the columns are the
        groups, sorted by their names.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `ord` is not above 0, `name` is empty, `measure` comes with `ord` or
            `axis_name`, or its groups are not made of whole leaves.

    Example:
        >>> optimizer = optax.chain(clipax.monitor(name="seen"), optax.sgd(1.0))
        >>> gradient = {"dense": {"w": jnp.array([3.0, 4.0])}, "out": {"w": jnp.array([2.0])}}
        >>> _, state = optimizer.update(gradient, optimizer.init(gradient))
        >>> clipax.metrics(state)["seen/dense/norm"]
        Array(5., dtype=float32)
    """
    chosen = measure_of(measure, ord, axis_name, measures.per_layer)
    if not isinstance(chosen, Measure):
        raise TypeError(f"`measure` must be a clipax Measure, got {_validate.shown(measure)}")
    _validate.name_of_wrapper(name)

    @_validate.naming(name)
    def init_fn(params: optax.Params) -> Any:
        norms = chosen.init(params)
        if norms.groups is None:
            raise ValueError("`measure` must have groups of whole leaves, got one inside leaves")
        return {name: _unseen(sorted(_names(chosen, params)), norms.values)}

    @_validate.naming(name)
    def update_fn(updates, state: Any, params=None, **extra_args):
        del params, extra_args
        names = _names(chosen, updates)
        found, known = sorted(names), sorted(state[name].groups)
        _validate.same_tree(f"the groups {found}", f"the groups {known}")
        norm = chosen.norms(updates).values
        if found != names:  # a dict of the state is sorted by JAX
            norm = norm[np.argsort(names)]
        return updates, {name: _seen(state[name], norm)}

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _names(measure: Measure, tree: Any) -> list[str]:
    """A name for each group, different from all others."""
    given = [] if measure.names is None else measure.names(tree)
    if len(set(given)) == len(given) > 0:
        return given
    count = measure.init(tree).values.size
    digits = len(str(count))
    return [f"{i:0{digits}}" for i in range(count)]


def _unseen(names: list[str], zeros: Array) -> MonitorState:
    counts = zeros.astype(jnp.int32)
    return MonitorState(
        groups=dict.fromkeys(names) if names else jnp.zeros(0, jnp.int32),
        steps=jnp.zeros((), jnp.int32),
        norm=jnp.copy(zeros),
        mean=jnp.copy(zeros),
        max=jnp.copy(zeros),
        nonfinite=jnp.copy(counts),
        first_nonfinite=counts - 1,
        histogram=jnp.zeros((_BINS, 1), jnp.int32) + counts[None],
    )


def _seen(old: MonitorState, norm: Array) -> MonitorState:
    norm = norm.astype(old.norm.dtype)
    finite = jnp.isfinite(norm)
    entered = jnp.where(finite, norm, 0)
    count = (incremented(old.steps) - old.nonfinite).astype(norm.dtype)
    first = jnp.where(old.first_nonfinite < 0, old.steps, old.first_nonfinite)
    exponent = jnp.where(entered > 0, _bits.exponent_of(entered) - 1, _LOWEST)
    own = jnp.clip(exponent - _LOWEST, 0, _BINS - 1)[None]
    hit = finite[None] & (lax.broadcasted_iota(jnp.int32, old.histogram.shape, 0) == own)
    return MonitorState(
        groups=old.groups,
        steps=incremented(old.steps),
        norm=norm,
        # Each share before the difference: norms of 1e38 apart from each other do not overflow.
        mean=jnp.where(finite, old.mean + (entered / count - old.mean / count), old.mean),
        max=jnp.maximum(old.max, entered),
        nonfinite=counted(old.nonfinite, ~finite),
        first_nonfinite=jnp.where(finite, old.first_nonfinite, first),
        histogram=counted(old.histogram, hit),
    )
