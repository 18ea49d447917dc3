"""The catalogue: every clipper with the facts that the laws need.

A new clipper is one row here and gets every law.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy_groups import group_arrays, label_of, norm_of

import clipax
from clipax import measures, rules, thresholds


class Row(NamedTuple):
    """One clipper.

    Attributes:
        name: for test ids.
        make: builds it, once for the same `nonfinite` and `name`, so that tests share what was
            compiled.
        groups: "tree", "layer", "leaf", "label", "unit", "matrix" or "element".
        ord: of the norm; "rms" for the root of the mean square, "spectral" for the largest singular
            value.
        rule: the name of its rule.
        fixed: its threshold where that is one number for all groups and steps.
        reset: how many calm steps bring a threshold back after the worst history.
        by_step: whether its threshold depends on the number of the step, so that a step that is not
            finite, which counts as one, moves later thresholds.
        all_reduces: how many it is compiled to, where that does not follow from its norm.
        error: by how much of the threshold a float32 result is rounded.
        mixes: whether it mixes the entries of a group instead of multiplying them by a factor; it
            then gathers leaves that are spread over devices.
    """

    name: str
    make: Callable[..., optax.GradientTransformationExtraArgs]
    groups: str = "tree"
    ord: Any = 2
    rule: str = "rescale"
    fixed: float | None = None
    reset: int = 30
    by_step: bool = False
    all_reduces: int | None = None
    error: float = 0.0
    mixes: bool = False


def _with(clipper, *args, **kwargs):
    return _once(functools.partial(clipper, *args, **kwargs))


def _once(make):
    """`make`, called once for the same options."""
    kept = functools.cache(make)
    return lambda nonfinite="propagate", name=None: kept(nonfinite=nonfinite, name=name)


def _by(measure, threshold, rule=rules.rescale):
    return _with(clipax.clip_by, measure, threshold, rule)


def _beside(clipper, *args, **kwargs):
    """A clipper relative to parameters, which are all 0.25."""

    def make(**options):
        inner = clipper(*args, **kwargs, **options)

        def update(updates, state, params=None, **extra_args):
            params = jax.tree.map(_quarter, updates)
            return inner.update(updates, state, params, **extra_args)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    return _once(make)


def _quarter(leaf: Any) -> Any:
    dtype = getattr(leaf, "dtype", np.float32)
    return jnp.full_like(leaf, 0.25) if jnp.issubdtype(dtype, jnp.inexact) else leaf


def _spectral(name, threshold=0.5, **options):
    rule = "soft_spectral" if options.get("rule") == "soft" else "spectral"
    fixed = threshold if isinstance(threshold, float) else None
    make = _with(clipax.spectral, threshold, **options)
    return Row(name, make, "matrix", "spectral", rule, fixed, error=8e-6, mixes=True)


DIFFERENT = {"a": 0.5, "b": thresholds.moving_mean(2.0, window=5, initial=1.0)}

CATALOGUE = [
    Row("global_norm", _with(clipax.global_norm, 0.5), fixed=0.5),
    Row("global_norm_l1", _with(clipax.global_norm, 0.5, ord=1), ord=1, fixed=0.5),
    Row("global_norm_l3", _with(clipax.global_norm, 0.5, ord=3), ord=3, fixed=0.5),
    Row("global_norm_max", _with(clipax.global_norm, 0.5, ord=math.inf), ord=math.inf, fixed=0.5),
    Row("global_norm_schedule", _with(clipax.global_norm, optax.linear_schedule(0.9, 0.1, 8))),
    Row("per_layer", _with(clipax.per_layer, 0.5), "layer", fixed=0.5),
    Row("per_leaf", _with(clipax.per_leaf, 0.5), "leaf", fixed=0.5),
    Row("per_group", _with(clipax.per_group, 0.5, label_of), "label", fixed=0.5),
    Row("per_group_dict", _with(clipax.per_group, DIFFERENT, label_of), "label"),
    Row("value", _with(clipax.value, 0.5), "element", rule="value", fixed=0.5),
    Row(
        "value_policy",
        _with(clipax.value, thresholds.moving_mean(2.0, window=3, initial=0.5)),
        "element",
        rule="value",
    ),
    Row("adaptive", _with(clipax.adaptive, 50.0, multiplier=1.0, window=9, warmup=3, initial=0.5)),
    Row(
        "adaptive_per_layer",
        _with(clipax.adaptive, 90.0, window=9, warmup=3, measure=measures.per_layer()),
        "layer",
    ),
    Row("decaying", _with(clipax.decaying, 0.5, 0.9, every=2, floor=0.1)),
    Row("decaying_clip_rate", _with(clipax.decaying, 0.5, 0.9, clip_rate=0.3, window=7, floor=0.1)),
    Row("moving_average", _with(clipax.moving_average, window=9, warmup=3, initial=0.5)),
    Row(
        "moving_average_per_leaf",
        _with(clipax.moving_average, window=9, warmup=0, measure=measures.per_leaf()),
        "leaf",
    ),
    Row("unit", _by(measures.per_unit(), 0.5), "unit", fixed=0.5),
    Row("unit_mean", _by(measures.per_unit(), thresholds.moving_mean(2.0, window=5)), "unit"),
    Row("element", _by(measures.per_element(), 0.5), "element", fixed=0.5),
    Row(
        "element_mean",
        _by(measures.per_element(), thresholds.moving_mean(2.0, window=3)),
        "element",
    ),
    Row("block_rms", _with(clipax.block_rms, 0.5), "leaf", ord="rms", fixed=0.5),
    Row("normalize", _with(clipax.normalize, 0.5), rule="normalize", fixed=0.5),
    Row("smooth", _with(clipax.smooth, 0.5), rule="smooth", fixed=0.5),
    Row("autoclip", _with(clipax.autoclip)),
    Row("autoclip_window", _with(clipax.autoclip, 90.0, window=5, include_current=False)),
    Row("autoclip_per_unit", _with(clipax.autoclip, 50.0, measure=measures.per_unit()), "unit"),
    Row("median", _with(clipax.median, window=4)),
    Row("history_sigma", _with(clipax.history_sigma, window=6, warmup=3)),
    Row("zclip", _with(clipax.zclip, warmup=3)),
    Row("zclip_published", _with(clipax.zclip, warmup=3, max_norm=None, restart=None)),
    Row("zclip_mean", _with(clipax.zclip, warmup=3, mode="mean", skip_update_on_spike=True)),
    Row(
        "zclip_percentile_per_layer",
        _with(clipax.zclip, warmup=3, mode="percentile", measure=measures.per_layer()),
        "layer",
    ),
    Row("adagc", _with(clipax.adagc, warmup=3, restart=5), "leaf"),
    Row("adagc_published", _with(clipax.adagc, warmup=3, restart=None), "leaf"),
    Row("olmo", _with(clipax.olmo), "leaf"),
    Row("quantile", _with(clipax.quantile)),
    Row(
        "quantile_initial", _with(clipax.quantile, initial=0.5, measure=measures.per_leaf()), "leaf"
    ),
    Row("agc", _beside(clipax.agc), "unit"),
    Row("clippy", _beside(clipax.clippy), "leaf", ord=math.inf, rule="clippy"),
    Row("spam", _with(clipax.spam, 4.0, warmup=2), "element", by_step=True),
    Row("stable_spam", _with(clipax.stable_spam), "leaf", rule="stable_spam", all_reduces=3),
    Row("delta_clip", _with(clipax.delta_clip, 0.5, delta=0.1), rule="at_least"),
    Row("auto_s", _with(clipax.auto_s, 0.5), rule="stabilized"),
    Row("per_sample", _by(measures.per_tree(), 0.5, rules.per_sample()), rule="stabilized"),
    Row("smooth_root", _by(measures.per_tree(), 0.5, rules.smooth_root), rule="smooth", fixed=0.5),
    Row(
        "trust_region", _by(measures.per_element(), 2.0, rules.trust_region), "element", rule="bent"
    ),
    Row("warmed_up", _with(clipax.global_norm, thresholds.warmup(0.5, 2.0, 3)), by_step=True),
    Row("skip", _by(measures.per_layer(), 0.5, rules.skip), "layer", rule="skip", fixed=0.5),
    _spectral("spectral"),
    _spectral("spectral_newton_schulz", method="newton_schulz"),
    _spectral("spectral_soft", rule="soft"),
    _spectral("spectral_svd", thresholds.window_percentile(50.0, window=9), method="svd"),
]

INSIDE_LEAVES = ("unit", "matrix", "element")

BY_NAME = {row.name: row for row in CATALOGUE}


def group_norms(row: Row, tree: Any) -> np.ndarray:
    """The norms of all groups of a row's clipper in float64."""
    return np.array([norm_of(arrays, row.ord) for arrays in group_arrays(row.groups, tree)])
