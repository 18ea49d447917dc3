"""What wraps an optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rows import sampled
from updates import steps

import clipax


def test_moments_are_forgotten_and_counters_go_on():
    optimizer = clipax.momentum_reset(optax.scale_by_adam(), 3, warmup=0)
    _, state = steps(optimizer, [jnp.full(2, 4.0)] * 3)
    assert int(state.inner.count) == 3
    np.testing.assert_allclose(state.inner.mu, 0.1 * 4, rtol=1e-5)
    np.testing.assert_allclose(state.inner.nu, 0.001 * 16, rtol=1e-4)


MAKE = {"olmo": clipax.olmo, "adaptive": clipax.adaptive, "zclip": clipax.zclip}


@sampled("make", MAKE, ("olmo", "adaptive"))
def test_clipper_in_the_optimizer_keeps_what_it_has_learned(make):
    """Half of its state anew, without its counters, would be a state that it cannot leave."""
    gradients = [jnp.full(1, float(5 + i % 2)) for i in range(40)]
    inside = clipax.momentum_reset(optax.chain(make(), optax.identity()), 20, warmup=0)
    alone, expected = steps(make(), gradients)
    found, state = steps(inside, gradients)
    np.testing.assert_array_equal(found, alone)
    jax.tree.map(np.testing.assert_array_equal, state.inner[0], expected)


def test_parameters_may_have_another_dtype_than_the_gradient():
    optimizer = clipax.momentum_reset(optax.trace(0.9), 2, warmup=1)
    params = jnp.ones(2, jnp.bfloat16)
    found, _ = steps(optimizer, [params] * 3, params)
    assert all(x.dtype == jnp.bfloat16 for x in found)
    state = optimizer.init(params)
    for _ in range(3):
        found, state = optimizer.update(jnp.ones(2), state, params)
    assert found.dtype == jnp.float32


def test_updates_after_a_reset_grow_back():
    optimizer = clipax.momentum_reset(optax.identity(), 10, warmup=4)
    found, _ = steps(optimizer, [jnp.ones(())] * 20)
    share = 1 - 0.495 * (1 + np.cos(np.pi * np.arange(4) / 5))
    expected = np.concatenate([np.ones(9), share, np.ones(6), share[:1]])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
