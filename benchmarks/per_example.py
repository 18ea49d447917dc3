"""Time and memory of `per_example`, over those of optax's clip of the gradients of all examples.

    python -m benchmarks.per_example

A network of two layers (64, 256, 16) on a batch of 256 examples. The two run in turns; what is
printed is the median of the ratios of their times, with quartiles, and the peak of the temporary
memory of the compiled function for the whole batch and for 8 and 64 microbatches.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import clipax
from benchmarks.step_time import ratios

BATCH = 256


def loss_fn(params, x, y):
    hidden = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return jnp.mean((hidden @ params["out"]["w"] + params["out"]["b"] - y) ** 2)


def material():
    rng = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {
        "hidden": {"w": array(64, 256), "b": array(256)},
        "out": {"w": array(256, 16), "b": array(16)},
    }
    return params, array(BATCH, 64), array(BATCH, 16)


def optax_clip(params, x, y):
    losses, gradients = jax.vmap(jax.value_and_grad(loss_fn), (None, 0, 0))(params, x, y)
    total, _ = optax.per_example_global_norm_clip(gradients, 1.0)
    return jnp.mean(losses), jax.tree.map(lambda g: g / BATCH, total)


def ours(microbatches: int):
    size = None if microbatches == 1 else BATCH // microbatches
    return clipax.per_example(loss_fn, clipax.global_norm(1.0), microbatch=size)


def main() -> None:
    given = material()
    theirs = jax.jit(optax_clip).lower(*given).compile()
    peak = theirs.memory_analysis().temp_size_in_bytes
    table = Table("per_example", "time over optax", "quartiles", "peak over optax")
    for microbatches in (1, 8, 64):
        compiled = jax.jit(ours(microbatches)).lower(*given).compile()
        low, middle, high = ratios(
            functools.partial(timed, compiled, given), functools.partial(timed, theirs, given)
        )
        share = compiled.memory_analysis().temp_size_in_bytes / peak
        label = f"{microbatches} microbatch{'es' * (microbatches > 1)}"
        table.add_row(label, f"{middle:.3f}", f"{low:.3f} to {high:.3f}", f"{share:.3f}")
    Console().print(table)


def timed(function, given) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*given))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
