"""What a clipper cuts off, kept for the next step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from clipax import _validate
from clipax._scale import like
from clipax._trees import is_measured, widened


class ErrorFeedbackState(NamedTuple):
    """State of `error_feedback`.

    Attributes:
        buffer: what was cut off and has not come back, shaped like the gradient.
        inner: the state of the clipper.
    """

    buffer: Any
    inner: Any


def error_feedback(
    clipper: optax.GradientTransformation,
    *,
    decay: float | Array = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Bring back at later steps what a clipper cuts off.

    `x = g + e`, `u = clip(x)`, `e <- decay (x - u)`, where e begins at 0 and u is the update.

    With `decay=1` nothing is lost: `g + e` before a step is `u + e` after it, to one rounding of x.
    So a spike of norm n comes back over the next n / tau steps, and under gradients that stay above
    tau e grows without bound: it is meant for a clip that cuts often and little, not against
    spikes. Below 1, e stays below `decay / (1 - decay)` times the largest gradient.

    State: that of the clipper and 1 number an entry.

    Args:
        clipper: any clipper. One that adapts sees the norms of x.
        decay: how much of what was cut off comes back, in [0, 1]; at 0 it is the clipper alone.

    Returns:
        A gradient transformation. e is a float32 array where the gradient has 16 bits, and the
        update is rounded to these once: what rounding takes comes back too. Where an entry of x is
        not finite e stays as it was, and so it does, at such a step, wherever the update is 0.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `decay` is out of its range.

    Example:
        >>> clipper = clipax.error_feedback(clipax.value(1.0))
        >>> state = clipper.init(jnp.zeros(()))
        >>> for gradient in (2.5, 0.0, -0.25, 0.0):
        ...     update, state = clipper.update(jnp.array(gradient), state)
        ...     print(update)
        1.0
        1.0
        0.25
        0.0

    References:
        Elesedy, Hutter, *U-Clip: on-average unbiased stochastic gradient clipping*, 2023,
        https://arxiv.org/abs/2302.02971

    Deviations: `decay`, which is 1 there.
    """
    _validate.transformation("clipper", clipper, "a clipper")
    _validate.number("decay", decay, high=1)
    inner = optax.with_extra_args_support(clipper)

    @_validate.naming("error_feedback")
    def init_fn(params):
        buffer = jax.tree.map(_no_error, params)
        return ErrorFeedbackState(buffer, inner.init(jax.tree.map(_wide, params)))

    @_validate.naming("error_feedback")
    def update_fn(updates, state, params=None, **extra_args):
        found, known = jax.tree.structure(updates), jax.tree.structure(state.buffer)
        _validate.same_tree(found, known)
        whole = jax.tree.map(_sum, updates, state.buffer)
        clipped, kept = inner.update(whole, state.inner, params, **extra_args)
        clipped = jax.tree.map(_rounded, updates, clipped)
        lost = _any_nonfinite(whole)

        def rest(x, update, old):
            if not is_measured(x):
                return old
            error = x - update.astype(x.dtype)
            stays = ~jnp.isfinite(error) | (lost & (update == 0) & (x != 0))
            return jnp.where(stays, old, decay * error).astype(old.dtype)

        buffer = jax.tree.map(rest, whole, clipped, state.buffer)
        return clipped, ErrorFeedbackState(buffer, kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _wide(leaf: Any) -> Any:
    """A leaf in the dtype of its buffer."""
    if not is_measured(leaf):
        return leaf
    return widened(jnp.asarray(leaf))


def _no_error(leaf: Any) -> Array:
    return jnp.zeros_like(_wide(leaf)) if is_measured(leaf) else jnp.zeros(0, bool)


def _sum(gradient: Any, buffer: Array) -> Any:
    return _wide(gradient) + buffer if is_measured(gradient) else gradient


def _rounded(gradient: Any, update: Any) -> Any:
    if not is_measured(gradient):
        return update
    gradient = jnp.asarray(gradient)
    return like(gradient, update.astype(gradient.dtype))


def _any_nonfinite(tree: Any) -> Array:
    lost = [jnp.any(~jnp.isfinite(x)) for x in jax.tree.leaves(tree) if is_measured(x)]
    return jnp.any(jnp.stack(lost)) if lost else jnp.asarray(False)
