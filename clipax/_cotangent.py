"""Clipping inside a backward pass."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from clipax import _validate
from clipax._clippers.fixed import global_norm
from clipax._stateless import once


def clip_cotangent(x: Any, clipper: optax.GradientTransformation | float | Array) -> Any:
    """Leave a value as it is, and clip what comes back to it in the backward pass.

    Forward `y = x`, backward `dL/dx = clip(dL/dy)`.

    Inside the step of a recurrent network it stands between two time steps: what comes back through
    time is clipped at each of them, before it can explode. A batch has one norm:
    `clip_by(per_unit(axis=-1), 1.0)` clips each of its rows by itself, and so does `vmap`.

    State: none.

    Args:
        x: an array or a tree of arrays.
        clipper: a clipper without state, or a number >= 0, which stands for `global_norm`: a
            backward pass has no place for a state, and none for parameters. A schedule stays at its
            first value.

    Returns:
        x, to the bit.

    Raises:
        TypeError: if `clipper` is something else, or has a state; and by `jax.jvp`, which has no
            backward pass.
        ValueError: if it is a negative number or NaN.

    Example:
        >>> def loss(state, clipper):
        ...     for _ in range(8):
        ...         state = 10 * clipax.clip_cotangent(state, clipper)
        ...     return state
        >>> print(jax.grad(loss)(1.0, jnp.inf), jax.grad(loss)(1.0, 5.0))
        100000000.0 5.0

    References:
        Graves, *Generating sequences with recurrent neural networks*, 2013,
        https://arxiv.org/abs/1308.0850
    """
    if isinstance(clipper, optax.GradientTransformation):
        clip = once("clipper", clipper, x)
        return _clipped(lambda cotangent, _: clip(cotangent), x, jnp.zeros(()))
    try:
        _validate.number("clipper", clipper)
    except TypeError as error:
        shown = _validate.shown(clipper)
        raise TypeError(f"`clipper` must be a clipper or a number, got {shown}") from error
    return _clipped(_by_norm, x, jnp.asarray(clipper, float))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _clipped(clip: Any, x: Any, max_norm: Array) -> Any:
    """`x`; the number is given as an argument since it may be traced."""
    del clip, max_norm
    return x


def _forward(clip, x, max_norm):
    del clip
    return x, max_norm


def _backward(clip, max_norm, cotangent):
    return clip(cotangent, max_norm), jnp.zeros_like(max_norm)


_clipped.defvjp(_forward, _backward)


def _by_norm(updates: Any, max_norm: Array) -> Any:
    clipper = global_norm(max_norm)
    return clipper.update(updates, clipper.init(updates))[0]
