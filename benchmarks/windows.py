"""Suite `percentile`: the statistic of a threshold alone, one norm after the other."""

import collections
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import clipax
from benchmarks.cases import OURS, Case
from benchmarks.clips import clipped
from benchmarks.timing import Call, Timed
from benchmarks.trees import Leaves, copied
from benchmarks.workers import of_package

WINDOWS = {1000: 0.05, 10_000: 0.02}
TREE = Leaves(16, 2**17)
PERCENT, CALLS = 95.0, 100


def cases(*, quick: bool) -> Iterator[Case]:
    for window, goal in WINDOWS.items():
        yield of_window(window, goal)
    tree = Leaves(16, 2**10) if quick else TREE
    yield _history(tree)
    yield _package("zclip", clipax.zclip(), "zclip_step", tree, {})
    yield _package(
        "autoclip", clipax.autoclip(window=1000), "autoclip_step", tree, {"window": 1000}
    )


def of_window(window: int, goal: float | None = None) -> Case:
    """A percentile of the last norms."""

    def make() -> Mapping[str, Timed]:
        policy = clipax.thresholds.window_percentile(PERCENT, window=window, warmup=1)
        return {
            OURS: updated(policy),
            "jnp.percentile": _sorted_each_time(window),
            "numpy, deque": _deque(window),
        }

    goals = {"jnp.percentile": goal, "numpy, deque": None}
    return Case("percentile", f"of the last {window:,} norms", goals, make)


def updated(policy: clipax.ThresholdPolicy) -> Timed:
    """One update of a policy of one group."""

    def step(state: Any, norm: jax.Array) -> tuple[Any, jax.Array]:
        threshold, state = policy.update(norm, state, step=0, param_norm=None)
        return state, threshold

    return _in_scan(step, policy.init(jnp.zeros(1)), _norms(CALLS)[:, None])


def _sorted_each_time(window: int) -> Timed:
    def step(carry: Any, norm: jax.Array) -> tuple[Any, jax.Array]:
        ring, place = carry
        ring = ring.at[place].set(norm)
        return (ring, (place + 1) % window), jnp.percentile(ring, PERCENT)

    return _in_scan(step, (_norms(window), jnp.zeros((), jnp.int32)), _norms(CALLS))


def _in_scan(step: Callable[..., Any], carry: Any, norms: jax.Array) -> Timed:
    """The time of one step of a loop, as in a training that is compiled as a whole."""
    scanned = jax.jit(lambda carry, norms: jax.lax.scan(step, carry, norms), donate_argnums=0)
    all_steps = Call(scanned, lambda: (copied(carry), norms))
    return lambda: all_steps() / len(norms)


def _deque(window: int) -> Timed:
    norms = collections.deque(np.asarray(_norms(window)).tolist(), maxlen=window)

    def timed() -> float:
        begin = time.perf_counter()
        norms.append(1.0)
        np.percentile(norms, PERCENT)
        return time.perf_counter() - begin

    return timed


def _norms(count: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).lognormal(size=count), jnp.float32)


def _history(tree: Leaves) -> Case:
    def make() -> Mapping[str, Timed]:
        plain = clipax.global_norm(0.5 * tree.entries**0.5)
        return {
            OURS: updated(clipax.thresholds.history_percentile(10.0)),
            "plain clip": clipped(plain, tree.normal()),
        }

    work = f"of all norms so far, beside a clip of {tree}"
    return Case("percentile", work, {"plain clip": 0.03}, make)


def _package(peer: str, clipper: Any, factory: str, tree: Leaves, more: dict[str, Any]) -> Case:
    def make() -> Mapping[str, Timed]:
        found = of_package(peer).make(
            peer, f"benchmarks.others:{factory}", count=tree.count, size=tree.size, **more
        )
        return {OURS: clipped(clipper, tree.normal())} | found

    return Case("percentile", f"{peer} as a whole, {tree}", {peer: None}, make)
