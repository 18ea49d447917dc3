"""Equinox: a network fits a wave through outliers, its first layer frozen.

What is frozen, or no array at all, is `None` in the filtered tree: it counts in no norm.
Run it with `python examples/equinox_filtered.py`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import clipax

rng = np.random.default_rng(0)
x = np.float32(rng.uniform(-3.0, 3.0, (256, 1)))
y = np.float32(np.sin(2.0 * x) + 0.05 * rng.standard_t(2.0, x.shape))

model = eqx.nn.MLP(1, 1, 64, 2, activation=jnp.tanh, key=jax.random.key(0))
trains = eqx.tree_at(lambda m: m.layers[0], jax.tree.map(eqx.is_inexact_array, model), False)
params, frozen = eqx.partition(model, trains)
optimizer = optax.chain(clipax.per_layer(0.5), optax.adam(1e-2))


@eqx.filter_jit
def step(params, state):
    def loss_fn(params):
        return jnp.mean((jax.vmap(eqx.combine(params, frozen))(x) - y) ** 2)

    loss, gradient = eqx.filter_value_and_grad(loss_fn)(params)
    updates, state = optimizer.update(gradient, state, params)
    return eqx.apply_updates(params, updates), state, loss


params, state, first = step(params, optimizer.init(params))
for _ in range(300):
    params, state, loss = step(params, state)
print(f"loss {first:.4f} -> {loss:.4f}")
print("clipping:", *(f"{k}={v:.3g}" for k, v in clipax.metrics(state).items()))
