"""TensorBoard: the loss, the clipping and the norms of every layer, written by tensorboardX.

Run it with `python examples/tensorboard_logging.py FOLDER && tensorboard --logdir FOLDER`.
"""

import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorboardX

import clipax

x = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
y = np.sin(x.sum(axis=1))
keys = jax.random.split(jax.random.key(0))
params = {"in": {"w": jax.random.normal(keys[0], (4, 64)) / 2}, "out": {"w": jnp.zeros(64)}}
optimizer = optax.chain(clipax.monitor(), clipax.global_norm(0.5), optax.adam(1e-2))
state, losses = optimizer.init(params), []


@jax.jit
def step(params, state):
    loss, gradient = jax.value_and_grad(
        lambda params: jnp.mean((jnp.tanh(x @ params["in"]["w"]) @ params["out"]["w"] - y) ** 2)
    )(params)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss


with tensorboardX.SummaryWriter(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp()) as writer:
    for i in range(100):
        params, state, loss = step(params, state)
        losses.append(loss)
        for key, value in {"loss": loss, **clipax.metrics(state)}.items():
            writer.add_scalar(key, float(value), i)
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, written to {writer.logdir}")
