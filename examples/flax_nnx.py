"""Flax NNX: a GRU learns to add the two marked ones of twelve numbers.

The clipper's state is in `nnx.Optimizer`, and goes with it through `nnx.split` and `nnx.merge`.
Run it with `python examples/flax_nnx.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import clipax

x = np.random.default_rng(0).random((200, 32, 12, 2), np.float32)
x[..., 1] = np.isin(np.arange(12), [2, 7])
y = np.sum(x[..., 0] * x[..., 1], axis=-1, keepdims=True)


@nnx.jit
def train(model, optimizer):
    graph, state = nnx.split((model, optimizer))

    def step(state, batch):
        (model, optimizer), (x, y) = nnx.merge(graph, state), batch
        loss, gradient = nnx.value_and_grad(lambda m: jnp.mean((m(x)[:, -1] - y) ** 2))(model)
        optimizer.update(model, gradient)
        return nnx.state((model, optimizer)), (loss, clipax.metrics(optimizer.opt_state))

    state, logged = jax.lax.scan(step, state, (x, y))
    nnx.update((model, optimizer), state)
    return logged


rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.RNN(nnx.GRUCell(2, 32, rngs=rngs)), nnx.Linear(32, 1, rngs=rngs))
chain = optax.chain(clipax.adaptive(multiplier=1.0, window=50, warmup=10), optax.adam(1e-2))
losses, metrics = train(model, nnx.Optimizer(model, chain, wrt=nnx.Param))
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}")
print("clipping:", *(f"{k}={v[-1]:.3g}" for k, v in metrics.items()))
