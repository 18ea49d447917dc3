"""Derivatives through ten steps of an optimizer with a clipper, as meta-learning takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from norms import enable_x64
from rows import rows

# Their thresholds are read from bins, and jump by less than the width of one.
TABLES = {"autoclip", "autoclip_per_unit"}


def trained(row, start):
    """A number that depends on the parameters after ten steps."""
    optimizer = optax.chain(row.make(), optax.adam(0.01, eps_root=1e-8))  # else NaN at zero

    def step(carry, _):
        params, state = carry
        gradient = jax.tree.map(lambda x: x**3, params)  # of the loss sum(x**4) / 4
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=10)
    weights = np.array([[0.3, -0.7], [0.2, 0.9]])
    return sum(jnp.sum(weights * x) for x in jax.tree.leaves(params))


@rows(default=["adaptive"])
def test_derivatives_through_ten_steps_are_those_of_finite_differences(row):
    with enable_x64():
        start = {"dense": {"kernel": jnp.asarray([[1.1, -0.8], [0.6, 1.4]])}}
        direction = {"dense": {"kernel": jnp.asarray([[0.5, 0.3], [-0.4, 0.2]])}}

        @jax.jit
        def derivatives(start):
            def along(t):
                return trained(row, jax.tree.map(lambda x, d: x + t * d, start, direction))

            forward = jax.jvp(along, (0.0,), (1.0,))
            reverse = jax.grad(lambda x: trained(row, x))(start)
            return *forward, optax.tree_utils.tree_vdot(reverse, direction)

        _, forward, reverse = derivatives(start)
        np.testing.assert_allclose(reverse, forward, rtol=1e-8, atol=1e-12)
        if row.name not in TABLES:
            ahead, behind = (
                derivatives(jax.tree.map(lambda x, d, h=h: x + h * d, start, direction))[0]
                for h in (1e-6, -1e-6)
            )
            np.testing.assert_allclose(forward, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-8)
        zeros = jax.tree.map(jnp.zeros_like, start)
        assert np.isfinite(derivatives(zeros)).all()
