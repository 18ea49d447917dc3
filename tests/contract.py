"""The public names and their signatures: the contract, written down once more."""

import inspect
from typing import Any

import pytest

import clipax
from clipax import measures, rules, thresholds

NORM = "ord=None, axis_name=None"
BOTH = "nonfinite='propagate', name=None"
CLIPPERS = {
    "global_norm": f"(max_norm, *, {NORM}, {BOTH})",
    "per_layer": f"(max_norm, *, {NORM}, {BOTH})",
    "per_leaf": f"(max_norm, *, {NORM}, {BOTH})",
    "per_group": f"(max_norm, labels, *, {NORM}, {BOTH})",
    "value": f"(limit, *, {BOTH})",
    "adaptive": "(percentile=95.0, *, multiplier=2.0, window=1000, warmup=100, initial=10.0, "
    f"measure=None, {NORM}, {BOTH})",
    "decaying": "(initial, decay=0.999, *, every=1, floor=0.0, clip_rate=None, window=100, "
    f"{NORM}, {BOTH})",
    "moving_average": "(multiplier=2.0, *, window=100, warmup=10, initial=10.0, "
    f"measure=None, {NORM}, {BOTH})",
}
CORE = {
    "clip_by": f"(measure, threshold, rule=rescale, *, {BOTH})",
    "clip": "(updates, clipper, params=None)",
    "metrics": "(opt_state)",
}
OF_NORM = f"norm={measures.l2!r}"
ON_DEVICES = "axis_name=None, replicated=None"
MEASURES = {
    "lp": "(p)",
    "per_tree": f"({OF_NORM}, *, {ON_DEVICES})",
    "per_layer": f"({OF_NORM}, *, {ON_DEVICES})",
    "per_leaf": f"({OF_NORM}, *, {ON_DEVICES})",
    "per_group": f"(labels, {OF_NORM}, *, names=None, {ON_DEVICES})",
    "per_unit": f"({OF_NORM}, *, axis=None, {ON_DEVICES})",
    "per_element": f"({OF_NORM}, *, {ON_DEVICES})",
}
POLICIES = {
    "constant": "(threshold)",
    "scheduled": "(schedule)",
    "by_group": "(thresholds)",
    "window_percentile": "(percentile=95.0, *, multiplier=1.0, window=1000, warmup=1, initial=inf)",
    "moving_mean": "(multiplier=1.0, *, window=100, warmup=1, initial=inf)",
    "decayed": "(initial, decay=0.999, *, every=1, floor=0.0, clip_rate=None, window=100)",
}
THRESHOLDS = {"as_policy": "(name, threshold)", **POLICIES}
RULES = dict.fromkeys(("rescale", "normalize", "smooth", "skip"), "(norm, threshold)")

MODULES = {clipax: CLIPPERS | CORE, measures: MEASURES, thresholds: THRESHOLDS, rules: RULES}
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
        and item.__module__ == module.__name__
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
