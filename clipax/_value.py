"""The clipper of single entries, which cuts them off where a factor would round."""

import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from clipax import _validate, measures, rules, thresholds
from clipax._core import Given, follow, initial_state
from clipax._scale import like
from clipax._state import ClipState, observe
from clipax._trees import incremented, is_measured
from clipax.thresholds import Threshold, ThresholdPolicy, as_policy


def value(
    limit: Threshold | tuple[float | optax.Schedule, float | optax.Schedule],
    *,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip each entry to an interval.

    `g_i <- max(-tau, min(tau, g_i))`, `tau = limit`; or `max(low, min(high, g_i))`

    Parts: per_element -> number -> `jnp.clip`, which is exact where a factor would round.
    State: none.

    Args:
        limit: a number >= 0, a schedule or a policy, or a pair `(low, high)` of numbers or
            schedules with `low <= 0 <= high`. A complex entry is clipped by its modulus and takes
            no pair.
        nonfinite: what becomes of an entry that is NaN or infinite: `"propagate"` NaN, `"zero"`
            and `"sanitize"` zero.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. It keeps one metric, `threshold`, if that is one number: of a
        pair the larger side.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> clipax.clip([jnp.array([-3.0, 0.5, 4.0])], clipax.value(1.0))[0]
        [Array([-1. ,  0.5,  1. ], dtype=float32)]
        >>> clipax.clip([jnp.array([-3.0, 0.5, 4.0])], clipax.value((0.0, 2.0)))[0]
        [Array([0. , 0.5, 2. ], dtype=float32)]

    References:
        Mikolov, *Statistical language models based on neural networks*, PhD thesis, Brno
        University of Technology, 2012; TensorFlow, `tf.clip_by_value`.

    Deviations: none in the rule. Peers let infinite entries become `limit`; here `nonfinite`
    decides.
    """
    lower, upper = _sides(limit)
    _validate.options(nonfinite, name)
    measure = measures.per_element()
    scalar = not isinstance(limit, ThresholdPolicy)
    lost = jnp.nan if nonfinite == "propagate" else 0.0

    @_validate.naming(name)
    def init_fn(params: optax.Params) -> ClipState:
        return initial_state(measure, upper, params, name, scalar=scalar)

    @_validate.naming(name)
    def update_fn(updates, state, params=None, **extra_args):
        norms = measure.norms(updates)
        given = Given(measure, state.step, params, extra_args)
        high, policy_state = follow(upper, norms, state.policy, given)
        low = high  # of a pair neither has a state
        if lower is not None:
            low, _ = follow(lower, norms, state.policy, given)

        def clip(x, *bounds):
            if not is_measured(x):
                return x
            return _clip_entries(x, *bounds, lost=lost, paired=lower is not None)

        updates = jax.tree.map(clip, updates, norms.values, low, high)
        largest = [
            jnp.maximum(*ends) for ends in zip(*map(jax.tree.leaves, (low, high)), strict=True)
        ]
        metrics = observe(state.metrics, jax.tree.leaves(norms.values), largest, [])
        return updates, ClipState(incremented(state.step), policy_state, metrics)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _sides(limit: Any) -> tuple[ThresholdPolicy | None, ThresholdPolicy]:
    """The thresholds of the negative and the positive side; `None` for the same as the other."""
    if type(limit) not in (tuple, list):  # a policy is a named tuple, and so is an optimizer
        return None, as_policy("limit", limit)
    if len(limit) != 2:
        raise ValueError(f"`limit` must be one threshold or a pair, got {limit!r}")
    low, high = limit
    if any(isinstance(side, ThresholdPolicy) for side in limit):
        raise TypeError(f"`limit` must not have policies in a pair, got {_validate.shown(limit)}")
    if callable(low):
        schedule = cast(optax.Schedule, low)
        below = thresholds.scheduled(lambda step: jnp.negative(schedule(step)))
        return below, as_policy("limit[1]", high)
    _validate.number("limit[0]", low, low=-math.inf, high=0)
    return thresholds.constant(-low), as_policy("limit[1]", high)


@functools.partial(jax.jit, static_argnames=("lost", "paired"))
def _clip_entries(x, norm, low, high, *, lost: float, paired: bool):
    if jnp.iscomplexobj(x):
        if paired:
            raise ValueError("`limit` must be one threshold for complex gradients, got a pair")
        clipped = x * rules.rescale(norm, high).astype(x.dtype)
    else:
        clipped = jnp.clip(x.astype(norm.dtype), -low, high).astype(x.dtype)
    return like(x, jnp.where(jnp.isfinite(norm), clipped, jnp.asarray(lost, x.dtype)))
