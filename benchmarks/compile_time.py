"""Times the compilation of clippers against `optax.clip_by_global_norm`, on trees of many leaves.

`python -m benchmarks.compile_time [--repeats N]` prints, for each tree, seconds for optax and for
each clipper the median of the ratios to it. Each is traced, lowered and compiled anew, in turns.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import clipax

LAYERS = 50
LAYER = {
    "kernel": (64, 256),
    "recurrent": (64, 256),
    "bias": (256,),
    "scale": (64,),
    "shift": (64,),
    "output": (64, 64),
}
CLIPPERS = {
    "global_norm": lambda: clipax.global_norm(1.0),
    "per_layer": lambda: clipax.per_layer(1.0),
    "per_leaf": lambda: clipax.per_leaf(1.0),
    "moving_average per leaf": lambda: clipax.moving_average(measure=clipax.measures.per_leaf()),
}


def trees():
    """Gives each tree its name; all have 300 leaves."""
    recurrent = [dict(LAYER) for _ in range(LAYERS)]
    count = LAYERS * len(LAYER)
    return {
        "recurrent, float32": arrays(recurrent),
        "recurrent, bfloat16": arrays(recurrent, jnp.bfloat16),
        "300 shapes": arrays([(i + 7, 2 * i + 3) for i in range(count)]),
        "300 x 128k": arrays([(2**17,)] * count),
    }


def arrays(shapes, dtype=jnp.float32):
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, dtype),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def seconds(clipper, tree):
    state = jax.eval_shape(clipper.init, tree)
    update = jax.jit(lambda g, s: clipper.update(g, s))  # a new function: nothing of it is cached
    jax.clear_caches()
    start = time.perf_counter()
    update.lower(tree, state).compile()
    return time.perf_counter() - start


def measured(tree, repeats):
    """The seconds for optax, and the ratio to it for every clipper."""
    own, ratios = [], {name: [] for name in CLIPPERS}
    for _ in range(repeats):
        own.append(seconds(optax.clip_by_global_norm(1.0), tree))
        for name, make in CLIPPERS.items():
            ratios[name].append(seconds(make(), tree) / own[-1])
    return statistics.median(own), {name: statistics.median(r) for name, r in ratios.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    jax.config.update("jax_enable_compilation_cache", False)
    seconds(optax.clip_by_global_norm(1.0), arrays([(1,)]))  # starts the compiler
    print(f"{'tree':22}{'optax':>9}" + "".join(f"{name:>25}" for name in CLIPPERS))
    for name, tree in trees().items():
        own, ratios = measured(tree, repeats)
        print(f"{name:22}{own:8.2f}s" + "".join(f"{r:24.2f}x" for r in ratios.values()), flush=True)


if __name__ == "__main__":
    main()
