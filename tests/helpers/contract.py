"""The public names and their signatures: the contract, written down once more."""

import inspect
from typing import Any

import pytest

import clipax
from clipax import measures, rules, thresholds

NORM = "ord=None, axis_name=None"
STACKS = "ord=None, stacked=None, axis_name=None"
BOTH = "nonfinite='propagate', name=None"
MEASURED = f"measure=None, {NORM}, {BOTH}"
CLIPPERS = {
    "global_norm": f"(max_norm, *, {NORM}, {BOTH})",
    "per_layer": f"(max_norm, *, {STACKS}, {BOTH})",
    "per_leaf": f"(max_norm, *, {STACKS}, {BOTH})",
    "per_group": f"(max_norm, labels, *, {NORM}, {BOTH})",
    "value": f"(limit, *, {BOTH})",
    "spectral": f"(max_singular_value, *, method='auto', rule='hard', stacked=None, {BOTH})",
    "adaptive": "(percentile=95.0, *, multiplier=2.0, window=1000, warmup=100, initial=10.0, "
    f"{MEASURED})",
    "decaying": "(initial, decay=0.999, *, every=1, floor=0.0, clip_rate=None, window=100, "
    f"{NORM}, {BOTH})",
    "moving_average": f"(multiplier=2.0, *, window=100, warmup=10, initial=10.0, {MEASURED})",
    "autoclip": f"(percentile=10.0, *, window=None, include_current=True, {MEASURED})",
    "median": f"(multiplier=2.0, *, window=100, {MEASURED})",
    "history_sigma": f"(sigmas=3.0, *, window=128, warmup=64, {MEASURED})",
    "zclip": "(z=2.5, *, decay=0.97, max_norm=1.0, warmup=25, eps=1e-06, mode='adaptive', "
    f"clip_factor=1.0, skip_update_on_spike=False, restart=25, {MEASURED})",
    "adagc": "(ratio=1.04, *, decay=0.99, warmup=100, max_norm=1.0, restart=100, "
    f"{STACKS}, {BOTH})",
    "olmo": f"(ratio=2.0, *, decay=0.99, {MEASURED})",
    "quantile": f"(target=0.5, *, rate=0.2, initial=None, {MEASURED})",
    "agc": f"(clipping=0.01, *, eps=0.001, axis=None, exclude=None, {STACKS}, {BOTH})",
    "clippy": f"(relative=0.1, *, absolute=1e-07, stacked=None, axis_name=None, {BOTH})",
    "block_rms": f"(threshold=1.0, *, stacked=None, axis_name=None, {BOTH})",
    "normalize": f"(max_norm=1.0, *, {MEASURED})",
    "smooth": f"(max_norm=1.0, *, {MEASURED})",
    "delta_clip": f"(max_norm=0.1, *, delta=0.001, {MEASURED})",
    "auto_s": f"(max_norm=1.0, *, stability=0.01, {MEASURED})",
    "spam": f"(ratio=5000.0, *, decay=0.999, every=500, warmup=20, {BOTH})",
    "stable_spam": "(*, decay=0.999, decays=(0.7, 0.9), eps=1e-08, stacked=None, axis_name=None, "
    f"{BOTH})",
}
NEED_AN_ARGUMENT = (
    "global_norm",
    "per_layer",
    "per_leaf",
    "per_group",
    "value",
    "spectral",
    "decaying",
)
WRAPPERS = {
    "clip_cotangent": "(x, clipper)",
    "per_example": "(loss_fn, clipper, *, microbatch=None)",
    "error_feedback": "(clipper, *, decay=1.0)",
    "monitor": "(*, measure=None, ord=None, axis_name=None, name='monitor')",
    "momentum_reset": "(inner, every=500, *, warmup=150)",
    "skip_spikes": "(inner, *, sigma=6.0, window=128, warmup=64, watch='norm', "
    "max_consecutive=200, max_norm=None, axis_name=None, name='skip_spikes')",
}
CORE = {
    "clip_by": f"(measure, threshold, rule=rescale, *, {BOTH})",
    "clip": "(updates, clipper, params=None)",
    "metrics": "(opt_state)",
    "suggest_threshold": "(norms)",
}
OF_NORM = f"norm={measures.l2!r}"
ON_DEVICES = "axis_name=None, replicated=None"
MEASURES = {
    "lp": "(p)",
    "per_tree": f"({OF_NORM}, *, {ON_DEVICES})",
    "per_layer": f"({OF_NORM}, *, stacked=None, {ON_DEVICES})",
    "per_leaf": f"({OF_NORM}, *, stacked=None, {ON_DEVICES})",
    "per_group": f"(labels, {OF_NORM}, *, names=None, {ON_DEVICES})",
    "per_unit": f"({OF_NORM}, *, axis=None, stacked=None, {ON_DEVICES})",
    "per_element": f"({OF_NORM}, *, {ON_DEVICES})",
}
POLICIES = {
    "constant": "(threshold)",
    "scheduled": "(schedule)",
    "by_group": "(thresholds)",
    "relative": "(ratio=0.01, *, eps=0.001)",
    "window_percentile": "(percentile=95.0, *, multiplier=1.0, window=1000, warmup=1, initial=inf, "
    "include_current=True)",
    "window_deviation": "(sigmas=3.0, *, window=128, warmup=64, min_sigma=1e-06)",
    "periodic_median": "(multiplier=2.0, *, window=100, early=(10, 20, 40))",
    "history_percentile": "(percentile=10.0)",
    "exponential_mean": "(multiplier, *, decay=0.99, warmup=1)",
    "second_moment": "(ratio=5000.0, *, decay=0.999, every=500, warmup=20)",
    "tracked_quantile": "(target=0.5, *, rate=0.2, initial=None)",
    "z_score": "(z=2.5, *, decay=0.97, warmup=25, eps=1e-06, mode='adaptive', clip_factor=1.0, "
    "skip_update_on_spike=False, outlier=10.0, spread=0.01)",
    "scaled": "(threshold, schedule)",
    "warmup": "(threshold, factor=10.0, steps=1000)",
    "capped": "(threshold, maximum)",
    "restarted": "(policy, patience=25, *, ratio=1.0)",
    "moving_mean": "(multiplier=1.0, *, window=100, warmup=1, initial=inf)",
    "decayed": "(initial, decay=0.999, *, every=1, floor=0.0, clip_rate=None, window=100)",
}
THRESHOLDS = {"as_policy": "(name, threshold)", **POLICIES}
RULES = dict.fromkeys(
    ("rescale", "normalize", "smooth", "smooth_root", "trust_region", "skip"), "(norm, threshold)"
) | {"stabilized": "(gamma)", "per_sample": "(r=0.1)", "at_least": "(floor)"}

MODULES = {
    clipax: CLIPPERS | WRAPPERS | CORE,
    measures: MEASURES,
    thresholds: THRESHOLDS,
    rules: RULES,
}
SIGNATURES = [
    pytest.param(getattr(module, name), text, id=f"{module.__name__}.{name}")
    for module, table in MODULES.items()
    for name, text in table.items()
]


def defined_in(module) -> dict[str, Any]:
    """The public functions and classes that a module of parts defines."""
    return {
        name: item
        for name, item in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(item) or inspect.isclass(item))
        and f"{item.__module__}.".startswith(f"{module.__name__}.")
    }


def public() -> dict[str, Any]:
    names = {f"clipax.{name}": getattr(clipax, name) for name in clipax.__all__}
    for module in (measures, rules, thresholds):
        names |= {f"{module.__name__}.{k}": v for k, v in defined_in(module).items()}
    return names


PUBLIC = public()
FUNCTIONS = [pytest.param(v, id=k) for k, v in PUBLIC.items() if inspect.isfunction(v)]
CLASSES = [pytest.param(v, id=k) for k, v in PUBLIC.items() if inspect.isclass(v)]
each_function = pytest.mark.parametrize("function", FUNCTIONS)
