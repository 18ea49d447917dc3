"""Train the groups of a plan, each at most once, and put their runs into one table."""

import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pyarrow as pa

import clipax
from experiments import clippers, config, scores
from experiments.config import Group
from experiments.progress import Progress
from experiments.store import Store
from experiments.train import History, Material, train

CURVES = ("loss", "norm", "threshold", "clipped")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_NUMERIC = ("train.py", "models.py", "data.py", "scores.py", "runner.py", "tasks/chorales.py")


def run(
    task: ModuleType, plan: Sequence[Group], material: Material, store: Store, progress: Progress
) -> pa.Table:
    """Train what the store lacks and return the runs of all groups in the order of the plan.

    Args:
        task: the task's module.
        plan: the groups.
        material: what the task reads.
        store: where finished groups are kept.
        progress: is told of each step.
    """
    tables = [_group(task, group, material, store, progress) for group in plan]
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])


def _group(
    task: ModuleType, group: Group, material: Material, store: Store, progress: Progress
) -> pa.Table:
    key = config.fingerprint(config.to_json(group), material.digest, versions())
    name = f"{group.role} {group.cell} {group.clipper}"
    stored = store.load(key)
    if stored is not None:
        progress.reuse(name, group, _failures(stored))
        return stored
    progress.start(name)
    table = _train(task, group, material, progress)
    store.save(key, table)
    progress.finish(name, group, _failures(table))
    return table


def _failures(table: pa.Table) -> int:
    return int(np.sum(table["failed"].to_numpy()))


def _train(task: ModuleType, group: Group, material: Material, progress: Progress) -> pa.Table:
    begin, runs = time.monotonic(), task.runs(group)
    history = train(
        task.task(group),
        task.method(group),
        runs,
        material.arrays,
        updates=group.updates,
        on_chunk=progress.steps_of(group),
    )
    seconds = (time.monotonic() - begin) / group.runs
    return pa.table(_columns(group, runs, history, material) | {"seconds": [seconds] * group.runs})


def _columns(
    group: Group, runs: dict[str, Any], history: History, material: Material
) -> dict[str, Any]:
    row = clippers.LEGEND[group.clipper]
    curves = {name: np.asarray(getattr(history.record, name)) for name in CURVES}
    last = max(group.updates // 10, 1)
    same = {
        "task": group.task,
        "role": group.role,
        "clipper": row.name,
        "label": row.label,
        "arguments": json.dumps(row.arguments, sort_keys=True),
        "cell": group.cell,
        "width": group.width,
        "optimizer": group.optimizer,
        "updates": group.updates,
        "batch": group.batch,
        "length": group.length,
        "versions": versions(),
        "data_hash": material.digest,
    }
    return {
        **{name: [value] * group.runs for name, value in same.items()},
        "seed": runs["seed"],
        "learning_rate": [rate for rate in group.learning_rates for _ in group.seeds],
        "valid_nll": history.scores["valid"],
        "test_nll": history.scores["test"],
        "train_loss": curves["loss"][:, -last:].mean(1),
        "failed": scores.failed(history.scores, material.floors),
        "clip_share": scores.clip_share(curves["clipped"], curves["norm"]),
        "spike_score": scores.spike_score(curves["loss"]),
        **{name: list(curve) for name, curve in curves.items()},
    }


@cache
def versions() -> str:
    """All that may change a number without a change of settings, as JSON with sorted keys."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    found["clipax"] = _clipax_version()
    found["python"] = platform.python_version()
    found["machine"] = machine()
    found["source"] = _source()
    return json.dumps(found, sort_keys=True)


def _clipax_version() -> str:
    try:
        return importlib.metadata.version("clipax")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"


def machine() -> str:
    """Processor, cores and what jax computes on."""
    devices = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {len(devices)} {devices[0].device_kind} devices"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _source() -> str:
    # An edit of the library or the loop must not meet groups that older code computed.
    here = Path(__file__).parent
    library = sorted(Path(str(clipax.__file__)).parent.glob("*.py"))
    content = hashlib.sha256()
    for path in [*library, *(here / name for name in _NUMERIC)]:
        content.update(path.read_bytes())
    return content.hexdigest()[:12]
