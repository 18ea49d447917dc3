"""Clippers that follow the norms with a few running numbers."""

from typing import Any

import jax.numpy as jnp
import optax
from jax import Array

from clipax import _validate, measures, rules, thresholds
from clipax._clippers.parts import measure_of, norm_of
from clipax._core import clip_by
from clipax._layout import of_whole_arrays
from clipax._norms import group_norms
from clipax.measures import Measure
from clipax.thresholds import ThresholdPolicy


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

    With a `floor` of 0 the threshold has no end: after 20,000 steps at 0.999 it is 2e-9 of
    `initial`.

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
    measure = measure_of(None, ord, axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def zclip(
    z: float | Array = 2.5,
    *,
    decay: float | Array = 0.97,
    max_norm: float | Array | None = 1.0,
    warmup: int = 25,
    eps: float | Array = 1e-6,
    mode: str = "adaptive",
    clip_factor: float | Array = 1.0,
    skip_update_on_spike: bool = False,
    restart: int | Array | None = 25,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip norms that stand out by their z-score.

    With the running mean mu and deviation sigma and `s = (n - mu) / (max(sigma, 0.01 mu) + eps)`:
    `tau_0 = clip_factor * (mu + z^2 sigma / s)` where `s > z`, else `tau_0 = inf`;
    `tau = min(tau_0, max_norm)`, `g <- min(1, tau / n) g`

    Then with `e = min(n, tau_0)`: `mu <- decay mu + (1 - decay) e`, and with the new mu
    `sigma^2 <- decay sigma^2 + (1 - decay) (e - mu)^2`. Mu and sigma start as those of the first
    `warmup` norms, for which `tau = max_norm`.

    Parts: per_tree(l2) -> capped(restarted(z_score)) -> rescale. State: twice `warmup` and 3
    numbers, and 1 number.

    Args:
        z: the score above which a norm is clipped, > 0.
        decay: a number in [0, 1).
        max_norm: the largest threshold, >= 0, during the warm-up too; `None` for none.
        warmup: how many norms mu and sigma start with, >= 1; a Python number.
        eps: what is added to sigma, >= 0. It does not scale with the norms: let it be far below
            their deviation.
        mode: what a norm that stands out is clipped to: `"adaptive"` as above; `"mean"` mu;
            `"percentile"` `mu + z max(sigma, 0.01 mu)`, and all norms above that are clipped.
        clip_factor: a number > 0, for the mode `"adaptive"`.
        skip_update_on_spike: whether a norm that stands out enters nothing, instead of as e.
        restart: after how many norms in a row that stand out mu and sigma begin anew with these
            norms, >= 1; `None` for the published rule. If they are as many as `warmup`, mu and
            sigma are theirs; if they are fewer, the warm-up goes on.
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `warmup`, `mode`,
        `skip_update_on_spike`, `measure`, `ord` and `axis_name` are `static_args`. Zero norms and
        norms that are not finite enter nothing.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipper = clipax.zclip(warmup=3, max_norm=None)
        >>> state = clipper.init([jnp.zeros(1)])
        >>> for norm in (1.0, 2.0, 3.0, 50.0):
        ...     clipped, state = clipper.update([jnp.array([norm])], state)
        >>> clipped[0].round(3)
        Array([2.087], dtype=float32)

    References:
        Kumar, Owen, Chowdhury, Güra, *ZClip: adaptive spike mitigation for LLM pre-training*, 2025,
        https://arxiv.org/abs/2504.02507

    Deviations: three, and `restart=None` takes all of them back, the 0.01 mu above too. A lasting
    rise of the norms is accepted; the published rule clips it for ever, since sigma shrinks while
    mu hardly moves. Norms of the warm-up above ten times its median do not enter. Sigma counts as
    no less than 0.01 mu in the score, so that equal norms in the warm-up do not let every rise be
    clipped. On ordinary norms none of them changes anything. In any case a zero norm does not
    enter, and a NaN does not end all clipping.
    """
    repairs = (
        {"outlier": None, "spread": 0.0} if restart is None else {"outlier": 10.0, "spread": 0.01}
    )
    policy = thresholds.z_score(
        z,
        decay=decay,
        warmup=warmup,
        eps=eps,
        mode=mode,
        clip_factor=clip_factor,
        skip_update_on_spike=skip_update_on_spike,
        **repairs,
    )
    if restart is not None:
        _validate.number("restart", restart, low=1)
        policy = thresholds.restarted(policy, restart)
    if max_norm is not None:
        _validate.number("max_norm", max_norm)
        policy = thresholds.capped(policy, max_norm)
    return clip_by(measure_of(measure, ord, axis_name), policy, nonfinite=nonfinite, name=name)


def adagc(
    ratio: float | Array = 1.04,
    *,
    decay: float | Array = 0.99,
    warmup: int | Array = 100,
    max_norm: float | Array = 1.0,
    restart: int | Array | None = 100,
    ord: float | None = None,
    stacked: Any = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip each leaf by its own moving norm, after a warm-up with one global norm.

    For the first `warmup` norms of a leaf i: `g_i <- min(1, max_norm / n) g_i` with the norm n of
    the whole gradient, and `gamma_i` is the smallest of its norms afterwards. Then
    `tau_i = ratio * gamma_i`, `g_i <- min(1, tau_i / n_i) g_i` and
    `gamma_i <- decay gamma_i + (1 - decay) min(n_i, tau_i)`.

    Since gamma starts from a minimum and learns from clipped norms, most steps are clipped: 70 to
    90 % of them on calm norms that vary by 20 %.

    Parts: per_leaf(l2) -> restarted(exponential_mean), a global norm before -> rescale. State: 5
    numbers a leaf.

    Args:
        ratio: a number > 0.
        decay: a number in [0, 1).
        warmup: how many norms of a leaf its gamma starts with, >= 1.
        max_norm: the global threshold during the warm-up, >= 0.
        restart: after how many norms in a row above four times their threshold leaf i begins anew
            with these norms, >= 1; `None` for the published rule. If they are as many as `warmup`,
            gamma_i is the smallest of them; if they are fewer, the warm-up goes on.
        ord: the order of the norm, p > 0; `None` is 2.
        stacked: which leaves are stacks of layers, see `clipax.measures.per_leaf`; each slice then
            counts for a leaf. The axis of the layers may not be spread over `axis_name`.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `ord`, `stacked` and
        `axis_name` are `static_args`. A leaf whose norm is zero or not finite learns nothing from
        it, and the step does not count for its warm-up.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> clipper = clipax.adagc(2.0, warmup=2)
        >>> state = clipper.init([jnp.zeros(1)])
        >>> for norm in (0.5, 0.25, 60.0):
        ...     clipped, state = clipper.update([jnp.array([norm])], state)
        >>> clipped
        [Array([0.5], dtype=float32)]

    References:
        Wang, Li, Chen, Zeng, Yang, Yu, Ma, Shen, *AdaGC: enhancing LLM pretraining stability via
        adaptive gradient clipping*, 2026, https://arxiv.org/abs/2502.11034

    Deviations: as published, one small norm in the warm-up holds a leaf down for thousands of
    steps; here a level that lasts `restart` steps is accepted, and so is an explosion that does.
    As published, one zero gradient holds a leaf at zero for ever; here it enters nothing, and each
    leaf counts its own warm-up. With `ratio=1.05, decay=0.98` it is the paper's first version.
    """
    _validate.number("ratio", ratio, above=True)
    policy = thresholds.exponential_mean(ratio, decay=decay, warmup=warmup)
    if restart is not None:
        _validate.number("restart", restart, low=1)
        policy = thresholds.restarted(policy, restart, ratio=4.0)
    _validate.number("max_norm", max_norm)
    policy = _together(policy, max_norm, warmup, 2.0 if ord is None else ord)
    measure = measures.per_leaf(norm_of(ord), stacked=stacked, axis_name=axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def _together(policy: ThresholdPolicy, max_norm, warmup, ord: float) -> ThresholdPolicy:
    """Before its own warm-up is over, clips a group by the norm of all groups together."""

    def update_fn(norm, state, **extra_args):
        finite = jnp.isfinite(norm)
        own = (jnp.where(finite, norm, 0),)
        (total,) = group_norms(measures.lp(ord), of_whole_arrays(own, (0,), (None,), ((),)), own)
        share = norm * rules.rescale(total, jnp.asarray(max_norm, norm.dtype))
        tracked = state.policy if isinstance(state, thresholds.RestartedState) else state
        starting = tracked.seen < warmup
        threshold, state = policy.update(jnp.where(starting, share, norm), state, **extra_args)
        alone = jnp.where(finite, share, max_norm)
        return jnp.where(starting, alone, threshold).astype(norm.dtype), state

    return ThresholdPolicy(policy.init, update_fn)


def olmo(
    ratio: float | Array = 2.0,
    *,
    decay: float | Array = 0.99,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip each leaf by a multiple of a moving average of its clipped norms.

    `tau_i = ratio * m_i`, `g_i <- min(1, tau_i / n_i) g_i` and then
    `m_i <- decay m_i + (1 - decay) min(n_i, tau_i)`; m starts as the first norm.

    Parts: per_leaf(l2) -> exponential_mean -> rescale. State: 2 numbers a leaf.

    Args:
        ratio: a number > 0. At 1 or below the threshold can only fall; above 1 it follows a rise by
            the factor `1 + (1 - decay) (ratio - 1)` a step.
        decay: a number in [0, 1).
        measure: what is measured; by default `measures.per_leaf()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `measure`, `ord` and `axis_name`
        are `static_args`. A zero norm, and one that is not finite, enters nothing.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipper = clipax.olmo()
        >>> state = clipper.init([jnp.zeros(1)])
        >>> for norm in (1.0, 60.0):
        ...     clipped, state = clipper.update([jnp.array([norm])], state)
        >>> clipped
        [Array([2.], dtype=float32)]

    References:
        OLMo, `max_grad_norm_ratio` of its optimizers.

    Deviations: the defaults are this project's; there `ratio` has none, and `decay` is the larger
    of Adam's two. There m starts with the second norm. Its warm-up of the threshold is
    `thresholds.warmup`.
    """
    _validate.number("ratio", ratio, above=True)
    policy = thresholds.exponential_mean(ratio, decay=decay)
    measure = measure_of(measure, ord, axis_name, measures.per_leaf)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def quantile(
    target: float | Array = 0.5,
    *,
    rate: float | Array = 0.2,
    initial: float | Array | None = None,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip by a quantile of the norms that is tracked without a history.

    `g <- min(1, tau / n) g` and then `tau <- tau exp(-rate (b - target))`, b being 1 if `n <= tau`
    and else 0: in the long run the share `target` of the norms is not clipped.

    Parts: per_tree(l2) -> tracked_quantile -> rescale. State: 3 numbers.

    Args:
        target: the quantile, in (0, 1).
        rate: the step, > 0. The threshold follows a rise by a factor s in `ln(s) / (rate target)`
            steps and strays by 12 to 26 % at rate 0.2, by 4 to 8 % at rate 0.02.
        initial: the first threshold, > 0 and finite; `None` for the first norm.
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `measure`, `ord` and `axis_name`
        are `static_args`, and `initial` if it is `None`. A zero norm, and one that is not finite,
        enters nothing.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipper = clipax.quantile(initial=1.0)
        >>> state = clipper.init([jnp.zeros(1)])
        >>> for norm in (60.0, 60.0):
        ...     clipped, state = clipper.update([jnp.array([norm])], state)
        >>> clipped[0].round(3)
        Array([1.105], dtype=float32)

    References:
        Andrew, Thakkar, McMahan, Ramaswamy, *Differentially private learning with adaptive
        clipping*, 2021, https://arxiv.org/abs/1905.03871

    Deviations: there b is the noisy share of the clients of a round whose norm is at most tau; here
    there is one norm a step. There `initial` is 0.1 in the experiments, here the first norm.
    """
    policy = thresholds.tracked_quantile(target, rate=rate, initial=initial)
    return clip_by(measure_of(measure, ord, axis_name), policy, nonfinite=nonfinite, name=name)
