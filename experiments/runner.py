"""Train the groups of a plan, each at most once, and put their runs into one table."""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow as pa

from experiments import clippers, columns, config, provenance, scores, task
from experiments.config import Arguments, Group
from experiments.progress import Outcome, Progress
from experiments.store import Store
from experiments.train import History, Material, Method, Run, train

CURVES = ("loss", "norm", "threshold", "clipped")
OPTIMIZERS = {"sgd": optax.sgd, "momentum": partial(optax.sgd, momentum=0.9), "adam": optax.adam}
_BLOCK = 20
OnRuns = Callable[[float], None]


class Setting(NamedTuple):
    """What runs that differ in their seed alone have in common, and their stage."""

    stage: str
    arguments: Arguments
    learning_rate: float


def run(
    plan: Sequence[Group], store: Store, folder: Path | None, progress: Progress
) -> Iterator[tuple[Group, pa.Table]]:
    """Train what the store lacks; each group with its runs, in the order of the plan.

    Args:
        plan: the groups.
        store: where finished groups are kept.
        folder: folder of parsed data.
        progress: is told of each step.
    """
    for group in plan:
        found = reused(group, store, folder, progress)
        yield group, _trained(group, store, folder, progress) if found is None else found


def reused(group: Group, store: Store, folder: Path | None, progress: Progress) -> pa.Table | None:
    """The runs of a group that is already in the store."""
    table = store.load(key(group, folder))
    if table is not None:
        progress.reuse(group, outcome(table))
    return table


def _trained(group: Group, store: Store, folder: Path | None, progress: Progress) -> pa.Table:
    progress.start(group)
    return keep(group, compute(group, folder, progress.advance(group)), store, folder, progress)


def keep(
    group: Group, table: pa.Table, store: Store, folder: Path | None, progress: Progress
) -> pa.Table:
    """Put the runs of a finished group into the store."""
    store.save(key(group, folder), table)
    progress.finish(group, outcome(table))
    return table


def outcome(table: pa.Table) -> Outcome:
    """How many runs of a group failed, and the best validation score of all."""
    valid = table["valid"].to_numpy()
    best = np.min(valid, initial=np.inf, where=np.isfinite(valid))
    return Outcome(int(np.sum(table["failed"].to_numpy())), float(best))


def key(group: Group, folder: Path | None) -> str:
    """Name of a group in the store: a hash of all that decides its numbers."""
    digest = material(group.task, group.recipe.model, folder).digest
    return config.fingerprint(config.to_json(group), digest, provenance.versions(group.task))


@cache
def material(name: str, model: Any, folder: Path | None) -> Material:
    """What a task reads for a model, loaded once a process."""
    return task.find(name).load(folder, model)


def compute(group: Group, folder: Path | None, on_runs: OnRuns = lambda runs: None) -> pa.Table:
    """Train all runs of a group.

    Args:
        group: what to train.
        folder: folder of parsed data.
        on_runs: is told how many runs' worth of steps were just done.
    """
    _forget_programs(group.task, group.variant)
    pairs = itertools.product(group.arguments, group.learning_rates)
    grid = _part(group, [Setting("grid", *pair) for pair in pairs], group.seeds, folder, on_runs)
    if not group.held_out:
        return grid
    chosen = _part(group, choose(group, grid), group.held_out, folder, on_runs)
    return pa.concat_tables([grid, chosen])


@lru_cache(maxsize=1)
def _forget_programs(task: str, variant: str) -> None:
    """Drop compiled programs when another variant begins: no later group runs them again."""
    # Each takes some hundred memory mappings, and Linux allows a process 65,530.
    jax.clear_caches()


def choose(group: Group, grid: pa.Table) -> list[Setting]:
    """The setting with the lowest median validation score, of all and of the default arguments."""
    valid = grid["valid"].to_numpy().reshape(len(group.arguments), len(group.learning_rates), -1)
    medians = np.median(np.where(np.isfinite(valid), valid, np.inf), axis=-1)
    best = np.unravel_index(np.argmin(medians), medians.shape)
    return [
        Setting("chosen", group.arguments[best[0]], group.learning_rates[best[1]]),
        Setting("default", group.arguments[0], group.learning_rates[np.argmin(medians[0])]),
    ]


def block(group: Group) -> int:
    """Runs that are trained together: times of groups with the same number can be compared."""
    return min(_BLOCK, max(group.grid, 2 * len(group.held_out)))


def _part(
    group: Group,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    folder: Path | None,
    on_runs: OnRuns,
) -> pa.Table:
    begin, found = time.monotonic(), material(group.task, group.recipe.model, folder)
    rows = list(itertools.product(settings, seeds))
    updates = group.recipe.updates
    history = train(
        task.find(group.task).build(group.recipe.model),
        method(group.method, group.recipe.optimizer, group.recipe.schedule, updates),
        _runs(rows),
        found.arrays,
        updates=updates,
        block=block(group),
        on_chunk=lambda steps: on_runs(steps / updates),
    )
    seconds = (time.monotonic() - begin) / len(rows)
    found_columns = _columns(group, rows, history, found) | {"seconds": [seconds] * len(rows)}
    return pa.table(found_columns, columns.schema(columns.GROUP))


def _runs(rows: Sequence[tuple[Setting, int]]) -> Run:
    """Arguments of each run, arrays `[run]`."""
    settings = [setting for setting, _ in rows]
    return {
        "learning_rate": np.array([setting.learning_rate for setting in settings], np.float32),
        "seed": np.array([seed for _, seed in rows], np.int32),
        "arguments": {
            name: np.array([setting.arguments[name] for setting in settings], np.float32)
            for name in settings[0].arguments
        },
    }


@cache
def method(name: str, optimizer: str, schedule: str, updates: int) -> Method:
    """A row of the legend with an optimizer; the same object for the same settings."""
    row = clippers.LEGEND[name]

    def parts(run: Run) -> tuple[optax.GradientTransformation, ...]:
        rate = (
            _cosine(run["learning_rate"], updates) if schedule == "cosine" else run["learning_rate"]
        )
        return row.parts(run["arguments"], OPTIMIZERS[optimizer](rate))

    return Method(parts, clipper=1 if row.place == "update" else 0)


def _cosine(peak: jax.Array, updates: int) -> optax.Schedule:
    return lambda step: peak * 0.5 * (1 + jnp.cos(jnp.pi * step / updates))


def _columns(
    group: Group, rows: Sequence[tuple[Setting, int]], history: History, found: Material
) -> dict[str, Any]:
    settings = [setting for setting, _ in rows]
    curves = {name: np.asarray(getattr(history.record, name)) for name in CURVES}
    same = {
        "task": group.task,
        "variant": group.variant,
        "method": group.method,
        "floor": found.floors.get("test", math.inf),
        "trivial": found.trivial,
        "settings": config.to_json(group.recipe),
        "versions": provenance.versions(group.task),
        "data_hash": found.digest,
    }
    return {
        **{name: [value] * len(rows) for name, value in same.items()},
        "stage": [setting.stage for setting in settings],
        "arguments": [json.dumps(dict(setting.arguments), sort_keys=True) for setting in settings],
        "value": [_value(group, setting) for setting in settings],
        "learning_rate": [setting.learning_rate for setting in settings],
        "seed": [seed for _, seed in rows],
        **{name: np.asarray(history.scores[name], float) for name in ("valid", "test")},
        "failed": scores.failed(history.scores, found.floors),
        **_sums(curves),
        "step_seconds": history.seconds,
        **{name: list(curve) for name, curve in curves.items()},
    }


def _sums(curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    losses = curves["loss"]
    return {
        "train_loss": losses[:, -max(losses.shape[1] // 10, 1) :].mean(1),
        "clip_share": scores.clip_share(curves["clipped"], curves["norm"]),
        "spike_score": scores.spike_score(losses),
    }


def _value(group: Group, setting: Setting) -> float:
    row = clippers.LEGEND[group.method]
    return row.tuned(setting.arguments, group.recipe) if row.argument else math.nan
