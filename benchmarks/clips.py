"""Suites `clip`, `vmap` and `eager`: a gradient is clipped, and nothing else."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import clipax
from benchmarks.cases import OURS, Case
from benchmarks.timing import Call, Timed
from benchmarks.trees import Leaves, copied
from benchmarks.workers import of_package

SIDES = {"above": 0.5, "below": 2.0}  # threshold over the norm
LARGE = 4 * 2**20  # bytes above which memory is the limit
TREES = (Leaves(1, 2**24), Leaves(16, 2**20), Leaves(200, 2**16), Leaves(1000, 2**10))
SMALL = (Leaves(1, 2**20), Leaves(200, 2**10))


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
    wide = jnp.dtype(dtype).itemsize == 4
    many = tree.count >= 1000
    goals: dict[str, float | None] = {"optax": 0.8 if many else 1.05 if wide else 0.5}
    if tree.entries * jnp.dtype(dtype).itemsize > LARGE:
        goals["limit"] = 1.3
    if apart:
        goals |= {name: 0.9 for name in ("torch", "torch, foreach=False")}
        goals |= {"tensorflow": None} if wide else {}
    max_norm = SIDES[side] * tree.entries**0.5

    def make() -> Mapping[str, Timed]:
        given = tree.normal(dtype)
        found = {OURS: clipped(clipax.global_norm(max_norm), given)}
        found["optax"] = clipped(optax.clip_by_global_norm(max_norm), given)
        if "limit" in goals:
            found["limit"] = limit(given, passes=3 if side == "above" else 1)
        return found | (others() if apart else {})

    def others() -> dict[str, Timed]:
        shape = {"count": tree.count, "size": tree.size, "max_norm": max_norm}
        found: dict[str, Timed] = {}
        name = jnp.dtype(dtype).name
        for foreach in (None, False):
            peer = "torch" if foreach is None else "torch, foreach=False"
            found |= of_package("torch").make(
                peer, "benchmarks.others:torch_clip", **shape, dtype=name, foreach=foreach
            )
        if wide:
            factory = "benchmarks.others:tensorflow_clip"
            found |= of_package("tensorflow").make("tensorflow", factory, **shape)
        return found

    return Case("clip", f"global_norm, {jnp.dtype(dtype).name}, {tree}, {side}", goals, make)


def clipped(clipper: optax.GradientTransformation, given: Any) -> Timed:
    """One update of a compiled clipper, of a gradient that it may overwrite."""
    state = clipper.init(given)
    update = jax.jit(lambda g, s: clipper.update(g, s), donate_argnums=(0, 1), keep_unused=True)
    return Call(update, lambda: (copied(given), copied(state)))


def limit(given: Any, passes: int) -> Timed:
    """The time of so many passes over a gradient, by that of a change of all signs in place."""
    change = jax.jit(functools.partial(jax.tree.map, jnp.negative), donate_argnums=0)
    two = Call(change, lambda: (copied(given),))
    return lambda: two() * passes / 2


def _vmapped(tree: Leaves, runs: int) -> Case:
    def make() -> Mapping[str, Timed]:
        given = jax.tree.map(lambda x: jnp.stack([x * (1 + i) for i in range(runs)]), tree.normal())
        max_norm = 3 * tree.entries**0.5
        return {
            OURS: _over_runs(clipax.global_norm(max_norm), given),
            "optax": _over_runs(optax.clip_by_global_norm(max_norm), given),
        }

    return Case("vmap", f"global_norm, {runs} runs of {tree}", {"optax": 1.1}, make)


def _over_runs(clipper: optax.GradientTransformation, given: Any) -> Timed:
    state = jax.vmap(clipper.init)(given)
    update = jax.jit(jax.vmap(lambda g, s: clipper.update(g, s)), donate_argnums=(0, 1))
    return Call(update, lambda: (copied(given), copied(state)))


def _eager(tree: Leaves) -> Case:
    def make() -> Mapping[str, Timed]:
        given, max_norm = tree.normal(), 0.5 * tree.entries**0.5
        return {
            OURS: _uncompiled(clipax.global_norm(max_norm), given),
            "optax": _uncompiled(optax.clip_by_global_norm(max_norm), given),
        }

    return Case("eager", f"global_norm, {tree}, without jit", {"optax": 1.2}, make)


def _uncompiled(clipper: optax.GradientTransformation, given: Any) -> Timed:
    state = clipper.init(given)
    update: Callable[..., Any] = clipper.update
    return Call(update, lambda: (given, state))
