"""Suite `percentile`: thresholds that follow the norms, one norm after the other."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import clipax
from benchmarks.cases import OURS, Case
from benchmarks.clips import clipped, compiled
from benchmarks.timing import Call, Measured
from benchmarks.trees import Leaves, copied
from benchmarks.workers import of_package

WINDOWS = {1000: 0.05, 10_000: 0.02}
TREE = Leaves(16, 2**17)
PERCENT, STEPS = 95.0, 100


def cases(*, quick: bool) -> Iterator[Case]:
    for window, goal in WINDOWS.items():
        yield of_window(window, goal)
    tree = Leaves(16, 2**10) if quick else TREE
    yield _history(tree)
    yield _whole("zclip", clipax.zclip(max_norm=None, restart=None), tree)
    yield _whole("autoclip", clipax.autoclip(window=1000), tree, window=1000)


def of_window(window: int, goal: float | None = None) -> Case:
    """A percentile of the last norms, as the threshold of a gradient of one entry."""

    def make() -> Mapping[str, Measured]:
        return {
            OURS: _followed(clipax.adaptive(PERCENT, window=window, warmup=1)),
            "jnp.percentile": _sorted_each_time(window),
            "numpy": _by_numpy(window),
        }

    goals = {"jnp.percentile": goal, "numpy": None}
    return Case("percentile", f"of the last {window:,} norms", goals, make)


def _followed(clipper: Any) -> Measured:
    """One update of a clipper of a gradient of one entry, in a compiled loop of several."""

    def steps(state: Any, norms: jax.Array) -> Any:
        def step(state: Any, norm: jax.Array) -> tuple[Any, jax.Array]:
            clipped, state = clipper.update(norm, state)
            return state, clipped

        return jax.lax.scan(step, state, norms)

    norms, state = _norms(STEPS), clipper.init(jnp.zeros(()))
    scanned = jax.jit(steps, donate_argnums=0)
    state, _ = scanned(state, norms)
    several = Call(scanned, lambda: (copied(state), norms))
    return lambda: several() / STEPS


def _sorted_each_time(window: int) -> Measured:
    def steps(ring: jax.Array, norms: jax.Array) -> Any:
        def step(carry: Any, norm: jax.Array) -> tuple[Any, jax.Array]:
            ring, place = carry
            ring = ring.at[place].set(norm)
            factor = jnp.minimum(1, 2 * jnp.percentile(ring, PERCENT) / norm)
            return (ring, (place + 1) % window), norm * factor

        return jax.lax.scan(step, (ring, 0), norms)

    ring, norms = _norms(window), _norms(STEPS)
    several = Call(jax.jit(steps, donate_argnums=0), lambda: (copied(ring), norms))
    return lambda: several() / STEPS


def _by_numpy(window: int) -> Measured:
    ring, norms = np.array(_norms(window)), np.array(_norms(STEPS))

    def measured() -> float:
        begin = time.perf_counter()
        for step, norm in enumerate(norms):
            ring[step % window] = norm
            np.percentile(ring, PERCENT)
        return (time.perf_counter() - begin) / STEPS

    measured()
    return measured


def _norms(count: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).lognormal(size=count), jnp.float32)


def _history(tree: Leaves) -> Case:
    def make() -> Mapping[str, Measured]:
        return {
            OURS: _followed(clipax.autoclip()),
            "plain clip": clipped(clipax.global_norm(0.5 * tree.norm), tree.normal()),
        }

    work = f"of all norms so far, beside a clip of {tree}"
    return Case("percentile", work, {"plain clip": 0.03}, make)


def _whole(peer: str, clipper: Any, tree: Leaves, **more: int) -> Case:
    """The clipper with its statistic, of a norm that stands out of those before."""

    def make() -> Mapping[str, Measured]:
        given = tree.normal()
        update, state = compiled(clipper), clipper.init(given)
        for i in range(30):
            calm = jax.tree.map(lambda x, i=i: 0.1 * 1.1 ** (i % 3) * x, given)
            _, state = update(calm, state)
        factor = clipax.metrics(clipper.update(given, state)[1])["factor"]
        assert factor < 1, f"nothing is clipped: {factor}"
        factory = f"benchmarks.others:{peer}_step"
        found = of_package(peer).make(peer, factory, count=tree.count, size=tree.size, **more)
        return {OURS: clipped(clipper, given, state)} | found

    return Case("percentile", f"{peer} as a whole, {tree}", {peer: None}, make)
