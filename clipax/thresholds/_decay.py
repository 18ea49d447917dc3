"""The policy that decays."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from clipax import _validate, _windows
from clipax._trees import incremented
from clipax.thresholds._policy import ThresholdPolicy


class DecayedState(NamedTuple):
    """State of `decayed`.

    Attributes:
        steps: how many norms have come since k could last grow.
        decays: k.
        clipped: with `clip_rate` which of the last norms were clipped, else `()`.
    """

    steps: Array
    decays: Array
    clipped: _windows.Ring | tuple[()]


def decayed(
    initial: float | Array,
    decay: float | Array = 0.999,
    *,
    every: int = 1,
    floor: float | Array = 0.0,
    clip_rate: float | Array | None = None,
    window: int = 100,
) -> ThresholdPolicy:
    """Decay geometrically, by steps or while much is clipped.

    `tau = max(floor, initial * decay^k)` with k = 0 at the first norm. After each `every` norms k
    grows by 1; with `clip_rate` only if more than this share of the last `window` norms (of all
    norms, while there are fewer) were above their thresholds.

    State: 2 numbers a group; with `clip_rate` the window and 2 numbers more.

    Args:
        initial: the first threshold, finite and >= 0.
        decay: a number in (0, 1].
        every: how many norms lie between two decays, >= 1; a Python number.
        floor: the least threshold, >= 0.
        clip_rate: a share in [0, 1], or `None` to decay whatever was clipped.
        window: over how many norms the share is taken, >= 1; a Python number.

    Returns:
        A policy.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if an argument is out of its range.

    Example:
        >>> policy = clipax.thresholds.decayed(8.0, 0.5, every=2)
        >>> state = policy.init(jnp.zeros(1))
        >>> for norm in (1.0, 1.0, 1.0):
        ...     tau, state = policy.update(jnp.array([norm]), state, step=0, param_norm=None)
        >>> tau
        Array([4.], dtype=float32)
    """
    _validate.number("initial", initial, high=float(np.finfo(np.float32).max))
    _validate.number("decay", decay, high=1, above=True)
    _validate.count("every", every)
    _validate.number("floor", floor)
    if clip_rate is not None:
        _validate.number("clip_rate", clip_rate, high=1)
    _validate.count("window", window)
    # float32 holds log(0.999) to 8 digits, but 1 - 0.999 only to 5: take the logarithm in float64.
    log_decay = jnp.log(decay) if isinstance(decay, jax.Array) else math.log(decay)

    def init_fn(norm):
        clipped = () if clip_rate is None else _windows.ring(window, _windows.no_count(norm), 0)
        return DecayedState(_windows.no_count(norm), _windows.no_count(norm), clipped)

    def update_fn(norm, state, *, step, param_norm, **extra_args):
        del step, param_norm, extra_args
        power = jnp.exp(state.decays.astype(norm.dtype) * log_decay)
        threshold = jnp.maximum(floor, initial * power).astype(norm.dtype)
        steps, clipped = (state.steps + 1) % every, state.clipped
        due = steps == 0
        if clip_rate is not None:
            clipped = _windows.push(clipped, norm > threshold)
            share = jnp.sum(clipped.values, axis=0, dtype=jnp.int32) / jnp.minimum(
                clipped.seen, window
            )
            due &= share > clip_rate
        decays = jnp.where(due, incremented(state.decays), state.decays)
        return threshold, DecayedState(steps, decays, clipped)

    return ThresholdPolicy(init_fn, update_fn)
