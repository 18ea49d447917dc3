"""Clippers with a threshold that is a rule of thumb, or relative to the parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax import Array

from clipax import _validate, measures, rules, thresholds
from clipax._clippers.parts import measure_of, norm_of
from clipax._core import clip_by
from clipax._trees import flag_of_each_leaf
from clipax.measures import Measure
from clipax.thresholds import Threshold, as_policy


def agc(
    clipping: float | Array = 0.01,
    *,
    eps: float | Array = 1e-3,
    axis: int | Sequence[int] | None = None,
    exclude: Any = None,
    ord: float | None = None,
    stacked: Any = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip each unit relative to its parameters.

    `tau_i = clipping * max(||w_i||, eps)`, `g_i <- min(1, tau_i / n_i) g_i` for every unit i: the
    weights that lead into one output.

    Parts: per_unit(l2) -> relative -> rescale. State: none; `update` needs `params`.

    Args:
        clipping: a number >= 0.
        eps: the least norm that parameters are taken to have, >= 0, so that those at zero can move.
        axis: the axes of a leaf that one unit spans, see `measures.per_unit`. By default axis 0 of
            leaves with two or three axes and all but the last of leaves with more; a leaf with
            fewer than two is one unit.
        exclude: leaves that pass as they are, NaN and all: a prefix tree of booleans, or a function
            that takes the path of a leaf, such as `"head/kernel"`, and returns one.
        ord: the order of the norm, p > 0; `None` is 2.
        stacked: which leaves are stacks of layers, see `clipax.measures.per_unit`. The axis of the
            layers may not be spread over `axis_name`.
        axis_name: mapped axes over which the single units are spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `axis`, `exclude`, `ord`,
        `stacked` and `axis_name` are `static_args`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range; when it is used, if a leaf does not have
            `axis`, or `params` is not given.

    Example:
        >>> params = {"body": jnp.array([[30.0], [40.0]]), "head": jnp.array([1.0])}
        >>> gradient = {"body": jnp.array([[6.0], [8.0]]), "head": jnp.array([5.0])}
        >>> clipper = clipax.agc(0.1, exclude=lambda path: path == "head")
        >>> float(jnp.linalg.norm(clipax.clip(gradient, clipper, params)[0]["body"]))
        5.0

    References:
        Brock, De, Smith, Simonyan, *High-performance large-scale image recognition without
        normalization*, 2021, https://arxiv.org/abs/2102.06171

    Deviations: `optax.adaptive_grad_clip` clips too much at `clipping` below 1e-3, since it takes a
    gradient to have a norm of at least 1e-6, refuses more than four or five axes, by its version,
    and takes a leaf of which only one axis is longer than 1 as one unit. The paper does not
    clip the last linear layer: give its path to `exclude`.
    """
    _validate.number("clipping", clipping)
    measure = measures.per_unit(norm_of(ord), axis=axis, stacked=stacked, axis_name=axis_name)
    policy = thresholds.relative(clipping, eps=eps)
    clipper = clip_by(measure, policy, nonfinite=nonfinite, name=name)
    return clipper if exclude is None else _excluding(clipper, exclude, name)


def _excluding(clipper, exclude: Any, name: str | None) -> optax.GradientTransformationExtraArgs:
    @_validate.naming(name)
    def kept(tree: Any) -> Any:
        out = flag_of_each_leaf("exclude", exclude, tree)
        return jax.tree.unflatten(jax.tree.structure(tree), [not leaf for leaf in out])

    return optax.masked(clipper, kept)


def block_rms(
    threshold: Threshold = 1.0,
    *,
    stacked: Any = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip each leaf by its root mean square.

    `n_i = sqrt(mean(g_i^2))`, `tau = threshold`, `g_i <- min(1, tau / n_i) g_i` for every leaf i

    Behind the scaling by second moments and in front of the learning rate, as in
    `chain(scale_by_adam(), block_rms(), scale_by_learning_rate(1e-3))`, it is the update clipping
    of Adafactor. Behind the learning rate a threshold of 1 clips nothing.

    Parts: per_leaf(rms) -> number -> rescale. State: none.

    Args:
        threshold: a number >= 0, a schedule or a policy.
        stacked: which leaves are stacks of layers, see `clipax.measures.per_leaf`; each slice then
            counts for a leaf. The axis of the layers may not be spread over `axis_name`.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `stacked` and `axis_name` are
        `static_args`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> clipax.clip([jnp.array([3.0, 4.0, 0.0, 0.0])], clipax.block_rms())[0][0].round(3)
        Array([1.2, 1.6, 0. , 0. ], dtype=float32)

    References:
        Shazeer, Stern, *Adafactor: adaptive learning rates with sublinear memory cost*, 2018,
        https://arxiv.org/abs/1804.04235
    """
    policy = as_policy("threshold", threshold)
    measure = measures.per_leaf(measures.rms, stacked=stacked, axis_name=axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def normalize(
    max_norm: Threshold = 1.0,
    *,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Bring every gradient to one norm, small ones too.

    `tau = max_norm`, `g <- (tau / n) g`

    Parts: per_tree(l2) -> number -> normalize. State: none.

    Args:
        max_norm: the norm of every result: a number >= 0, a schedule or a policy.
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `measure`, `ord` and `axis_name`
        are `static_args`. A zero gradient stays zero.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipax.clip([jnp.array([0.3, 0.4])], clipax.normalize())[0]
        [Array([0.6, 0.8], dtype=float32)]

    References:
        Bu, Wang, Zha, Karypis, *Automatic clipping: differentially private deep learning made
        easier and stronger*, 2023, https://arxiv.org/abs/2206.07136, where it is AUTO-V.
    """
    policy = as_policy("max_norm", max_norm)
    measure = measure_of(measure, ord, axis_name)
    return clip_by(measure, policy, rules.normalize, nonfinite=nonfinite, name=name)


def smooth(
    max_norm: Threshold = 1.0,
    *,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Shrink every gradient a little and large ones to almost the threshold.

    `tau = max_norm`, `g <- tau / (tau + n) g`

    Parts: per_tree(l2) -> number -> smooth. State: none.

    Args:
        max_norm: a number >= 0, a schedule or a policy.
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `measure`, `ord` and `axis_name`
        are `static_args`. A zero gradient stays zero.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipax.clip([jnp.array([3.0, 4.0])], clipax.smooth(5.0))[0]
        [Array([1.5, 2. ], dtype=float32)]

    References:
        Zhang, He, Sra, Jadbabaie, *Why gradient clipping accelerates training: a theoretical
        justification for adaptivity*, 2020, https://arxiv.org/abs/1905.11881, for its relation to
        `rules.rescale`: the two differ by a factor of at most 2. Other smooth rules:
        `rules.smooth_root` and `rules.trust_region`.
    """
    policy = as_policy("max_norm", max_norm)
    measure = measure_of(measure, ord, axis_name)
    return clip_by(measure, policy, rules.smooth, nonfinite=nonfinite, name=name)


def delta_clip(
    max_norm: Threshold = 0.1,
    *,
    delta: float | Array = 1e-3,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip by a norm, but never shrink below a given factor: huge gradients still move more.

    `tau = max_norm`, `g <- min(1, max(delta, tau / n)) g`

    Parts: per_tree(l2) -> number -> at_least(delta). State: none.

    Args:
        max_norm: a number >= 0, a schedule or a policy.
        delta: the smallest factor, in [0, 1].
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `measure`, `ord` and `axis_name`
        are `static_args`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipped, metrics = clipax.clip([jnp.array([3000.0, 4000.0])], clipax.delta_clip())
        >>> float(metrics["factor"])
        0.001

    References:
        Tucat, Mukherjee, Sen, Sun, Rivasplata, *Regularized gradient clipping provably trains wide
        and deep neural networks*, 2025, https://arxiv.org/abs/2404.08624
    """
    _validate.number("delta", delta, high=1)
    policy = as_policy("max_norm", max_norm)
    measure = measure_of(measure, ord, axis_name)
    return clip_by(measure, policy, rules.at_least(delta), nonfinite=nonfinite, name=name)


def auto_s(
    max_norm: Threshold = 1.0,
    *,
    stability: float | Array = 0.01,
    measure: Measure | None = None,
    ord: float | None = None,
    axis_name: Any = None,
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Normalise every gradient, the less the smaller it is.

    `tau = max_norm`, `g <- tau / (n + stability) g`

    Parts: per_tree(l2) -> number -> stabilized(stability). State: none.

    Args:
        max_norm: a number >= 0, a schedule or a policy.
        stability: a number >= 0; at 0 it is AUTO-V, `clipax.normalize`.
        measure: what is measured; by default `measures.per_tree()`.
        ord: the order of the norm, p > 0; `None` is 2.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `measure`, `ord` and `axis_name`
        are `static_args`. A zero gradient stays zero.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, or both `measure` and `ord` or `axis_name`
            are given, which belong to the measure.

    Example:
        >>> clipax.clip([jnp.array([3.0, 4.0])], clipax.auto_s(stability=5.0))[0]
        [Array([0.3, 0.4], dtype=float32)]

    References:
        Bu, Wang, Zha, Karypis, *Automatic clipping: differentially private deep learning made
        easier and stronger*, 2023, https://arxiv.org/abs/2206.07136

    Deviations: there it is applied to the gradient of each example.
    """
    _validate.number("stability", stability)
    policy = as_policy("max_norm", max_norm)
    measure = measure_of(measure, ord, axis_name)
    return clip_by(measure, policy, rules.stabilized(stability), nonfinite=nonfinite, name=name)
