"""Flax Linen: a network tells two spirals apart, with a clipper in the `tx` of its `TrainState`.

Run it with `python examples/flax_linen.py`.
"""

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.training.train_state import TrainState

import clipax

angle = np.linspace(0.5, 9.0, 200, dtype=np.float32)
spiral = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1) / 9
x, y = np.concatenate([spiral, -spiral]), np.repeat([0, 1], 200)

model = nn.Sequential([nn.Dense(64), nn.gelu, nn.Dense(64), nn.gelu, nn.Dense(2)])
state = TrainState.create(
    apply_fn=model.apply,
    params=jax.jit(model.init)(jax.random.key(0), x),
    tx=optax.chain(clipax.agc(0.1), optax.adam(1e-2)),
)


@jax.jit
def step(state):
    def loss_fn(params):
        logits = state.apply_fn(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, gradient = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=gradient), loss


state, first = step(state)
for _ in range(200):
    state, loss = step(state)
print(f"loss {first:.4f} -> {loss:.4f}")
print("clipping:", *(f"{k}={v:.3g}" for k, v in clipax.metrics(state.opt_state).items()))
