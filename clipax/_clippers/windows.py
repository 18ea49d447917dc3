"""Clippers that remember norms: all, or the last ones."""

from typing import Any, cast

import optax
from jax import Array

from clipax import _validate, thresholds
from clipax._clippers.parts import measure_of
from clipax._core import clip_by
from clipax.measures import Measure


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
        initial: a threshold >= 0; infinite where the scale of the norms is not known.
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
    measure = measure_of(measure, ord, axis_name)
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
        initial: a threshold > 0; infinite where the scale of the norms is not known.
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
    measure = measure_of(measure, ord, axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def autoclip(
    percentile: float | Array = 10.0,
    *,
    window: int | None = None,
    include_current: bool = True,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip by a percentile of all norms so far.

    `tau = percentile_p(n_1, ..., n_t)`, `g <- min(1, tau / n_t) g`

    The norms enter unclipped. With p = 10 nine steps in ten are clipped once the norms are
    stationary, which is close to normalised descent with a learned step.

    Parts: per_tree(l2) -> history_percentile, or window_percentile -> rescale. State: 16,258
    numbers; with `window` that twice and 2 numbers.

    Args:
        percentile: p in [0, 100], linearly interpolated; with `window` a Python number.
        window: how many norms are remembered, >= 1, a Python number; `None` for all of them, in
            bounded memory and to within 1.6 %, see `thresholds.history_percentile`.
        include_current: whether n_t itself is among them; without it, which needs a `window`,
            this is quantile-clipped SGD.
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `window`, `include_current`,
        `measure`, `ord` and `axis_name` are `static_args`. The first norm is never clipped. Zero
        norms do not enter the history of all norms; they enter a window, and while its percentile
        is 0 nothing is clipped. A norm that is not finite does not enter.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipper = clipax.autoclip(50.0, window=3)
        >>> state = clipper.init([jnp.zeros(1)])
        >>> for norm in (1.0, 2.0, 60.0):
        ...     clipped, state = clipper.update([jnp.array([norm])], state)
        >>> clipped
        [Array([2.], dtype=float32)]

    References:
        Seetharaman, Wichern, Pardo, Le Roux, *AutoClip: adaptive gradient clipping for source
        separation networks*, 2020, https://arxiv.org/abs/2007.14469. Without the current norm:
        Merad, Gaïffas, *Robust stochastic optimization via gradient quantile clipping*, 2024,
        https://arxiv.org/abs/2309.17316

    Deviations: the published code keeps a list of all norms, which grows for ever, and has no
    default percentile: 10 is what the paper recommends. There a zero norm enters, and one NaN ends
    all clipping.
    """
    _validate.flag("include_current", include_current)
    if window is None and not include_current:
        raise ValueError("`include_current` must be True without a `window`, got False")
    policy = thresholds.history_percentile(percentile)
    if window is not None:
        policy = thresholds.window_percentile(
            cast(float, percentile), window=window, include_current=include_current
        )
    return clip_by(measure_of(measure, ord, axis_name), policy, nonfinite=nonfinite, name=name)


def median(
    multiplier: float | Array = 2.0,
    *,
    window: int = 100,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip by a multiple of the median of the norms, taken anew now and then.

    `tau = multiplier * median(n_{t-window+1}, ..., n_t)` at every multiple t of `window`, kept
    until the next one; `g <- min(1, tau / n) g`

    In the first period the threshold is taken, doubled, at the steps 10, 20 and 40 that are in it;
    before that nothing is clipped.

    Parts: per_tree(l2) -> periodic_median -> rescale. State: the window and 3 numbers.

    Args:
        multiplier: a number > 0.
        window: how many norms lie between two thresholds, >= 1; a Python number.
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `window`, `measure`, `ord` and
        `axis_name` are `static_args`. Zero norms enter; while the median is 0 nothing is clipped.
        A norm that is not finite does not enter.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipper = clipax.median(2.0, window=3)
        >>> state = clipper.init([jnp.zeros(1)])
        >>> for norm in (1.0, 3.0, 2.0, 60.0):
        ...     clipped, state = clipper.update([jnp.array([norm])], state)
        >>> clipped
        [Array([2.], dtype=float32)]

    References:
        Yao, Guo, Yang, Kang, Kuang, Yang, Jin, Lin, Povey, *Zipformer: a faster and better encoder
        for automatic speech recognition*, 2024, https://arxiv.org/abs/2310.11230; the optimizer
        ScaledAdam of icefall.

    Deviations: ScaledAdam weights each tensor's gradient by the root mean square of its parameters,
    which belongs to that optimizer; here the norm is plain. There the norm of the first step is not
    recorded, and the early thresholds come one step later. There a norm that is not finite enters,
    and an infinite one makes zeros of the gradient; here `nonfinite` decides.
    """
    policy = thresholds.periodic_median(multiplier, window=window)
    return clip_by(measure_of(measure, ord, axis_name), policy, nonfinite=nonfinite, name=name)


def history_sigma(
    sigmas: float | Array = 3.0,
    *,
    window: int = 128,
    warmup: int | Array = 64,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip by the mean of the last norms and some standard deviations more.

    `tau = mu + sigmas * max(sigma, 1e-6)` with the mean mu and the population standard deviation
    sigma of `n_{t-window}, ..., n_{t-1}`, `g <- min(1, tau / n_t) g`

    The norms enter unclipped: after one spike the threshold is high until that leaves the window.

    Parts: per_tree(l2) -> window_deviation -> rescale. State: the window and 2 numbers.

    Args:
        sigmas: a number >= 0.
        window: how many norms are remembered, >= 1; a Python number.
        warmup: how many norms must have been seen, n_t not included, >= 1.
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `window`, `measure`, `ord` and
        `axis_name` are `static_args`. Nothing is clipped during the warm-up. Zero norms enter;
        while the mean is 0 nothing is clipped. A norm that is not finite does not enter.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipper = clipax.history_sigma(2.0, warmup=4)
        >>> state = clipper.init([jnp.zeros(1)])
        >>> for norm in (1.0, 1.0, 3.0, 3.0, 60.0):
        ...     clipped, state = clipper.update([jnp.array([norm])], state)
        >>> clipped
        [Array([4.], dtype=float32)]

    References:
        Levanter, `clip_update_by_historical_norm`. OLMo-core and MaxText skip what is six standard
        deviations above instead: `clip_by(per_tree(), window_deviation(6.0), rules.skip)`.

    Deviations: there one NaN enters and ends all clipping for as long as the window remembers it.
    OLMo-core and MaxText divide by m - 1 in the variance of m values, begin after 63 norms, and
    look at the loss too.
    """
    policy = thresholds.window_deviation(sigmas, window=window, warmup=warmup)
    return clip_by(measure_of(measure, ord, axis_name), policy, nonfinite=nonfinite, name=name)
