"""Wrappers around an optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from clipax import _validate
from clipax._state import ClipState
from clipax._trees import incremented, is_measured, promoted


class MomentumResetState(NamedTuple):
    """State of `momentum_reset`.

    Attributes:
        step: how many updates there were.
        inner: the state of the optimizer.
    """

    step: Array
    inner: Any


def momentum_reset(
    inner: optax.GradientTransformation,
    every: int | Array = 500,
    *,
    warmup: int | Array = 150,
) -> optax.GradientTransformationExtraArgs:
    """Let an optimizer forget its moments now and then, and what a spike did to them.

    At each multiple t of `every`, t = 1 being the first step, all arrays of floating-point numbers
    in the state of `inner` become what they were at `init`, but for those of clippers, and counters
    go on. The updates of the steps `t + s` with `0 <= s < warmup` are then multiplied by
    `1 - 0.495 (1 + cos(pi s / (warmup + 1)))`.

    State: that of `inner` and 1 number.

    Args:
        inner: an optimizer, such as `optax.adam(1e-3)`. What else it keeps in floating-point
            numbers begins anew too, such as the learning rate of `optax.inject_hyperparams` or an
            average of the parameters: wrap only the part with the moments.
        every: how many steps lie between two resets, >= 1.
        warmup: how many updates are then made smaller, >= 0 and below `every`.

    Returns:
        A gradient transformation.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> optimizer = clipax.momentum_reset(optax.trace(0.9), every=3, warmup=1)
        >>> state = optimizer.init(jnp.zeros(()))
        >>> for _ in range(3):
        ...     update, state = optimizer.update(jnp.ones(()), state)
        ...     print(update.round(4))
        1.0
        1.9
        0.01

    References:
        Huang, Zhu, Jin, Liu, Wang, Liu, *SPAM: spike-aware Adam with momentum reset for stable LLM
        training*, 2025, https://arxiv.org/abs/2501.06842
    """
    _validate.transformation("inner", inner, "an optimizer")
    _validate.number("every", every, low=1)
    _validate.number("warmup", warmup)
    _validate.shorter("warmup", warmup, "every", every)
    inner = optax.with_extra_args_support(inner)

    @_validate.naming("momentum_reset")
    def init_fn(params):
        return MomentumResetState(jnp.zeros((), jnp.int32), inner.init(params))

    @_validate.naming("momentum_reset")
    def update_fn(updates, state, params=None, **extra_args):
        step = incremented(state.step)

        def forgotten(old):
            fresh = inner.init(updates if params is None else params)
            return jax.tree.map(_fresh_moments, fresh, old, is_leaf=_is_clipper)

        kept = lax.cond(step % every == 0, forgotten, lambda old: old, state.inner)
        updates, kept = inner.update(updates, kept, params, **extra_args)
        factor = _share_after_reset(step, every, warmup)

        def shrunk(u):
            if not is_measured(u):
                return u
            wide = promoted(u.dtype, factor.dtype)
            return (u.astype(wide) * factor.astype(wide)).astype(u.dtype)

        return jax.tree.map(shrunk, updates), MomentumResetState(step, kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _is_clipper(node: Any) -> bool:
    return isinstance(node, ClipState)


def _fresh_moments(fresh: Any, old: Any) -> Any:
    """Floating-point arrays anew; counters, and clippers with what they learned, as they are."""
    keep = _is_clipper(old) or not is_measured(old)
    return old if keep else jnp.asarray(fresh, old.dtype)


def _share_after_reset(step: Array, every: int | Array, warmup: int | Array) -> Array:
    since = step % every
    share = 1 - 0.495 * (1 + jnp.cos(jnp.pi * since.astype(jnp.float32) / jnp.float32(warmup + 1)))
    return jnp.where((step >= every) & (since < warmup), share, 1)
