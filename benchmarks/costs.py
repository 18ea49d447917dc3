"""Suite `costs`: what is read from compiled programs, the same at every run."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import clipax
from benchmarks import clips, programs
from benchmarks.cases import OURS, Case
from benchmarks.methods import METHODS, Make
from benchmarks.steps import behind
from benchmarks.timing import Measured
from benchmarks.trees import Leaves
from benchmarks.workers import of_devices

TREE = Leaves(16, 2**16, columns=256)
COUNTED = ("global_norm", "adaptive", "per_leaf", "value")


def cases(*, quick: bool) -> Iterator[Case]:
    del quick
    for dtype in (jnp.float32, jnp.bfloat16):
        yield _temporary(dtype)
    yield _flops()
    for name in COUNTED:
        yield _compilations(name)
    yield _collectives()


def _temporary(dtype: Any) -> Case:
    def bytes_of(clipper: optax.GradientTransformation) -> float:
        analysis: Any = _compiled(clipper, dtype).memory_analysis()
        return float(analysis.temp_size_in_bytes)

    def make() -> Mapping[str, Measured]:
        return {
            OURS: lambda: bytes_of(clipax.global_norm(1.0)),
            "optax": lambda: bytes_of(optax.clip_by_global_norm(1.0)),
            "one leaf": lambda: float(TREE.size * jnp.dtype(dtype).itemsize),
        }

    work = f"temporary memory, global_norm, {jnp.dtype(dtype).name}, {TREE}"
    # Compilers of older jax spread the scalars of the fallback over arrays in memory.
    goal = 0.1 if jax.__version_info__ >= (0, 12) else None
    return Case("costs", work, {"one leaf": goal, "optax": None}, make, unit="bytes")


def _flops() -> Case:
    def flops(clipper: optax.GradientTransformation) -> float:
        return float(programs.costs(_compiled(clipper, jnp.float32))[0]["flops"])

    def make() -> Mapping[str, Measured]:
        return {
            OURS: lambda: flops(clipax.global_norm(1.0)),
            "optax": lambda: flops(optax.clip_by_global_norm(1.0)),
            "5 an entry": lambda: 5.0 * TREE.entries,
        }

    goals = {"5 an entry": 1.001, "optax": None}
    return Case("costs", f"flops, global_norm, {TREE}", goals, make, unit="flops")


def _compiled(clipper: optax.GradientTransformation, dtype: Any) -> jax.stages.Compiled:
    tree = TREE.described(dtype)
    return clips.compiled(clipper).lower(tree, jax.eval_shape(clipper.init, tree)).compile()


def _compilations(name: str) -> Case:
    """Compilations of a step in five steps, whose norms differ."""

    def made() -> float:
        return _compiled_in_steps(METHODS[name], steps=5)

    work = f"compilations in 5 steps, {name} and Adam"
    return Case("costs", work, {"one": 1.0}, lambda: {OURS: made, "one": lambda: 1.0}, unit="times")


def _compiled_in_steps(make: Make, steps: int) -> float:
    optimizer = behind(make())
    params = Leaves(2, 2**10, columns=32).normal()
    state = optimizer.init(params)
    step: Any = jax.jit(lambda gradient, state: optimizer.update(gradient, state, params)[1])

    for i in range(steps):
        state = step(jax.tree.map(lambda x, i=i: x * 10.0**i, params), state)
    return float(step._cache_size())


def _collectives() -> Case:
    def make() -> Mapping[str, Measured]:
        factory = "benchmarks.costs:all_reduced"
        ours, theirs = of_devices(8, OURS), of_devices(8, "optax")
        found = ours.make(OURS, factory, ours=True)
        return found | theirs.make("optax", factory, ours=False)

    work = f"bytes that devices reduce, global_norm and Adam, {TREE} on 8 devices"
    return Case("costs", work, {"optax": 1.0}, make, unit="bytes")


def all_reduced(ours: bool) -> Measured:
    """The number of bytes that are put into collectives on the usual path, under FSDP."""
    clipper = clipax.global_norm(1.0) if ours else optax.clip_by_global_norm(1.0)
    mesh = jax.make_mesh((jax.device_count(),), ("devices",))
    params = programs.spread(TREE.described(), mesh)
    usual, _ = programs.costs(programs.compiled_step(behind(clipper), params))
    return lambda: float(usual["collective bytes"])
