"""The clipper that compares every entry of an update with its parameter."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from clipax import _validate, measures, rules
from clipax._core import initial_state, required, without_nonfinite
from clipax._scale import scale
from clipax._state import ClipState
from clipax._trees import incremented, is_measured, promoted
from clipax.thresholds import constant


def clippy(
    relative: float | Array = 0.1,
    *,
    absolute: float | Array = 1e-7,
    stacked: Any = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Shrink each leaf of an update until no entry changes its parameter by too large a share.

    `n_i = max_j |u_j| / (relative |w_j| + absolute)` over the entries j of leaf i, `tau = 1`,
    `u_i <- min(1, tau / n_i) u_i`

    Parts: per_leaf(linf), of the update divided by what its parameters allow -> 1 -> rescale.
    State: none; `update` needs `params`.

    Meant for the update of an optimizer, learning rate included: it comes last in a chain.

    Args:
        relative: the share of a parameter by which it may change, >= 0.
        absolute: by how much any parameter may change, > 0.
        stacked: which leaves are stacks of layers, see `clipax.measures.per_leaf`; each slice then
            counts for a leaf. The axis of the layers may not be spread over `axis_name`.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `stacked` and `axis_name`
        are `static_args`. Its metric `norm` is n, relative to what is allowed.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range; when it is used, if `params` is not given.

    Example:
        >>> update, params = [jnp.array([0.3, 2.0])], [jnp.array([10.0, 10.0])]
        >>> clipax.clip(update, clipax.clippy(), params)[0]
        [Array([0.15, 1.  ], dtype=float32)]

    References:
        Tang, Drori, Chang, Sathiamoorthy, Gilmer, Wei, Yi, Hong, Chi, *Improving training stability
        for multitask ranking models in recommender systems*, 2023,
        https://arxiv.org/abs/2302.09178; TensorFlow Recommenders, `ClippyAdagrad`.

    Deviations: there it is part of Adagrad, and a term with the accumulator, off by default, may be
    added to what is allowed.
    """
    _validate.number("relative", relative)
    _validate.number("absolute", absolute, above=True)
    _validate.options(nonfinite, name)
    measure = measures.per_leaf(measures.linf, stacked=stacked, axis_name=axis_name)
    one = constant(1.0)

    @_validate.naming(name)
    def init_fn(params):
        return initial_state(measure, one, params, name, scalar=True)

    @_validate.naming(name)
    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        params = required(params)

        def norms_of(tree):
            return measure.norms(jax.tree.map(share, tree, params))

        def share(update, param):
            return _share(update, param, relative, absolute) if is_measured(update) else update

        norms = clean = norms_of(updates)
        if nonfinite == "sanitize":
            updates = jax.tree.map(without_nonfinite, updates)
            clean = norms_of(updates)
        threshold = jnp.ones_like(norms.values)
        updates, metrics = scale(
            rules.rescale, nonfinite, updates, (norms, clean), threshold, state.metrics
        )
        return updates, ClipState(incremented(state.step), state.policy, metrics)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@jax.jit
def _share(update: Array, param: Array, relative: float | Array, absolute: float | Array) -> Array:
    """Every entry in units of what is allowed; finite where the entry is."""
    size = jnp.abs(update)
    wide = promoted(size.dtype, jnp.float32)
    largest, smallest = jnp.finfo(wide).max, jnp.finfo(wide).tiny
    allowed = jnp.maximum(relative * jnp.abs(param).astype(wide) + absolute, smallest)
    units = jnp.minimum(size.astype(wide) / allowed, largest)
    return jnp.where(jnp.isfinite(size), units, size.astype(wide))
