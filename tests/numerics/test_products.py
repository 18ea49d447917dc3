"""What a group is multiplied by: factors that a dtype cannot hold, many small leaves at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipax
from clipax import measures

EPS = float(jnp.finfo(jnp.float32).eps)


def test_factor_below_the_smallest_normal_number_is_no_zero():
    gradient = np.float32([3e36, -4e36])
    result, _ = jax.jit(lambda g: clipax.clip(g, clipax.global_norm(5e-5)))(gradient)
    np.testing.assert_allclose(result, [3e-5, -4e-5], rtol=4 * EPS)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bit_entries_are_multiplied_in_float32(dtype):
    gradient = np.arange(1, 100).astype(dtype)
    result, metrics = jax.jit(lambda g: clipax.clip(g, clipax.global_norm(7.0)))(gradient)
    expected = (np.float32(gradient) * np.asarray(metrics["factor"])).astype(dtype)
    np.testing.assert_array_equal(result, expected)


def test_large_leaf_between_small_ones_keeps_its_place():
    """Small ones are worked on together, see `_together`."""
    rng = np.random.default_rng(0)
    gradient = [rng.normal(size=size).astype(np.float32) for size in (3, 300, 4)]
    clipper = clipax.clip_by(measures.per_element(), 0.5)
    result = jax.jit(lambda g: clipax.clip(g, clipper)[0])(gradient)
    for before, after in zip(gradient, result, strict=True):
        np.testing.assert_allclose(after, np.clip(before, -0.5, 0.5), rtol=4 * EPS)
