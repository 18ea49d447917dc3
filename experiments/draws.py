"""Random choices out of uniform numbers."""

import jax
import jax.numpy as jnp


def below(limit: jax.Array | int, chances: jax.Array) -> jax.Array:
    """Whole numbers from 0 to `limit` - 1 out of uniform numbers."""
    return jnp.floor(limit * chances).astype(jnp.int32)
