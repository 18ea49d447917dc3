"""jmp: training in float16. Unscale, then clip; a step that overflows leaves no trace.

Run it with `python examples/jmp_float16.py`.
"""

import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax

import clipax

x = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float16)
y = np.sin(x.sum(axis=1, dtype=np.float32))
keys = jax.random.split(jax.random.key(0))
params = jax.random.normal(keys[0], (4, 64)) / 2, jax.random.normal(keys[1], (64,)) / 8
optimizer = optax.chain(clipax.zclip(warmup=10), optax.adam(1e-2))


@jax.jit
def step(scale, params, state):
    def scaled_loss(params):
        hidden, out = jmp.cast_to_half(params)
        predicted = jnp.tanh(x @ hidden) @ out
        return scale.scale(jnp.mean((jmp.cast_to_full(predicted) - y) ** 2))

    loss, gradient = scale.unscale(jax.value_and_grad(scaled_loss)(params))
    finite = jmp.all_finite(gradient)
    updates, new_state = optimizer.update(gradient, state, params)
    new = optax.apply_updates(params, updates), new_state
    return scale.adjust(finite), *jmp.select_tree(finite, new, (params, state)), loss


scale, state, losses = jmp.DynamicLossScale(jnp.float32(2**24)), optimizer.init(params), []
for _ in range(200):
    scale, params, state, loss = step(scale, params, state)
    losses.append(loss)
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, scale {scale.loss_scale:.0f}")
print("clipping:", *(f"{k}={v:.3g}" for k, v in clipax.metrics(state).items()))
