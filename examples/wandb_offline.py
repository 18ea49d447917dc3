"""Weights & Biases, offline: what a clipper makes of a batch of outliers now and then.

Run it with `python examples/wandb_offline.py FOLDER && wandb sync FOLDER/wandb/offline-run-*`.
"""

import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import wandb

import clipax

x = np.random.default_rng(0).normal(size=(200, 32, 8)).astype(np.float32)
y = x @ np.arange(8, dtype=np.float32)
y[40::40] *= 1000.0
optimizer = optax.chain(clipax.median(), optax.sgd(0.05))
params = jnp.zeros(8)
state, losses = optimizer.init(params), []


@jax.jit
def step(params, state, x, y):
    loss, gradient = jax.value_and_grad(lambda w: jnp.mean((x @ w - y) ** 2))(params)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss


with wandb.init(mode="offline", dir=sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp()) as run:
    for batch in zip(x, y, strict=True):
        params, state, loss = step(params, state, *batch)
        losses.append(loss)
        run.log({"loss": loss, **{f"clipping/{k}": v for k, v in clipax.metrics(state).items()}})
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, written to {run.dir}")
