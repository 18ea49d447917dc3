"""Tables of runs made up so that the answers are known, in the form that the loop leaves behind."""

import json
import math

import numpy as np
import pyarrow as pa

from experiments.columns import COLUMNS, schema

RATES = (0.1, 1.0, 10.0)
TRIVIAL = FLOOR = 12.0
STEPS, SCALE = 60, 2.0
GRID_SEEDS, HELD_OUT = (0, 1), (2, 3, 4, 5, 6)
_MAIN = {"autoclip": "percentile", "zclip": "threshold", "adagc": "ratio"}
_DEFAULTS = {"autoclip": 10.0}


def row(place, method, score, **changes):
    """One run; what follows from a changed value, such as `failed`, follows here too."""
    task, variant = place.split("/")
    value = changes.pop("value", math.nan if method == "none" else _DEFAULTS.get(method, 1.0))
    failed = not score < FLOOR
    final = score if math.isfinite(score) else math.nan
    threshold = math.inf if method == "none" else (1.0 if math.isnan(value) else value) * SCALE
    settings = {"model": {"width": 8}, "optimizer": "momentum", "updates": STEPS, "scale": SCALE}
    arguments = {} if method == "none" else {_MAIN.get(method, "max_norm"): value}
    return {
        "part": "leaderboard", "study": json.dumps({"tasks": [place], "seeds": 2}),
        "task": task, "variant": variant, "method": method, "stage": "grid",
        "arguments": json.dumps(arguments, sort_keys=True), "value": value,
        "learning_rate": 1.0, "seed": 0, "valid": score, "test": score, "train_loss": final,
        "failed": failed, "floor": FLOOR, "trivial": TRIVIAL,
        "clip_share": 0.0 if method == "none" else 0.05, "spike_score": 0.0,
        "seconds": 0.2, "step_seconds": 1e-3 if method == "none" else 1.1e-3,
        "settings": json.dumps(settings, sort_keys=True), "data_hash": "d" * 64,
        "versions": json.dumps({"jax": "1", "machine": "a machine", "source": "s"}),
        "loss": np.linspace(TRIVIAL, final, STEPS), "norm": np.full(STEPS, 5e3 if failed else 1.0),
        "threshold": np.full(STEPS, threshold), "clipped": np.zeros(STEPS, bool),
    } | changes  # fmt: skip


def square(place, method, scores, **changes):
    """Runs with one score a seed, from seed 0."""
    seeds = range(len(scores))
    return [
        row(place, method, score, **{"seed": seed} | changes)
        for seed, score in zip(seeds, scores, strict=True)
    ]


def grid(place, method, by_rate, rates=RATES, **changes):
    """Runs with one score, or one a seed, for each learning rate."""
    return [
        run
        for rate, scores in zip(rates, by_rate, strict=True)
        for run in square(place, method, np.ravel(scores).tolist(), learning_rate=rate, **changes)
    ]


def held_out(place, method, scores, stage, **changes):
    """Runs of the stage `chosen` or `default`, one score a held-out seed."""
    return [
        row(place, method, score, stage=stage, seed=seed, **changes)
        for seed, score in zip(HELD_OUT, scores, strict=False)
    ]


def leaderboard(known, usable=None):
    """All runs of a leaderboard.

    Args:
        known: by task and method, the test scores of the chosen held-out seeds.
        usable: by method, how many of the three learning rates train; the default is 2.
    """
    return [
        run
        for place, methods in known.items()
        for method, scores in methods.items()
        for run in _finished(place, method, scores, (usable or {}).get(method, 2))
    ]


def _finished(place, method, scores, usable):
    best = float(np.median(scores))
    by_rate = [
        [best + 0.5 if i < usable else math.nan] * len(GRID_SEEDS) for i in range(len(RATES))
    ]
    values = [{}] if method == "none" else [{"value": 1.0}, {"value": 0.25}]
    tried = [run for value in values for run in grid(place, method, by_rate, **value)]
    chosen = held_out(place, method, scores, "chosen", **values[-1])
    return (
        tried + chosen + held_out(place, method, [s + 0.1 for s in scores], "default", **values[0])
    )


def table(rows, **about):
    """The runs as a table with metadata."""
    said = {"command": "python -m experiments leaderboard", "seconds": "75", "finished": "0"}
    said |= {"study": json.dumps({"tasks": ["chorales/tanh"], "seeds": 2})}
    return pa.Table.from_pylist(rows, schema(COLUMNS)).replace_schema_metadata(said | about)


def example():
    """A whole leaderboard of three tasks and four methods: one better than `none`, one worse."""
    steps = np.linspace(-0.1, 0.1, len(HELD_OUT))
    levels = {"none": 9.0, "global_norm": 8.0, "value": 9.0, "zclip": 10.5}
    places = ("chorales/tanh", "weather/lstm", "mnist/mlp")
    known = {
        place: {method: (level + steps).tolist() for method, level in levels.items()}
        for place in places
    }
    return table(leaderboard(known, {"none": 1, "global_norm": 3}))
