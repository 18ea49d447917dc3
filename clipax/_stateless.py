"""Clippers where there is no place for a state."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from clipax import _validate
from clipax._state import ClipState


def once(
    argument: str, clipper: optax.GradientTransformation, like: Any
) -> Callable[..., optax.Updates]:
    """The clipper as a function of a gradient and, if it needs them, the parameters.

    Raises:
        TypeError: if it has a state beside its metrics; `argument` is its name in the message.
    """
    inner = optax.with_extra_args_support(clipper)
    state = jax.eval_shape(inner.init, like)
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, ClipState))
    kept = [jax.tree.leaves(n.policy) if isinstance(n, ClipState) else [n] for n in nodes]
    if any(kept):
        raise TypeError(
            f"`{argument}` must be a clipper without a state, such as clipax.global_norm(1.0), got "
            f"one that keeps {_validate.shown(jax.tree.leaves(kept)[0])}"
        )

    def clip(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        return inner.update(updates, inner.init(updates), params)[0]

    return clip
