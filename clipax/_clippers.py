"""The named clippers: each is its equation, written as one expression over the three parts.

All of them take `nonfinite` and `name` as `clip_by` does. Those with a norm take `ord` (a number
p > 0 for the norm `(sum |x|^p)^(1/p)`, `math.inf` for the maximum, `None` for 2) and `axis_name`
(the mapped axes over which the gradient is spread, inside `shard_map` and `pmap`).
"""

from collections.abc import Hashable, Mapping
from typing import Any

import optax
from jax import Array

from clipax import _validate, measures, thresholds
from clipax._core import clip_by
from clipax.measures import Measure, Norm
from clipax.thresholds import Threshold, as_policy


def global_norm(
    max_norm: Threshold,
    *,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip the whole gradient by its norm.

    `n = ||g||`, `tau = max_norm`, `g <- min(1, tau / n) g`

    Parts: per_tree(l2) -> number -> rescale. State: none.

    Args:
        max_norm: a number >= 0, a schedule or a policy.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> clipax.clip([jnp.array([3.0, 4.0]), jnp.array([12.0])], clipax.global_norm(6.5))[0]
        [Array([1.5, 2.0], dtype=float32), Array([6.0], dtype=float32)]

    References:
        Pascanu, Mikolov, Bengio, *On the difficulty of training recurrent neural networks*, 2013,
        https://arxiv.org/abs/1211.5063

    Deviations: the published code also has a fallback for norms that are not finite or above 1e10
    (it sets the gradient to zero and shrinks the recurrent weights); here `nonfinite` decides.
    """
    policy = as_policy("max_norm", max_norm)
    measure = measures.per_tree(_norm(ord), axis_name=axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def per_layer(
    max_norm: Threshold,
    *,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip each layer by its own norm: all leaves that share a parent module.

    `n_i = ||g_i||`, `tau = max_norm`, `g_i <- min(1, tau / n_i) g_i` for every layer i

    Parts: per_layer(l2) -> number -> rescale. State: none.

    Args:
        max_norm: a number >= 0, a schedule or a policy.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. What a layer is: see `clipax.measures.per_layer`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> gradient = {"cell": {"h": jnp.array([3.0]), "x": jnp.array([4.0])}, "out": {"b": 0.5}}
        >>> clipax.clip(gradient, clipax.per_layer(1.0))[0]["cell"]
        {'h': Array([0.6], dtype=float32), 'x': Array([0.8], dtype=float32)}
    """
    policy = as_policy("max_norm", max_norm)
    measure = measures.per_layer(_norm(ord), axis_name=axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def per_leaf(
    max_norm: Threshold,
    *,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip each leaf by its own norm.

    `n_i = ||g_i||`, `tau = max_norm`, `g_i <- min(1, tau / n_i) g_i` for every leaf i

    Parts: per_leaf(l2) -> number -> rescale. State: none.

    Args:
        max_norm: a number >= 0, a schedule or a policy.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> clipax.clip([jnp.array([3.0, 4.0]), jnp.array([0.5])], clipax.per_leaf(2.5))[0]
        [Array([1.5, 2.0], dtype=float32), Array([0.5], dtype=float32)]

    References:
        Keras, argument `clipnorm` of its optimizers; TensorFlow, `tf.clip_by_norm`.
    """
    policy = as_policy("max_norm", max_norm)
    measure = measures.per_leaf(_norm(ord), axis_name=axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def per_group(
    max_norm: Threshold | Mapping[Hashable, Threshold],
    labels: Any,
    *,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip all leaves with the same label by their joint norm.

    `n_i = ||g_i||`, `tau_i = max_norm[i]`, `g_i <- min(1, tau_i / n_i) g_i` for every label i

    Parts: per_group(labels, l2) -> number, or one for each label -> rescale. State: none.

    Args:
        max_norm: a number >= 0, a schedule or a policy, or a dict with one of these by label.
        labels: a prefix tree of labels, or a function that takes the path of a leaf, such as
            `"encoder/dense/kernel"`, and returns its label.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range; when it is used, if `labels` does not fit
            the gradient or gives a label that `max_norm` does not have.

    Example:
        >>> labels = {"encoder": "slow", "head": "fast"}
        >>> clipper = clipax.per_group({"slow": 2.5, "fast": 1.0}, labels)
        >>> clipax.clip({"encoder": jnp.array([3.0, 4.0]), "head": jnp.array([0.5])}, clipper)[0]
        {'encoder': Array([1.5, 2.0], dtype=float32), 'head': Array([0.5], dtype=float32)}
    """
    names = None
    if isinstance(max_norm, Mapping):
        if not max_norm:
            raise ValueError("`max_norm` must have a threshold for at least one label, got {}")
        names = tuple(max_norm)
        policies = [as_policy(f"max_norm[{k!r}]", entry) for k, entry in max_norm.items()]
        max_norm = thresholds.by_group(policies)
    policy = as_policy("max_norm", max_norm)
    measure = measures.per_group(labels, _norm(ord), names=names, axis_name=axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def adaptive(
    percentile: float = 95.0,
    *,
    multiplier: float | Array = 2.0,
    window: int = 1000,
    warmup: int | Array = 100,
    initial: float | Array = 10.0,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip by a percentile of the last norms.

    `tau = multiplier * percentile_p(n_{t-window+1}, ..., n_t)`, `g <- min(1, tau / n_t) g`

    The norms enter unclipped and the current one is included, so a spike raises the threshold only
    by its rank. Until `warmup` norms have been seen, n_t included, `tau = initial`.

    Parts: per_tree(l2) -> window_percentile -> rescale. State: the window twice and 2 numbers.

    Args:
        percentile: p in [0, 100], linearly interpolated; a Python number.
        multiplier: a number > 0.
        window: how many norms are remembered, >= 1; a Python number.
        warmup: how many norms must have been seen, >= 0; it may exceed the window.
        initial: a threshold >= 0, which may be infinite.
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `percentile`, `window`,
        `measure`, `ord` and `axis_name` are `static_args`. Zero norms enter the window; while the
        percentile is 0, `tau = initial`. A norm that is not finite does not enter.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipper = clipax.adaptive(50.0, multiplier=1.0, warmup=3)
        >>> state = clipper.init([jnp.zeros(1)])
        >>> for norm in (1.0, 2.0, 60.0):
        ...     clipped, state = clipper.update([jnp.array([norm])], state)
        >>> clipped
        [Array([2.], dtype=float32)]

    References:
        The definition is this project's own. It is related to AutoClip: Seetharaman, Wichern,
        Pardo, Le Roux, *AutoClip: adaptive gradient clipping for source separation networks*,
        2020, https://arxiv.org/abs/2007.14469
    """
    policy = thresholds.window_percentile(
        percentile, multiplier=multiplier, window=window, warmup=warmup, initial=initial
    )
    measure = _measure(measure, ord, axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def decaying(
    initial: float | Array,
    decay: float | Array = 0.999,
    *,
    every: int = 1,
    floor: float | Array = 0.0,
    clip_rate: float | Array | None = None,
    window: int = 100,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip by a threshold that decays, by steps or while much is clipped.

    `tau = max(floor, initial * decay^k)`, `g <- min(1, tau / n) g`

    k is 0 at the first step and grows by 1 after each `every` steps; with `clip_rate` only if more
    than this share of the last `window` steps (of all steps, while there are fewer) were clipped.

    Parts: per_tree(l2) -> decayed -> rescale. State: 2 numbers; with `clip_rate` the window and 2
    numbers more.

    Args:
        initial: the first threshold, finite and >= 0.
        decay: a number in (0, 1].
        every: how many steps lie between two decays, >= 1; a Python number.
        floor: the least threshold, >= 0.
        clip_rate: a share in [0, 1], or `None` to decay whatever was clipped.
        window: over how many steps the share is taken, >= 1; a Python number.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `every`, `window`, `ord` and
        `axis_name` are `static_args`. A step with a zero gradient counts, as one that was not
        clipped; a step whose norm is not finite does not.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> clipper = clipax.decaying(8.0, 0.5, floor=1.0)
        >>> state = clipper.init([jnp.zeros(1)])
        >>> for _ in range(3):
        ...     clipped, state = clipper.update([jnp.array([60.0])], state)
        >>> clipped
        [Array([2.], dtype=float32)]

    References:
        The definition is this project's own.
    """
    policy = thresholds.decayed(
        initial, decay, every=every, floor=floor, clip_rate=clip_rate, window=window
    )
    measure = _measure(None, ord, axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def moving_average(
    multiplier: float | Array = 2.0,
    *,
    window: int = 100,
    warmup: int | Array = 10,
    initial: float | Array = 10.0,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip by a multiple of the mean of the last norms.

    `tau = multiplier * mean(m_{t-window}, ..., m_{t-1})` with `m = min(n, tau)`,
    `g <- min(1, tau / n_t) g`

    What was left of each norm enters, so a spike moves the mean by no more than the threshold
    allows, and a lasting new level is followed. Until `warmup` norms have been seen, n_t not
    included, `tau = initial`.

    Parts: per_tree(l2) -> moving_mean -> rescale. State: the window and 2 numbers.

    Args:
        multiplier: a number > 0.
        window: how many norms are remembered, >= 1; a Python number.
        warmup: how many norms must have been seen, >= 0; it may exceed the window.
        initial: a threshold > 0, which may be infinite.
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `window`, `measure`, `ord` and
        `axis_name` are `static_args`. Zero norms enter the mean; while it is 0, `tau = initial`.
        A norm that is not finite does not enter.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipper = clipax.moving_average(2.0, warmup=2)
        >>> state = clipper.init([jnp.zeros(1)])
        >>> for norm in (1.0, 3.0, 60.0):
        ...     clipped, state = clipper.update([jnp.array([norm])], state)
        >>> clipped
        [Array([4.], dtype=float32)]

    References:
        The definition is this project's own.
    """
    policy = thresholds.moving_mean(multiplier, window=window, warmup=warmup, initial=initial)
    measure = _measure(measure, ord, axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def _norm(ord: float | None) -> Norm:
    if ord is None:
        return measures.l2
    _validate.number("ord", ord, above=True, static=True)
    return measures.lp(ord)


def _measure(measure: Measure | None, ord: float | None, axis_name: Any) -> Measure:
    """The measure of a clipper that lets the user choose it."""
    if measure is None:
        return measures.per_tree(_norm(ord), axis_name=axis_name)
    for argument, given in (("ord", ord), ("axis_name", axis_name)):
        if given is not None:
            raise ValueError(
                f"`{argument}` belongs to the measure, got {given!r} beside `measure`: "
                f"pass it to the function that makes the measure"
            )
    return measure
