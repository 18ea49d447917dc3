"""Clippers with a threshold that is given and not learned."""

from collections.abc import Hashable, Mapping
from typing import Any

import optax

from clipax import measures, thresholds
from clipax._clippers.parts import norm_of
from clipax._core import clip_by
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
        A gradient transformation. With `optax.inject_hyperparams`, `ord` and `axis_name` are
        `static_args`.

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
    measure = measures.per_tree(norm_of(ord), axis_name=axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def per_layer(
    max_norm: Threshold,
    *,
    ord: float | None = None,
    stacked: Any = None,
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
        stacked: which leaves are stacks of layers, see `clipax.measures.per_layer`. The axis of the
            layers may not be spread over `axis_name`.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. What a layer is: see `clipax.measures.per_layer`. With
        `optax.inject_hyperparams`, `ord`, `stacked` and `axis_name` are `static_args`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> gradient = {"cell": {"h": jnp.array([3.0]), "x": jnp.array([4.0])}, "out": {"b": 0.5}}
        >>> clipax.clip(gradient, clipax.per_layer(1.0))[0]["cell"]
        {'h': Array([0.6], dtype=float32), 'x': Array([0.8], dtype=float32)}
    """
    policy = as_policy("max_norm", max_norm)
    measure = measures.per_layer(norm_of(ord), stacked=stacked, axis_name=axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)


def per_leaf(
    max_norm: Threshold,
    *,
    ord: float | None = None,
    stacked: Any = None,
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
        stacked: which leaves are stacks of layers, see `clipax.measures.per_leaf`. The axis of the
            layers may not be spread over `axis_name`.
        axis_name: mapped axes over which the gradient is spread.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. With `optax.inject_hyperparams`, `ord`, `stacked` and
        `axis_name` are `static_args`.

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
    measure = measures.per_leaf(norm_of(ord), stacked=stacked, axis_name=axis_name)
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
    measure = measures.per_group(labels, norm_of(ord), names=names, axis_name=axis_name)
    return clip_by(measure, policy, nonfinite=nonfinite, name=name)
