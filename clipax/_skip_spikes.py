"""Steps on which an optimizer is left alone: those with a spike."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.core import Tracer

from clipax import _norms, _validate, _windows, measures
from clipax._state import counted
from clipax._trees import incremented, leaves_where
from clipax._windows import Ring

_WATCHED = {"norm": ("norm",), "loss": ("loss",), "both": ("norm", "loss")}
_FLAT = 0.002  # of the root of the mean square: a deviation below it is no measure of a spike


class Watched(NamedTuple):
    """One quantity that is watched.

    Attributes:
        history: what entered at the last steps, in order of time.
        value: that of the last step.
        threshold: above which it was a spike.
    """

    history: Ring
    value: Array
    threshold: Array


class Spikes(NamedTuple):
    """What `skip_spikes` has seen; read by `clipax.metrics`.

    Attributes:
        watched: a `Watched` for each quantity, by its name.
        skipped: whether the last step was skipped.
        consecutive: how many steps with a spike were skipped since one was taken.
        steps_skipped: how many steps were skipped so far.
        nonfinite: how many of them because a quantity was not finite.
        restarts: how often a level was accepted after `max_consecutive` spikes.
    """

    watched: dict[str, Watched]
    skipped: Array
    consecutive: Array
    steps_skipped: Array
    nonfinite: Array
    restarts: Array


class SkipSpikesState(NamedTuple):
    """State of `skip_spikes`.

    Attributes:
        spikes: `{name: Spikes}`.
        inner: the state of the optimizer.
    """

    spikes: dict[str, Spikes]
    inner: Any


def skip_spikes(
    inner: optax.GradientTransformation,
    *,
    sigma: float | Array = 6.0,
    window: int = 128,
    warmup: int | Array = 64,
    watch: str = "norm",
    max_consecutive: int | Array = 200,
    max_norm: float | Array | None = None,
    axis_name: Any = None,
    name: str = "skip_spikes",
) -> optax.GradientTransformationExtraArgs:
    """Skip the steps at which the norm of the gradient or the loss jumps.

    A step is skipped if `x_t > tau_t`, where x is what is watched,
    `tau = mu + sigma max(s, 0.002 sqrt(mu^2 + s^2))`, and mu and s are the mean and the population
    standard deviation of `m_{t-window}, ..., m_{t-1}` with `m = min(x, tau)`; and if x is not
    finite. The updates of a skipped step are zero, and `inner` is not called: its state stays as it
    was, to the bit.

    tau is infinite until `warmup` values have been seen, and where all of them are 0: a spike in
    the warm-up is taken, and raises tau for as long as it is in the window, unless `max_norm` is
    below it. Nothing enters at a step that is not finite. As m and not x enters, the next spike is
    found as well, and a level that lasts is accepted: one 10 times as high after about 28 steps,
    one a million times as high after about 123, with the defaults and a full window. After
    `max_consecutive` spikes without a step between them the next one is taken and the window begins
    anew.

    Only what is watched is looked at: with `watch="loss"` a gradient that is not finite passes if
    the loss is finite. Under `vmap` each run skips by itself, but `inner` is computed for all.

    State: that of `inner`, the window and 4 numbers for each of what is watched, and 5 numbers.

    Args:
        inner: an optimizer, such as `optax.chain(clipax.global_norm(1.0), optax.adam(1e-3))`.
        sigma: how many standard deviations above the mean a spike begins, a number > 0.
        window: how many values are remembered, >= 1; a Python number.
        warmup: how many must have been seen, >= 0; it may exceed the window.
        watch: `"norm"`, the global L2 norm of the gradient, `"loss"`, or `"both"`: a spike of one
            of them is enough. The loss is the argument `value` of the optimizer's `update`, or else
            `loss`, a scalar; where the gradient is split over devices, the same on all of them,
            such as its `jax.lax.pmean`.
        max_consecutive: after how many spikes without a step between them the next is taken, >= 0.
        max_norm: tau of the norm is at most this, from the first step on, and a norm above it is
            skipped however often; with `watch="loss"` too. A number >= 0; `None` for none.
        axis_name: the mapped axes over which the gradient is split, see `clipax.measures.per_tree`.
        name: the prefix of the keys in `clipax.metrics`, which are `norm` and `loss`, where
            watched, `norm_threshold` and `loss_threshold`, `skipped` (1 if the last step was),
            `consecutive`, `steps_skipped`, `nonfinite` (how many of these were not finite) and
            `restarts`.

    Returns:
        A gradient transformation. Put it around the whole optimizer: a clipper in it that measures
        the same norm gets it from here. On calm steps it costs the look at the norm and the loss,
        and a compiler can no longer compute the updates and add them to the parameters in one pass.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or the loss is watched and not given or no
            scalar.

    Example:
        >>> optimizer = clipax.skip_spikes(optax.sgd(1.0), warmup=2)
        >>> state = optimizer.init(jnp.zeros(()))
        >>> for gradient in (1.0, 1.25, 50.0, 1.0):
        ...     update, state = optimizer.update(jnp.array(gradient), state)
        ...     print(update)
        -1.0
        -1.25
        0.0
        -1.0
        >>> print(clipax.metrics(state)["skip_spikes/steps_skipped"])
        1

    References:
        The rule of the trainers OLMo-core (`SkipStepOptimizer`), MaxText (`skip_step_on_spikes`)
        and Levanter (`SkipStepConfig`); `max_norm` is `grad_norm_skip_threshold` of Megatron-LM.

    Deviations: there x enters instead of m, so that after a few spikes others pass; s has no least
    value, so that a constant loss is followed by a skip at any rise; and one NaN in the window
    makes tau NaN for as long as it stays there.
    """
    _validate.transformation("inner", inner, "an optimizer")
    _validate.number("sigma", sigma, above=True)
    _validate.count("window", window)
    _validate.number("warmup", warmup)
    _validate.choice("watch", watch, tuple(_WATCHED))
    _validate.number("max_consecutive", max_consecutive)
    if max_norm is not None:
        _validate.number("max_norm", max_norm)
    _validate.name_of_wrapper(name)
    inner = optax.with_extra_args_support(inner)
    measure = measures.per_tree(axis_name=axis_name)

    @_validate.naming(name)
    def init_fn(params):
        (like,) = measure.init(params).values
        none = jnp.zeros((), jnp.int32)
        watched = {
            kind: Watched(_windows.ring(window, like, 0.0), jnp.copy(like), like + jnp.inf)
            for kind in _WATCHED[watch]
        }
        spikes = Spikes(watched, *(jnp.copy(none) for _ in range(5)))
        return SkipSpikesState({name: spikes}, inner.init(params))

    @_validate.naming(name)
    def update_fn(updates, state, params=None, **extra_args):
        spikes = state.spikes[name]
        values, known, excessive = {}, [], jnp.asarray(False)
        if watch != "loss" or max_norm is not None:
            with _norms.recording() as known:
                (values["norm"],) = measure.norms(updates).values
            if max_norm is not None:
                excessive = ~(values["norm"] <= max_norm)  # NaN is
        if watch != "norm":
            values["loss"] = _loss(extra_args)
        rule = functools.partial(_threshold, sigma=sigma, warmup=warmup)
        thresholds = {kind: rule(w.history) for kind, w in spikes.watched.items()}
        if max_norm is not None and watch != "loss":
            thresholds["norm"] = jnp.minimum(thresholds["norm"], max_norm)
        spikes = _seen(spikes, values, thresholds, excessive, max_consecutive)

        def update(state, params):
            with _norms.reusing(known):
                return inner.update(updates, state, params, **extra_args)

        updates, kept = _unless(spikes.skipped != 0, update, updates, state.inner, params)
        return updates, SkipSpikesState({name: spikes}, kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _loss(extra_args: dict[str, Any]) -> Array:
    loss = extra_args.get("value", extra_args.get("loss"))
    if loss is None:
        raise ValueError(
            "skip_spikes watches the loss: call `update(updates, state, params, value=loss)`"
        )
    if jnp.ndim(loss) != 0:
        raise ValueError(f"the loss must be a scalar, got one of shape {jnp.shape(loss)}")
    return jnp.asarray(loss)


def _seen(spikes: Spikes, values, thresholds, excessive, max_consecutive) -> Spikes:
    """What there is to tell after a step with these values."""
    watched = spikes.watched
    values = {kind: values[kind].astype(w.value.dtype) for kind, w in watched.items()}
    finite = jnp.all(jnp.stack([jnp.isfinite(x) for x in values.values()]))
    spike = jnp.any(jnp.stack([values[kind] > thresholds[kind] for kind in watched]))
    restart = finite & spike & ~excessive & (spikes.consecutive >= max_consecutive)
    skipped = ~finite | (spike & ~restart) | excessive

    def entered(kind: str, old: Ring) -> Ring:
        new = _windows.push(old, jnp.minimum(values[kind], thresholds[kind]))
        window = old.values.shape[0]
        anew = _windows.push(_windows.ring(window, jnp.zeros_like(values[kind]), 0.0), values[kind])
        chosen = jax.tree.map(lambda a, b: jnp.where(restart, a, b), anew, new)
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), chosen, old)

    in_a_row = jnp.where(finite & spike, incremented(spikes.consecutive), spikes.consecutive)
    return Spikes(
        watched={
            kind: Watched(entered(kind, w.history), values[kind], thresholds[kind])
            for kind, w in watched.items()
        },
        skipped=skipped.astype(jnp.int32),
        consecutive=jnp.where(skipped, in_a_row, 0),
        steps_skipped=counted(spikes.steps_skipped, skipped),
        nonfinite=counted(spikes.nonfinite, ~finite),
        restarts=counted(spikes.restarts, restart),
    )


def _threshold(history: Ring, sigma: float | Array, warmup: int | Array) -> Array:
    mean, deviation = _windows.mean_and_deviation(history.values, _windows.held(history))
    root = jnp.hypot(mean, deviation)
    usable = (history.seen >= warmup) & (root > 0)
    threshold = mean + sigma * jnp.maximum(deviation, _FLAT * root)
    return jnp.where(usable, threshold, jnp.inf).astype(mean.dtype)


def _unless(skipped: Array, update, updates, state, params) -> tuple[Any, Any]:
    """What `update(state, params)` gives; zeros for the updates, and the state, if `skipped`."""
    arrays, put = leaves_where(_can_change, updates)

    def taken(state, params):
        updates, state = update(state, params)
        return arrays(updates), state

    def left(state, params):
        results, _ = jax.eval_shape(taken, state, params)
        pairs = zip(arrays(updates), results, strict=True)
        return [_zeros(x, y.dtype) for x, y in pairs], state

    if isinstance(skipped, Tracer):
        results, state = lax.cond(skipped, left, taken, state, params)
    else:  # a new `cond` would be compiled at each call
        results, state = (left if skipped else taken)(state, params)
    return put(results), state


def _can_change(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) != jax.dtypes.float0


def _zeros(x: Any, dtype: Any) -> Array:
    """Zeros with the sharding of x and, in `shard_map`, its varying axes."""
    zero = jnp.zeros((), dtype)
    return jnp.where(jnp.asarray(x) != x, zero, zero)
