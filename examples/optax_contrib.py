"""optax: where a clipper goes with Muon, schedule-free training and accumulated gradients.

Run it with `python examples/optax_contrib.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import clipax

x = np.random.default_rng(0).normal(size=(200, 64, 4)).astype(np.float32)
y = np.sin(x.sum(axis=-1, keepdims=True))
keys = jax.random.split(jax.random.key(0))
start = jax.random.normal(keys[0], (4, 64)) / 2, jax.random.normal(keys[1], (64, 1)) / 8
clipper = clipax.global_norm(1.0)
optimizers = {
    "muon": optax.chain(clipper, optax.contrib.muon(0.02)),
    "schedule_free": optax.contrib.schedule_free(optax.chain(clipper, optax.sgd(0.5)), 0.5),
    "MultiSteps": optax.MultiSteps(optax.chain(clipper, optax.adam(0.02)), every_k_schedule=4),
}


def trained(optimizer):
    def step(carry, batch):
        (params, state), (x, y) = carry, batch
        loss, gradient = jax.value_and_grad(
            lambda params: jnp.mean((jnp.tanh(x @ params[0]) @ params[1] - y) ** 2)
        )(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    return jax.lax.scan(step, (start, optimizer.init(start)), (x, y))


for name, optimizer in optimizers.items():
    (_, state), losses = trained(optimizer)
    print(f"{name}: loss {losses[0]:.4f} -> {losses[-1]:.4f}")
    print("clipping:", *(f"{k}={v:.3g}" for k, v in clipax.metrics(state).items()))
