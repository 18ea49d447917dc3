"""The training loop: one `lax.scan`, vmapped over runs, the run axis laid over all devices.

A task gives pure functions, a method gives a clipper and an optimizer from the arguments of one
run, and `train` returns what happened at each step of every run. Learning rates and thresholds
are values, not code: runs that differ in them share one compilation.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import clipax

Tree = Any
Run = dict[str, Any]


class Task(NamedTuple):
    """What is learnt.

    Attributes:
        init: `(key, data) -> params`.
        batch: `(key, data) -> batch`, drawn from the training data.
        loss: `(params, batch) -> loss`, a scalar.
        evaluate: `(params, data) -> scores`, a dict of scalars.
    """

    init: Callable[[jax.Array, Tree], Tree]
    batch: Callable[[jax.Array, Tree], Tree]
    loss: Callable[[Tree, Tree], jax.Array]
    evaluate: Callable[[Tree, Tree], dict[str, jax.Array]]


class Method(NamedTuple):
    """How it is learnt: each function builds a transformation from the arguments of one run."""

    clipper: Callable[[Run], optax.GradientTransformation]
    optimizer: Callable[[Run], optax.GradientTransformation]


class Material(NamedTuple):
    """What a task reads: arrays, the score at which a run has failed, and a hash of the data."""

    arrays: Tree
    floors: dict[str, float]
    digest: str


class Carry(NamedTuple):
    """State of one run between two steps."""

    params: Tree
    clipper: Tree
    optimizer: Tree
    step: jax.Array


class Record(NamedTuple):
    """What one step leaves behind; `norm` and `threshold` are those of the clipper."""

    loss: jax.Array
    norm: jax.Array
    threshold: jax.Array
    clipped: jax.Array


class History(NamedTuple):
    """What a group of runs leaves behind: `record` is `[run, step]`, each score is `[run]`."""

    record: Record
    scores: dict[str, np.ndarray]


def train(
    task: Task,
    method: Method,
    runs: Run,
    data: Tree,
    *,
    updates: int,
    chunk: int = 15,
    on_chunk: Callable[[int], None] = lambda steps: None,
) -> History:
    """Train every run and evaluate it once at the end.

    Args:
        task: what is learnt.
        method: the clipper and the optimizer.
        runs: arguments of the runs, a tree of arrays `[run]`; `seed` is among them.
        data: what `task` reads, the same for all runs.
        updates: steps of each run.
        chunk: steps between two calls of `on_chunk`.
        on_chunk: is told how many steps were just done.
    """
    count = len(runs["seed"])
    runs, data = _lay_out(runs, data)
    carry = _start(method, _parameters(task, runs["seed"], data), runs)
    records = []
    for done in range(0, updates, chunk):
        steps = min(chunk, updates - done)
        carry, record = _advance(task, method, steps, carry, runs, data)
        records.append(jax.device_get(record))
        on_chunk(steps)
    scores = jax.device_get(_evaluate(task, carry.params, data))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:count], *records)
    return History(joined, {name: score[:count] for name, score in scores.items()})


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), ("run",))


def _lay_out(runs: Run, data: Tree) -> tuple[Run, Tree]:
    # The run axis must divide by the devices: the last run is repeated and later dropped.
    mesh = _mesh()

    def place(values: Any) -> jax.Array:
        values = np.asarray(values)
        missing = -len(values) % mesh.size
        padded = np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
        return jax.device_put(padded, NamedSharding(mesh, PartitionSpec("run")))

    return jax.tree.map(place, runs), jax.device_put(data, NamedSharding(mesh, PartitionSpec()))


def _over_runs(one: Callable[..., Tree], *args: Tree, data: Tree) -> Tree:
    axes = (*[0] * len(args), None)
    specs = (*[PartitionSpec("run")] * len(args), PartitionSpec())
    spread = jax.shard_map(
        jax.vmap(one, in_axes=axes),
        mesh=_mesh(),
        in_specs=specs,
        out_specs=PartitionSpec("run"),
        check_vma=False,
    )
    return spread(*args, data)


@partial(jax.jit, static_argnums=0)
def _parameters(task: Task, seeds: jax.Array, data: Tree) -> Tree:
    # One run after the other: LAPACK calls for several matrices at once, as in orthogonal
    # initializers under `vmap`, hang on CPUs with jaxlib 0.10 and 0.11.
    @jax.custom_batching.sequential_vmap
    def one(seed: jax.Array, data: Tree) -> Tree:
        return task.init(jax.random.key(seed), data)

    return _over_runs(one, seeds, data=data)


@partial(jax.jit, static_argnums=0)
def _start(method: Method, params: Tree, runs: Run) -> Carry:
    def one(params: Tree, run: Run, _: None) -> Carry:
        clipper, optimizer = method.clipper(run), method.optimizer(run)
        return Carry(params, clipper.init(params), optimizer.init(params), jnp.zeros((), jnp.int32))

    return _over_runs(one, params, runs, data=None)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3,))
def _advance(
    task: Task, method: Method, steps: int, carry: Carry, runs: Run, data: Tree
) -> tuple[Carry, Record]:
    def one(carry: Carry, run: Run, data: Tree) -> tuple[Carry, Record]:
        def step(carry: Carry, _: None) -> tuple[Carry, Record]:
            return _step(task, method, carry, run, data)

        return jax.lax.scan(step, carry, length=steps)

    return _over_runs(one, carry, runs, data=data)


def _step(task: Task, method: Method, carry: Carry, run: Run, data: Tree) -> tuple[Carry, Record]:
    clipper, optimizer = method.clipper(run), method.optimizer(run)
    # Folded twice: batches depend on the seed and the step, and never repeat the key of `init`.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run["seed"]), 1), carry.step)
    loss, gradient = jax.value_and_grad(task.loss)(carry.params, task.batch(key, data))
    clipped, clipper_state = clipper.update(gradient, carry.clipper, carry.params)
    updates, optimizer_state = optimizer.update(clipped, carry.optimizer, carry.params)
    params = optax.apply_updates(carry.params, updates)
    record = _record(loss, gradient, clipped, clipax.metrics(clipper_state))
    return Carry(params, clipper_state, optimizer_state, carry.step + 1), record


def _record(loss: jax.Array, gradient: Tree, clipped: Tree, metrics: dict[str, Any]) -> Record:
    # A clipper of single elements measures no norm and keeps no share: both are derived here.
    norm = metrics["norm"] if "norm" in metrics else global_norm(gradient)
    hit = metrics["clipped"] > 0 if "clipped" in metrics else _differs(gradient, clipped)
    return Record(loss, norm, metrics["threshold"], hit)


def global_norm(gradient: Tree) -> jax.Array:
    """L2 norm of the whole gradient, measured by a clipper that never clips."""
    return clipax.clip(gradient, clipax.global_norm(math.inf))[1]["norm"]


def _differs(before: Tree, after: Tree) -> jax.Array:
    changed = jax.tree.map(lambda old, new: jnp.any(old != new), before, after)
    return jnp.any(jnp.stack(jax.tree.leaves(changed)))


@partial(jax.jit, static_argnums=(0,))
def _evaluate(task: Task, params: Tree, data: Tree) -> dict[str, jax.Array]:
    return _over_runs(task.evaluate, params, data=data)
