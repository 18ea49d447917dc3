"""Wrong arguments: a message names the argument, what is accepted, and what was received."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import clipax
from clipax import measures, thresholds

GRADIENT: dict[str, Any] = {"a": jnp.ones(2), "b": jnp.full(3, 2.0)}
KINDS = "must be a number, a schedule .a function of the step. or a clipax.ThresholdPolicy, got "
PYTHON = r"must be a Python number \(see `static_args` of optax.inject_hyperparams\), got "


def bad(function: Callable[..., Any], error: type[Exception], message: str, *args, **kwargs):
    given = [*map(_short, args), *(f"{k}={_short(v)}" for k, v in kwargs.items())]
    name = f"{function.__name__}({', '.join(given)})"
    return pytest.param(function, args, kwargs, error, message, id=name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 20 else type(value).__name__


def no_threshold(function: Callable[..., Any], argument: str, *before: Any, after: Any = ()):
    """What no clipper takes for a threshold."""
    optimizer = optax.adam(1e-3)
    cases = [
        (ValueError, r"must be in \[0, inf\], got -1.0", -1.0),
        (ValueError, r"must be in \[0, inf\], got -2", -2),
        (ValueError, r"must be in \[0, inf\], got nan", math.nan),
        (ValueError, r"must be in \[0, inf\], got .*-1.0", np.float32(-1.0)),
        (TypeError, f"{KINDS}'1.0'", "1.0"),
        (TypeError, f"{KINDS}True", True),
        (TypeError, f"{KINDS}None", None),
        (TypeError, KINDS + r"Array\(\[1., 1.\]", jnp.ones(2)),
        (TypeError, KINDS + r"Array\(True", jnp.array(True)),
        (TypeError, KINDS + r"Array\(0.\+1.j", jnp.array(1j)),
        (TypeError, f"{KINDS}an object of type GradientTransformation", optimizer),
    ]
    if function is not clipax.value:  # there a list is a pair
        cases.append((TypeError, KINDS + r"\[1.0, 2.0\]", [1.0, 2.0]))
    if function is not clipax.per_group:  # there a dict is one threshold a label
        cases.append((TypeError, f"{KINDS}an object of type dict", GRADIENT))
    return [
        bad(function, error, f"`{argument}` {message}", *before, value, *after)
        for error, message, value in cases
    ]


def no_number(function: Callable[..., Any], argument: str, accepted: str, *values, before=()):
    """Python numbers out of range, and what is no number at all."""
    out_of_range = [
        (ValueError, f"must be in {re.escape(accepted)}, got {re.escape(repr(v))}", v)
        for v in (*values, math.nan)
    ]
    no_number_at_all = [
        (TypeError, "must be a .*number.*, got '1'", "1"),
        (TypeError, "must be a .*number.*, got True", True),
        (TypeError, "must be a .*number.*, got an object of type dict", GRADIENT),
    ]
    return [
        bad(function, error, f"`{argument}` {message}", *before, **{argument: value})
        for error, message, value in out_of_range + no_number_at_all
    ]


def no_count(function: Callable[..., Any], argument: str, before=()):
    cases = [
        (ValueError, "at least 1, got 0", 0),
        (ValueError, "at least 1, got -3", -3),
        (TypeError, "a Python integer, got 2.5", 2.5),
        (TypeError, "a Python integer, got '10'", "10"),
        (TypeError, "a Python integer, got True", True),
        (TypeError, "a Python integer, got Array", jnp.array(3)),
    ]
    return [
        bad(function, error, f"`{argument}` must be {message}", *before, **{argument: value})
        for error, message, value in cases
    ]


def no_order(function: Callable[..., Any], *before):
    return [
        *no_number(function, "ord", "(0, inf]", 0, -1.0, before=before),
        bad(function, TypeError, f"`ord` {PYTHON}'2'", *before, ord="2"),
        bad(function, TypeError, f"`ord` {PYTHON}Array", *before, ord=jnp.array(2.0)),
    ]


def no_measure(function: Callable[..., Any]):
    per_leaf = measures.per_leaf()
    kind = "`measure` must be a clipax Measure.*, got "
    return [
        bad(function, TypeError, f"{kind}'tree'", measure="tree"),
        bad(function, TypeError, f"{kind}.*per_leaf", measure=measures.per_leaf),
        bad(function, TypeError, f"{kind}Norm", measure=measures.l2),
        bad(function, TypeError, kind, measure=optax.adam(1e-3)),
        bad(function, ValueError, "`ord` belongs to the measure, got 1", measure=per_leaf, ord=1),
        bad(
            function,
            ValueError,
            "`axis_name` belongs to the measure, got 'data'",
            measure=per_leaf,
            axis_name="data",
        ),
    ]


def no_option(function: Callable[..., Any], *before):
    accepted = r"`nonfinite` must be one of \('propagate', 'zero', 'sanitize'\), got "
    return [
        bad(function, ValueError, f"{accepted}'ignore'", *before, nonfinite="ignore"),
        bad(function, ValueError, f"{accepted}None", *before, nonfinite=None),
        bad(function, ValueError, "`name` must not be empty, got ''", *before, name=""),
        bad(function, TypeError, "`name` must be a string or None, got 3", *before, name=3),
    ]


def no_pair():
    value = clipax.value
    policy = thresholds.moving_mean()
    side = r"`limit\[{}\]` must be in {}, got {}"
    return [
        bad(value, ValueError, side.format(0, r"\[-inf, 0\]", "1"), (1, 2)),
        bad(value, ValueError, side.format(1, r"\[0, inf\]", "-2"), (-1, -2)),
        bad(value, ValueError, side.format(0, r"\[-inf, 0\]", "nan"), (math.nan, 1.0)),
        bad(value, ValueError, side.format(1, r"\[0, inf\]", "nan"), (-1.0, math.nan)),
        bad(value, ValueError, side.format(0, r"\[-inf, 0\]", "1.0"), [1.0, 2.0]),
        bad(value, ValueError, r"`limit` must be .* a pair.*, got \(-1, 0, 1\)", (-1, 0, 1)),
        bad(value, ValueError, r"`limit` must be .* a pair.*, got \(\)", ()),
        bad(value, TypeError, r"`limit\[0\]` must be a number.*, got 'a'", ("a", 1)),
        bad(value, TypeError, r"`limit\[1\]` must be a number, .*, got \{'a': 1\}", (-1, {"a": 1})),
        bad(value, TypeError, "`limit` .*policies.* pair.*, got ", (policy, policy)),
        bad(value, TypeError, "`limit` .*policies.* pair.*, got ", (-1.0, policy)),
        bad(value, TypeError, r"`limit\[1\]` .*, got an object", (-1.0, optax.adam(1e-3))),
    ]


def no_labels():
    per_group = clipax.per_group
    entry = r"`max_norm\['a'\]` must be "
    return [
        bad(per_group, ValueError, entry + r"in \[0, inf\], got -1", {"a": -1}, GRADIENT),
        bad(per_group, TypeError, entry + "a number, a schedule .*, got 'x'", {"a": "x"}, GRADIENT),
        bad(per_group, TypeError, entry + "a number, .*, got an obj", {"a": optax.adam(1)}, "x"),
        bad(per_group, ValueError, r"`max_norm` must .*, got \{\}", {}, "x"),
    ]


def no_average(function: Callable[..., Any], initial: str, *values: float):
    """What the policies with a window share with their clippers."""
    return [
        *no_number(function, "multiplier", "(0, inf]", 0, -1.0),
        *no_count(function, "window"),
        *no_number(function, "warmup", "[0, inf]", -1),
        *no_number(function, "initial", initial, -1.0, *values),
        bad(
            function,
            TypeError,
            "`multiplier` .* a number.*, got <func",
            multiplier=lambda step: 2.0,
        ),
    ]


def no_percentile(function: Callable[..., Any]):
    return [
        *no_number(function, "percentile", "[0, 100]", 950, -1, 100.5),
        bad(function, TypeError, f"`percentile` {PYTHON}Array", jnp.array(95.0)),
        bad(function, TypeError, f"`percentile` {PYTHON}'95'", "95"),
    ]


def no_decay(function: Callable[..., Any]):
    return [
        *no_number(function, "initial", "[0, 3.40282e+38]", -1.0, math.inf),
        bad(function, TypeError, "`initial` must be a number, got Array", jnp.ones(2)),
        *no_number(function, "decay", "(0, 1]", 0, 1.5, -0.5, before=(1.0,)),
        *no_count(function, "every", before=(1.0,)),
        *no_number(function, "floor", "[0, inf]", -1.0, before=(1.0,)),
        *no_number(function, "clip_rate", "[0, 1]", 2, -0.1, before=(1.0,)),
        *no_count(function, "window", before=(1.0,)),
    ]


def no_norm(function: Callable[..., Any], *before):
    kinds = "`norm` must be one of l1, l2, linf, rms and lp.p., got "
    return [
        bad(function, TypeError, f"{kinds}'l2'", *before, "l2"),
        bad(function, TypeError, f"{kinds}2", *before, 2),
        bad(function, TypeError, f"{kinds}.*lp", *before, measures.lp),
    ]


tree = measures.per_tree()
BAD = [
    *no_threshold(clipax.global_norm, "max_norm"),
    *no_threshold(clipax.per_layer, "max_norm"),
    *no_threshold(clipax.per_leaf, "max_norm"),
    *no_threshold(clipax.per_group, "max_norm", after=("x",)),
    *no_threshold(clipax.value, "limit"),
    *no_threshold(clipax.clip_by, "threshold", tree),
    *no_order(clipax.global_norm, 1.0),
    *no_order(clipax.per_layer, 1.0),
    *no_order(clipax.per_leaf, 1.0),
    *no_order(clipax.per_group, 1.0, "x"),
    *no_order(clipax.adaptive),
    *no_order(clipax.decaying, 1.0),
    *no_order(clipax.moving_average),
    *no_option(clipax.global_norm, 1.0),
    *no_option(clipax.per_layer, 1.0),
    *no_option(clipax.per_leaf, 1.0),
    *no_option(clipax.per_group, 1.0, "x"),
    *no_option(clipax.value, 1.0),
    *no_option(clipax.adaptive),
    *no_option(clipax.decaying, 1.0),
    *no_option(clipax.moving_average),
    *no_option(clipax.clip_by, tree, 1.0),
    *no_pair(),
    *no_labels(),
    *no_percentile(clipax.adaptive),
    *no_percentile(thresholds.window_percentile),
    *no_average(clipax.adaptive, "[0, inf]"),
    *no_average(thresholds.window_percentile, "[0, inf]"),
    *no_average(clipax.moving_average, "(0, inf]", 0),  # at 0 it would stay there
    *no_average(thresholds.moving_mean, "(0, inf]", 0),  # at 0 it would stay there
    *no_decay(clipax.decaying),
    *no_decay(thresholds.decayed),
    *no_measure(clipax.adaptive),
    *no_measure(clipax.moving_average),
    bad(clipax.clip_by, TypeError, "`measure` must be a clipax Measure.*, got 1.0", 1.0, tree),
    bad(clipax.clip_by, TypeError, "`measure` .*, got .*per_tree", measures.per_tree, 1.0),
    bad(clipax.clip_by, TypeError, "`rule` must be a function, got 'skip'", tree, 1.0, "skip"),
    bad(clipax.clip_by, TypeError, "`rule` must be a function, got 0.5", tree, 1.0, 0.5),
    bad(clipax.clip_by, TypeError, "`rule` must be a function, got ", tree, 1.0, optax.adam(1e-3)),
    bad(thresholds.constant, ValueError, r"`threshold` must be in \[0, inf\], got -1", -1),
    bad(thresholds.constant, TypeError, "`threshold` must be a number, got 'a'", "a"),
    bad(thresholds.scheduled, TypeError, "`schedule` must be a function, got 3", 3),
    bad(thresholds.by_group, ValueError, r"`thresholds\[1\]` must .* got -1.0", [1.0, -1.0]),
    bad(thresholds.by_group, TypeError, r"`thresholds\[0\]` must be .* got 'a'", ["a"]),
    bad(thresholds.by_group, TypeError, "`thresholds` must be .*, got 3", 3),
    *no_threshold(thresholds.as_policy, "limit", "limit"),
    *[bad(measures.lp, ValueError, f"`p` must be .* got {p}", p) for p in (0, -1, math.nan)],
    *[bad(measures.lp, TypeError, f"`p` must be .* got {p!r}", p) for p in ("2", True, None)],
    *no_norm(measures.per_tree),
    *no_norm(measures.per_layer),
    *no_norm(measures.per_leaf),
    *no_norm(measures.per_group, "x"),
    *no_norm(measures.per_unit),
    bad(measures.per_unit, TypeError, "`axis` must be .*, got 'a'", axis="a"),
    bad(measures.per_unit, TypeError, "`axis` must be .*, got 1.5", axis=1.5),
    bad(clipax.clip, TypeError, "`clipper` must be a clipper .*, got 1.0", GRADIENT, 1.0),
    bad(clipax.clip, TypeError, "`clipper` .* got .*global_norm", GRADIENT, clipax.global_norm),
    bad(clipax.clip, TypeError, "`clipper` .* got an", clipax.global_norm(1.0), GRADIENT),
]
