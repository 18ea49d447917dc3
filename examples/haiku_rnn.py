"""Haiku: a GRU learns the characters of this file by heart.

Run it with `python examples/haiku_rnn.py`.
"""

import pathlib

import haiku as hk
import jax
import numpy as np
import optax

import clipax

text = np.frombuffer(pathlib.Path(__file__).read_bytes(), np.uint8)
text = text[: len(text) // 32 * 32].reshape(32, -1).T  # time first


@hk.transform
def loss_fn():
    core = hk.GRU(64)
    hidden, _ = hk.dynamic_unroll(core, jax.nn.one_hot(text[:-1], 128), core.initial_state(32))
    logits = hk.Linear(128)(hidden)
    return optax.softmax_cross_entropy_with_integer_labels(logits, text[1:]).mean()


@jax.jit
def step(params, state):
    loss, gradient = jax.value_and_grad(loss_fn.apply)(params, None)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss


optimizer = optax.chain(clipax.moving_average(warmup=10, initial=1.0), optax.adam(2e-2))
params = jax.jit(loss_fn.init)(jax.random.key(0))
params, state, first = step(params, optimizer.init(params))
for _ in range(80):
    params, state, loss = step(params, state)
print(f"loss {first:.4f} -> {loss:.4f}")
print("clipping:", *(f"{k}={v:.3g}" for k, v in clipax.metrics(state).items()))
