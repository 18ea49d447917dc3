"""Suites `clip`, `vmap` and `eager`: a gradient is clipped, and nothing else."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import clipax
from benchmarks.cases import OURS, Case
from benchmarks.timing import Call, Measured
from benchmarks.trees import Leaves, copied
from benchmarks.workers import of_package

SIDES = {"above": 0.5, "below": 2.0}  # threshold over the norm
LIMITED = 4 * 2**20  # bytes above which the limit of the memory is a goal
TREES = (Leaves(1, 2**24), Leaves(16, 2**20), Leaves(200, 2**16), Leaves(1000, 2**10))
SMALL = (Leaves(1, 2**20), Leaves(200, 2**10))
_TORCH = {"torch": None, "torch, foreach=False": False}


def cases(*, quick: bool) -> Iterator[Case]:
    for dtype in (jnp.float32, jnp.bfloat16):
        for tree in SMALL if quick else TREES:
            for side in SIDES:
                yield clip(tree, dtype, side)
    yield _vmapped(Leaves(16, 2**12 if quick else 2**16), runs=8)
    yield _eager(Leaves(20, 2**12))


def clip(tree: Leaves, dtype: Any, side: str, *, apart: bool = True) -> Case:
    """A clip of a gradient whose norm lies on this side of the threshold.

    Args:
        tree: the gradient.
        dtype: of its leaves.
        side: `above` or `below`.
        apart: with the peers that run in processes of their own.
    """
    name, max_norm = jnp.dtype(dtype).name, SIDES[side] * tree.norm
    limited = tree.entries * jnp.dtype(dtype).itemsize > LIMITED

    def make() -> Mapping[str, Measured]:
        given = tree.normal(dtype)
        found = {
            OURS: clipped(clipax.global_norm(max_norm), given),
            "optax": clipped(optax.clip_by_global_norm(max_norm), given),
        }
        if limited:
            found["limit"] = limit(tree, dtype, writes=side == "above")
        return found | (others() if apart else {})

    def others() -> dict[str, Measured]:
        shape = {"count": tree.count, "size": tree.size, "max_norm": max_norm}
        found: dict[str, Measured] = {}
        for peer, foreach in _TORCH.items():
            factory = "benchmarks.others:torch_clip"
            found |= of_package("torch").make(peer, factory, **shape, dtype=name, foreach=foreach)
        if name == "float32":
            factory = "benchmarks.others:tensorflow_clip"
            found |= of_package("tensorflow").make("tensorflow", factory, **shape)
        return found

    goals: dict[str, float | None] = {"optax": _goal(tree, name)}
    goals |= {"limit": 1.3} if limited else {}
    goals |= dict.fromkeys(_TORCH, 0.9) if apart else {}
    goals |= {"tensorflow": None} if apart and name == "float32" else {}
    return Case("clip", f"global_norm, {name}, {tree}, {side}", goals, make)


def _goal(tree: Leaves, dtype: str) -> float:
    if tree.count >= 1000:
        return 0.8
    return 1.05 if dtype == "float32" else 0.5


def clipped(clipper: optax.GradientTransformation, given: Any, state: Any = None) -> Measured:
    """One update of a compiled clipper, of a gradient that it may overwrite."""
    state = clipper.init(given) if state is None else state
    return Call(compiled(clipper), lambda: (copied(given), copied(state)))


def compiled(clipper: optax.GradientTransformation) -> jax.stages.Wrapped:
    """The update of a clipper, jitted; it overwrites the gradient and the state."""
    return jax.jit(lambda g, s: clipper.update(g, s), donate_argnums=(0, 1), keep_unused=True)


def limit(tree: Leaves, dtype: Any, *, writes: bool) -> Measured:
    """The time in which as many bytes in as many leaves are read and, where it writes, changed.

    They are read to be added up, and then read and written to change all bits in place.
    """
    shape = (tree.size * jnp.dtype(dtype).itemsize // 4,)
    numbers = [jnp.ones(shape) for _ in range(tree.count)]
    added = jax.jit(lambda leaves: sum(jnp.sum(x) for x in leaves))
    read = Call(added, lambda: (numbers,))
    if not writes:
        return read
    given = [jnp.ones(shape, jnp.uint32) for _ in range(tree.count)]
    changed = jax.jit(lambda leaves: [~x for x in leaves], donate_argnums=0)
    both = Call(changed, lambda: (copied(given),))
    return lambda: read() + both()


def _vmapped(tree: Leaves, runs: int) -> Case:
    def over_runs(clipper: optax.GradientTransformation, given: Any) -> Measured:
        mapped = optax.GradientTransformation(jax.vmap(clipper.init), jax.vmap(clipper.update))
        return clipped(mapped, given)

    def make() -> Mapping[str, Measured]:
        given = jax.tree.map(lambda x: jnp.stack([x * (1 + i) for i in range(runs)]), tree.normal())
        return {
            OURS: over_runs(clipax.global_norm(3 * tree.norm), given),
            "optax": over_runs(optax.clip_by_global_norm(3 * tree.norm), given),
        }

    return Case("vmap", f"global_norm, {runs} runs of {tree}", {"optax": 1.1}, make)


def _eager(tree: Leaves) -> Case:
    def uncompiled(clipper: optax.GradientTransformation, given: Any) -> Measured:
        state = clipper.init(given)
        return Call(clipper.update, lambda: (given, state))

    def make() -> Mapping[str, Measured]:
        given = tree.normal()
        return {
            OURS: uncompiled(clipax.global_norm(0.5 * tree.norm), given),
            "optax": uncompiled(optax.clip_by_global_norm(0.5 * tree.norm), given),
        }

    return Case("eager", f"global_norm, {tree}, without jit", {"optax": 1.2}, make)
