"""Wrong arguments of the methods: by the name of the argument, for every function that takes it."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from contract import CLIPPERS, POLICIES, RULES, WRAPPERS
from wrong_arguments import (
    PYTHON,
    bad,
    no_count,
    no_measure,
    no_number,
    no_option,
    no_order,
    no_threshold,
)

import clipax
from clipax import rules, thresholds

LARGEST = "3.40282e+38"
# What is accepted, and numbers that are not.
NUMBERS = {
    "absolute": ("(0, inf]", 0, -1e-7),
    "clip_factor": ("(0, inf]", 0, -1.0),
    "clipping": ("[0, inf]", -0.01),
    "decay": ("[0, 1)", 1, -0.5, 1.5),
    "delta": ("[0, 1]", -0.1, 2),
    "eps": ("[0, inf]", -1e-6),
    "factor": (f"(0, {LARGEST}]", 0, -1.0, math.inf),
    "floor": ("[0, 1]", -0.1, 2),
    "gamma": ("[0, inf]", -0.1),
    "initial": (f"(0, {LARGEST}]", 0, -1.0, math.inf),
    "maximum": ("[0, inf]", -1),
    "multiplier": ("(0, inf]", 0, -1.0),
    "outlier": ("[1, inf]", 0.5),
    "patience": ("[1, inf]", 0),
    "percentile": ("[0, 100]", -1, 950),
    "r": ("(0, inf]", 0, -0.1),
    "rate": ("(0, inf]", 0, -0.2),
    "ratio": ("(0, inf]", 0, -1.0),
    "relative": ("[0, inf]", -0.1),
    "restart": ("[1, inf]", 0),
    "sigma": ("(0, inf]", 0, -6.0),
    "sigmas": ("[0, inf]", -3.0),
    "max_consecutive": ("[0, inf]", -1),
    "min_sigma": ("[0, inf]", -1e-6),
    "spread": ("[0, inf]", -1e-6),
    "stability": ("[0, inf]", -0.01),
    "steps": ("[0, inf]", -1),
    "target": ("(0, 1)", 0, 1, -0.5),
    "warmup": ("[0, inf]", -1),
    "z": ("(0, inf]", 0, -2.5),
}
OTHERWISE = {
    (clipax.error_feedback, "decay"): ("[0, 1]", -0.1, 1.5),
    (clipax.adagc, "warmup"): ("[1, inf]", 0),
    (thresholds.exponential_mean, "warmup"): ("[1, inf]", 0),
    (clipax.history_sigma, "warmup"): ("[1, inf]", 0),
    (thresholds.window_deviation, "warmup"): ("[1, inf]", 0),
    (thresholds.restarted, "ratio"): ("[1, inf]", 0.5),
    (thresholds.relative, "ratio"): ("[0, inf]", -0.1),
    (clipax.zclip, "max_norm"): ("[0, inf]", -1.0),
    (clipax.skip_spikes, "max_norm"): ("[0, inf]", -1.0),
    (clipax.adagc, "max_norm"): ("[0, inf]", -1.0),
    (clipax.spam, "every"): ("[1, inf]", 0),
    (thresholds.second_moment, "every"): ("[1, inf]", 0),
    (clipax.momentum_reset, "every"): ("[1, inf]", 0),
}
COUNTS = {
    (clipax.autoclip, "window"),
    (clipax.median, "window"),
    (thresholds.periodic_median, "window"),
    (clipax.history_sigma, "window"),
    (thresholds.window_deviation, "window"),
    (clipax.skip_spikes, "window"),
    (clipax.per_example, "microbatch"),
    (clipax.zclip, "warmup"),
    (thresholds.z_score, "warmup"),
}
NEEDED: dict[Any, tuple] = {
    thresholds.exponential_mean: (2.0,),
    thresholds.warmup: (2.0,),
    thresholds.capped: (2.0,),
    thresholds.scaled: (2.0,),
    thresholds.restarted: (thresholds.moving_mean(),),
    clipax.momentum_reset: (optax.sgd(0.1),),
    clipax.skip_spikes: (optax.sgd(0.1),),
    clipax.error_feedback: (clipax.global_norm(1.0),),
    clipax.per_example: (abs, clipax.global_norm(1.0)),
    clipax.spectral: (1.0,),
}
WORDS = ("mode", "method", "rule", "watch")
FLAGS = ("include_current", "skip_update_on_spike")
# Checked when used, or by a test of its own.
ELSEWHERE = ("axis_name", "axis", "clipper", "exclude", "decays", "early", "inner", "policy")
ELSEWHERE += ("schedule", "stacked", "x", "loss_fn")


def wrong(function: Callable[..., Any], argument: str) -> list[Any]:
    """What `function` refuses for one of its arguments."""
    before = NEEDED.get(function, ())
    if argument in list(inspect.signature(function).parameters)[: len(before)]:
        before = ()
    if (function, argument) in COUNTS:
        return no_count(function, argument, before)
    if (function, argument) in OTHERWISE or argument in NUMBERS:
        accepted, *values = OTHERWISE.get((function, argument)) or NUMBERS[argument]
        return no_number(function, argument, str(accepted), *values, before=before)
    if argument in FLAGS:
        message = f"`{argument}` must be True or False, got 1"
        return [bad(function, TypeError, message, *before, **{argument: 1})]
    if argument in WORDS:
        message = f"`{argument}` must be one of .*, got 'other'"
        return [bad(function, ValueError, message, *before, **{argument: "other"})]
    by_name = {
        "ord": lambda: no_order(function, *before),
        "measure": lambda: no_measure(function),
        "nonfinite": lambda: no_option(function, *before),
        "max_norm": lambda: no_threshold(function, argument),
        "max_singular_value": lambda: no_threshold(function, argument),
        "threshold": lambda: no_threshold(
            function, argument, after=(2.0,) if function is thresholds.capped else ()
        ),
        "name": list,  # with `nonfinite`
    }
    return by_name[argument]()


OLD = {"global_norm", "per_layer", "per_leaf", "per_group", "value", "adaptive", "decaying"} | {
    *("moving_average", "constant", "scheduled", "by_group", "window_percentile", "moving_mean"),
    "decayed",
}
METHODS = [
    *(getattr(clipax, name) for name in (*CLIPPERS, *WRAPPERS) if name not in OLD),
    *(getattr(thresholds, name) for name in POLICIES if name not in OLD),
    *(getattr(rules, name) for name in RULES if "norm" not in RULES[name]),
]
LONG = "`warmup` must be below `every`, got 20 for 20"
decays = "`decays` must be a pair of numbers, got "
BAD_METHODS = [
    case
    for function in METHODS
    for argument in inspect.signature(function).parameters
    if argument not in ELSEWHERE and not (function is thresholds.scaled and argument == "threshold")
    for case in wrong(function, argument)
] + [
    bad(clipax.stable_spam, TypeError, f"{decays}0.9", decays=0.9),
    bad(clipax.stable_spam, TypeError, decays, decays=(0.9,)),
    bad(clipax.stable_spam, ValueError, r"`decays\[1\]` must be in \[0, 1\), got 1", decays=(0, 1)),
    bad(clipax.stable_spam, TypeError, f"`decay` {PYTHON}Array", decay=jnp.array(0.9)),
    bad(clipax.autoclip, ValueError, "`include_current` must be True", include_current=False),
    bad(clipax.autoclip, TypeError, f"`percentile` {PYTHON}Array", jnp.array(9.0), window=3),
    bad(clipax.agc, TypeError, "`axis` must be .*, got 'a'", axis="a"),
    bad(thresholds.periodic_median, TypeError, "`early` must be a tuple .*, got 10", early=10),
    bad(thresholds.periodic_median, ValueError, r"`early\[1\]` must be at least", early=(1, 0)),
    bad(thresholds.scaled, TypeError, "`schedule` must be a function, got 2.0", 1.0, 2.0),
    bad(thresholds.scaled, ValueError, r"`threshold` must be in .*, got -1", -1, lambda step: 1),
    bad(thresholds.restarted, TypeError, "`policy` must be a clipax.ThresholdPolicy, got 1.0", 1.0),
    bad(clipax.momentum_reset, TypeError, "`inner` must be an optimizer, got 0.1", 0.1),
    bad(clipax.momentum_reset, ValueError, LONG, optax.sgd(0.1), 20, warmup=20),
    bad(
        clipax.clip_cotangent, TypeError, "`clipper` must be a clipper or a number, got 'a'", 1, "a"
    ),
    bad(clipax.clip_cotangent, ValueError, r"`clipper` must be in \[0, inf\], got -1", 1.0, -1),
    bad(clipax.per_example, TypeError, "`loss_fn` must be a function, got 1", 1, clipax.value(1)),
    bad(clipax.per_example, TypeError, "`clipper` must be a clipper, got 1", abs, 1),
    bad(clipax.monitor, TypeError, "`measure` must be a clipax Measure, got 1", measure=1),
    bad(clipax.monitor, TypeError, "`name` must be a string, got None", name=None),
    bad(clipax.monitor, ValueError, "`name` must not be empty", name=""),
    bad(clipax.suggest_threshold, TypeError, "`norms` must be a series of numbers", "a"),
    bad(clipax.suggest_threshold, ValueError, "`norms` must have one axis", [[1.0]]),
    bad(clipax.error_feedback, TypeError, "`clipper` must be a clipper, got 0.1", 0.1),
    bad(clipax.skip_spikes, TypeError, "`inner` must be an optimizer, got 0.1", 0.1),
    bad(
        clipax.skip_spikes, TypeError, "`name` must be a string, got None", optax.sgd(1), name=None
    ),
    bad(clipax.skip_spikes, ValueError, "`name` must not be empty", optax.sgd(1), name=""),
    bad(clipax.spam, ValueError, LONG, every=20),
    bad(thresholds.second_moment, ValueError, LONG, every=20),
    bad(clipax.momentum_reset, TypeError, "`inner` must be an opt.*, got .*sgd", optax.sgd),
]
