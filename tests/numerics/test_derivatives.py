"""The derivatives of the measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import plain
from jax.flatten_util import ravel_pytree
from norms import EPS, MEASURES, NORMS, enable_x64

from clipax import measures

SMOOTH = {**NORMS, "l1.5": (measures.lp(1.5), 1.5)}


@pytest.mark.parametrize("norm", list(SMOOTH))
@pytest.mark.parametrize("groups", list(MEASURES))
def test_derivative_is_that_of_the_formula_and_finite_at_zero(groups, norm):
    with enable_x64():
        measure = MEASURES[groups](SMOOTH[norm][0])
        rng = np.random.default_rng(1)
        tree = {"a": {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}, "cc": np.float64(0.7)}
        entries, unravel = ravel_pytree(tree)

        @jax.jit
        def total(x):
            values = ravel_pytree(measure.norms(unravel(x)).values)[0]
            return jnp.arange(1.0, values.size + 1) @ values

        slope = jax.jit(jax.value_and_grad(total))
        points = entries + 1e-6 * np.concatenate([np.eye(entries.size), -np.eye(entries.size)])
        above, below = np.split(np.asarray(jax.jit(jax.vmap(total))(points)), 2)
        np.testing.assert_allclose(slope(entries)[1], (above - below) / 2e-6, rtol=1e-5, atol=1e-8)
        value, at_zero = slope(jnp.zeros_like(entries))
        assert value == 0 and np.isfinite(at_zero).all()
        for scale in (1e-150, 1e150):  # the slope of a norm does not depend on the scale
            np.testing.assert_allclose(slope(entries * scale)[1], slope(entries)[1], rtol=1e-9)


@pytest.mark.parametrize("norm", list(SMOOTH))
@pytest.mark.parametrize("size", [3, 100])
def test_derivative_does_not_depend_on_the_scale(norm, size):
    measure = measures.per_leaf(SMOOTH[norm][0])
    slope = jax.jit(jax.grad(lambda x: measure.norms([x]).values[0]))
    entries = jnp.asarray(np.random.default_rng(0).normal(size=size), jnp.float32).at[0].set(0)
    entries = entries / jnp.max(abs(entries))
    usual = slope(entries)
    assert np.any(usual)
    for scale in (1e-35, 1e-30, 1e-12, 1e12, 1e30, 1e36, 2.0**120):
        found = slope(entries * scale)
        np.testing.assert_allclose(found, usual, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", list(SMOOTH))
def test_derivative_near_the_largest_number_is_right(norm):
    """A quotient by a number above 2^126 must not be formed with its reciprocal."""
    measure = measures.per_unit(SMOOTH[norm][0])
    for shape in ((2, 1), (2, 300)):
        base = jnp.broadcast_to(jnp.asarray([[1.0], [0.5]]), shape)
        values, slope = (
            jax.jit(lambda x: measure.norms([x]).values[0]),
            jax.jit(jax.grad(lambda x: measure.norms([x]).values[0].sum())),
        )
        np.testing.assert_allclose(values(base * 2e38), values(base) * 2e38, rtol=8 * EPS)
        np.testing.assert_allclose(slope(base * 2e38), slope(base), rtol=1e-5)


@pytest.mark.parametrize("norm", list(SMOOTH))
def test_derivative_forward_equals_backward(norm):
    measure = measures.per_layer(SMOOTH[norm][0])
    gradient, direction = plain(1), plain(2)

    def values(tree):
        return measure.norms(tree).values

    forward = jax.jit(lambda: jax.jvp(values, (gradient,), (direction,))[1])()
    jacobian = jax.jit(lambda: jax.jacrev(values)(gradient))()
    products = jax.tree.map(lambda j, d: j.reshape(j.shape[0], -1) @ d.ravel(), jacobian, direction)
    np.testing.assert_allclose(forward, sum(jax.tree.leaves(products)), rtol=1e-5)


def test_derivative_of_a_complex_leaf_is_that_of_its_modulus():
    tree = [jnp.asarray([3 + 4j, 0, 12j], jnp.complex64)]
    slope = jax.grad(lambda x: measures.per_leaf().norms(x).values[0])(tree)[0]
    np.testing.assert_allclose(slope, np.conj(tree[0]) / 13, rtol=1e-6)
    zero = jax.grad(lambda x: measures.per_leaf().norms(x).values[0])([tree[0] * 0])[0]
    assert np.isfinite(zero).all()
