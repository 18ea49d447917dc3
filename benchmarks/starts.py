"""Suites `compile` and `import`: what is paid once."""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.cases import OURS, Case
from benchmarks.methods import contestants
from benchmarks.timing import Measured
from benchmarks.trees import Leaves, described

LAYER = {
    "kernel": (64, 256),
    "recurrent": (64, 256),
    "bias": (256,),
    "scale": (64,),
    "shift": (64,),
    "output": (64, 64),
}
COMPILED = ("global_norm", "per_layer", "per_leaf", "moving_average, per leaf")
ADAPTIVE_GOAL, NARROW_GOAL = 4.0, 0.5
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
MORE = 0.010  # seconds that `import clipax` may take over `import optax`


def cases(*, quick: bool) -> Iterator[Case]:
    trees = _trees(layers=2 if quick else 50)
    for name, tree in list(trees.items())[: 1 if quick else None]:
        for clipper in COMPILED:
            goal = ADAPTIVE_GOAL if clipper == "moving_average, per leaf" else None
            yield compiled(clipper, name, tree, goal)
    many = Leaves(20 if quick else 1000, 2**10)
    narrow = many.described(jnp.bfloat16)
    yield compiled("global_norm", f"bfloat16, {many}", narrow, NARROW_GOAL)
    yield compiled("agc", *_dense(layers=2 if quick else 100), peer="optax same")
    yield _imported()


def _trees(layers: int) -> dict[str, Any]:
    recurrent = [dict(LAYER) for _ in range(layers)]
    count = layers * len(LAYER)
    return {
        f"float32, {count} leaves of {layers} layers": described(recurrent, jnp.float32),
        f"bfloat16, {count} leaves of {layers} layers": described(recurrent, jnp.bfloat16),
        f"float32, {count} shapes": described(
            [(i + 7, 2 * i + 3) for i in range(count)], jnp.float32
        ),
    }


def _dense(layers: int) -> tuple[str, Any]:
    """Kernels and biases of layers that all have other widths."""
    shapes = [{"kernel": (32 + i, 16 + i), "bias": (16 + i,)} for i in range(layers)]
    return f"float32, {layers} layers of other widths", described(shapes)


def compiled(
    clipper: str, name: str, tree: Any, goal: float | None = None, peer: str = "optax global"
) -> Case:
    """An update is traced, lowered and compiled anew."""

    def make() -> Mapping[str, Measured]:
        built = {who: contestants(clipper)[who]() for who in (OURS, peer)}
        for each in built.values():  # the first use of each
            seconds(each, {"layer": [jax.ShapeDtypeStruct((1,), jnp.float32)]})
        return {who: functools.partial(seconds, each, tree) for who, each in built.items()}

    return Case("compile", f"{clipper}, {name}", {peer: goal}, make, rounds=2)


def seconds(clipper: optax.GradientTransformation, tree: Any) -> float:
    """The time of one compilation."""
    state = jax.eval_shape(clipper.init, tree)
    update = jax.jit(lambda *given: clipper.update(*given))  # new: nothing of it is cached
    jax.clear_caches()
    begin = time.perf_counter()
    update.lower(tree, state, tree).compile()
    return time.perf_counter() - begin


def _imported() -> Case:
    def make() -> Mapping[str, Measured]:
        _in_new_process("import clipax")  # what is compiled then is kept
        return {
            OURS: lambda: _in_new_process("import clipax"),
            "optax + 10 ms": lambda: MORE + _in_new_process("import optax"),
        }

    return Case("import", "import clipax", {"optax + 10 ms": 1.0}, make, rounds=20)


def _in_new_process(code: str) -> float:
    timed = f"import time; b = time.perf_counter(); {code}; print(time.perf_counter() - b)"
    kept = {name: value for name, value in os.environ.items() if name != _NO_BYTECODE}
    command = [sys.executable, "-c", timed]
    done = subprocess.run(command, capture_output=True, env=kept, text=True)
    if done.returncode:
        raise RuntimeError(f"{code} failed: {done.stderr}")
    return float(done.stdout)
