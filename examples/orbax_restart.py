"""Orbax: training that is saved, restored and continued ends as if it had not been interrupted.

The norms that an adaptive threshold remembers are in the optimizer's state, and saved with it.
Run it with `python examples/orbax_restart.py [FOLDER]`.
"""

import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

import clipax

x = jax.random.normal(jax.random.key(0), (100, 32, 8))
y = x @ jnp.arange(8.0)
optimizer = optax.chain(clipax.adaptive(multiplier=1.0, window=50, warmup=10), optax.sgd(0.02))
start = jnp.zeros(8), optimizer.init(jnp.zeros(8))


def step(carry, batch):
    (params, state), (x, y) = carry, batch
    loss, gradient = jax.value_and_grad(lambda w: jnp.mean((x @ w - y) ** 2))(params)
    updates, state = optimizer.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), loss


whole, losses = jax.lax.scan(step, start, (x, y))
half, _ = jax.lax.scan(step, start, (x[:50], y[:50]))
folder = pathlib.Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp())
with ocp.CheckpointManager(folder.absolute()) as manager:
    manager.save(50, args=ocp.args.StandardSave(half))
    restored = manager.restore(50, args=ocp.args.StandardRestore(start))
resumed, _ = jax.lax.scan(step, restored, (x[50:], y[50:]))
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}")
print("clipping:", *(f"{k}={v:.3g}" for k, v in clipax.metrics(resumed).items()))
print("same as uninterrupted:", jax.tree.all(jax.tree.map(jnp.array_equal, resumed, whole)))
