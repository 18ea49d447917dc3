"""The training loop: one `lax.scan`, vmapped over runs, the run axis laid over all devices.

A task gives pure functions, a method gives what turns the gradient into an update from the
arguments of one run, and `train` returns what happened at each step of every run. Learning rates
and thresholds are values, not code: runs that differ in them share one compilation.
"""

import math
import time
from collections.abc import Callable, Iterator
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


class Record(NamedTuple):
    """What one step leaves behind; `norm` is that of the whole gradient, before anything."""

    loss: jax.Array
    norm: jax.Array
    threshold: jax.Array
    clipped: jax.Array


class Task(NamedTuple):
    """What is learnt.

    Attributes:
        init: `(key, data) -> params`.
        batch: `(key, data) -> batch`, drawn from the training data.
        loss: `(params, batch) -> loss`, a scalar.
        evaluate: `(params, record, data) -> scores`, a dict of scalars, lower is better; `record`
            holds the curves of the run, `[step]`.
    """

    init: Callable[[jax.Array, Tree], Tree]
    batch: Callable[[jax.Array, Tree], Tree]
    loss: Callable[[Tree, Tree], jax.Array]
    evaluate: Callable[[Tree, Record, Tree], dict[str, jax.Array]]


class Method(NamedTuple):
    """How it is learnt.

    Attributes:
        parts: `(run) -> transformations`, applied one after the other.
        clipper: position of the one that clips; where there is one part alone, it does both.
    """

    parts: Callable[[Run], tuple[optax.GradientTransformation, ...]]
    clipper: int


class Material(NamedTuple):
    """What a task reads.

    Attributes:
        arrays: data, the same for all runs.
        floors: by score, the value above which a run has failed.
        trivial: test score of a model that has learnt nothing.
        digest: sha256 of the data.
    """

    arrays: Tree
    floors: dict[str, float]
    trivial: float
    digest: str


class Carry(NamedTuple):
    """State of one run between two steps."""

    params: Tree
    states: tuple[Tree, ...]
    step: jax.Array


class History(NamedTuple):
    """What runs leave behind: `record` is `[run, step]`, each score and `seconds` are `[run]`.

    `seconds` are those of one update of one run, without compilation.
    """

    record: Record
    scores: dict[str, np.ndarray]
    seconds: np.ndarray


def train(
    task: Task,
    method: Method,
    runs: Run,
    data: Tree,
    *,
    updates: int,
    block: int = 20,
    on_chunk: Callable[[int], None] = lambda steps: None,
) -> History:
    """Train every run and evaluate it once at the end.

    Args:
        task: what is learnt.
        method: what is made of the gradient.
        runs: arguments of the runs, a tree of arrays `[run]`; `seed` is among them.
        data: what `task` reads, the same for all runs.
        updates: steps of each run.
        block: runs that are trained together; each block has this size, so that all of them, and
            those of a later call, share one compilation.
        on_chunk: is told how many steps of one run each were just done, over all runs.
    """
    mesh = _mesh()
    data = jax.device_put(data, NamedSharding(mesh, PartitionSpec()))
    parts = [
        _train(task, method, part, data, updates, on_chunk)
        for part in _blocks(runs, block + -block % mesh.size)
    ]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return jax.tree.map(lambda leaf: leaf[: len(runs["seed"])], joined)


def _blocks(runs: Run, size: int) -> Iterator[Run]:
    """The runs in blocks of this size; the last run is repeated to fill the last block."""
    count = len(runs["seed"])
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        yield jax.tree.map(lambda values, rows=rows: np.asarray(values)[rows], runs)


def _train(
    task: Task,
    method: Method,
    runs: Run,
    data: Tree,
    updates: int,
    on_chunk: Callable[[int], None],
) -> History:
    runs = jax.device_put(runs, NamedSharding(_mesh(), PartitionSpec("run")))
    carry = _start(method, _parameters(task, runs["seed"], data), runs)
    count, steps = len(runs["seed"]), chunk_size(updates)
    records, times = [], []
    for _ in range(updates // steps):
        begin = time.perf_counter()
        carry, record = _advance(task, method, steps, carry, runs, data)
        records.append(jax.device_get(record))
        times.append(time.perf_counter() - begin)
        on_chunk(steps * count)
    curves = jax.tree.map(lambda *chunks: np.concatenate(chunks, axis=1), *records)
    scores = jax.device_get(_evaluate(task, carry.params, curves, data))
    return History(curves, scores, np.full(count, np.median(times) / (steps * count)))


def chunk_size(updates: int, chunks: int = 16) -> int:
    """Steps of a chunk: at most `chunks` chunks, all of one size, which compiles once."""
    return next(s for s in range(-(-updates // chunks), updates + 1) if updates % s == 0)


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), ("run",))


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
        states = tuple(part.init(params) for part in method.parts(run))
        return Carry(params, states, jnp.zeros((), jnp.int32))

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
    # Folded twice: batches depend on the seed and the step, and never repeat the key of `init`.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run["seed"]), 1), carry.step)
    loss, gradient = jax.value_and_grad(task.loss)(carry.params, task.batch(key, data))
    flow, states = [gradient], []
    for part, state in zip(method.parts(run), carry.states, strict=True):
        update, state = part.update(flow[-1], state, carry.params)
        flow.append(update)
        states.append(state)
    params = optax.apply_updates(carry.params, flow[-1])
    metrics = clipax.metrics(states[method.clipper])
    clipped = _clipped(metrics, flow, method.clipper)
    record = Record(loss, global_norm(gradient), _threshold(metrics), clipped)
    return Carry(params, tuple(states), carry.step + 1), record


def _threshold(metrics: dict[str, jax.Array]) -> jax.Array:
    # Wrappers put their name before what they tell; some methods have no threshold of a norm.
    found = [value for key, value in metrics.items() if key.endswith("threshold")]
    return found[0] if found else jnp.array(jnp.inf)


def _clipped(metrics: dict[str, jax.Array], flow: list[Tree], clipper: int) -> jax.Array:
    told = [value for key, value in metrics.items() if key.split("/")[-1] in ("clipped", "skipped")]
    if told:
        return told[0] > 0
    # A clipper of single entries keeps no share: it clipped where it changed anything. What is
    # at once clipper and optimizer changes everything, and then nothing is known.
    alone = len(flow) == 2
    return jnp.array(False) if alone else _differs(flow[clipper], flow[clipper + 1])


def global_norm(gradient: Tree) -> jax.Array:
    """L2 norm of the whole gradient, measured by a clipper that never clips."""
    return clipax.clip(gradient, clipax.global_norm(math.inf))[1]["norm"]


def _differs(before: Tree, after: Tree) -> jax.Array:
    changed = jax.tree.map(lambda old, new: jnp.any(old != new), before, after)
    return jnp.any(jnp.stack(jax.tree.leaves(changed)))


@partial(jax.jit, static_argnums=(0,))
def _evaluate(task: Task, params: Tree, record: Record, data: Tree) -> dict[str, jax.Array]:
    return _over_runs(task.evaluate, params, record, data=data)
