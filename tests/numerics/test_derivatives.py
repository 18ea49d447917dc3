"""The derivatives of the measures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from methods_page import QUICK
from norms import EPS, MEASURES, NORMS, enable_x64
from rows import sampled
from trees import plain

from clipax import measures

SMOOTH = {**NORMS, "l1.5": (measures.lp(1.5), 1.5)}


@sampled(
    ("groups", "norm"),
    {f"{groups}-{norm}": (groups, norm) for groups in MEASURES for norm in SMOOTH},
    [
        *(f"tree-{norm}" for norm in SMOOTH),
        *(f"{groups}-l2" for groups in ("unit", "layer", "label", "element")),
    ],
)
def test_derivative_is_that_of_the_formula_and_finite_at_zero(groups, norm):
    with enable_x64():
        measure = MEASURES[groups](SMOOTH[norm][0])
        rng = np.random.default_rng(1)
        tree = {"a": {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}, "cc": np.float64(0.7)}
        entries, unravel = ravel_pytree(tree)

        def total(x):
            values = ravel_pytree(measure.norms(unravel(x)).values)[0]
            return jnp.arange(1.0, values.size + 1) @ values

        slope = jax.jit(jax.value_and_grad(total), compiler_options=QUICK)
        points = entries + 1e-6 * np.concatenate([np.eye(entries.size), -np.eye(entries.size)])
        above, below = np.split(np.array([slope(point)[0] for point in points]), 2)
        np.testing.assert_allclose(slope(entries)[1], (above - below) / 2e-6, rtol=1e-5, atol=1e-8)
        value, at_zero = slope(jnp.zeros_like(entries))
        assert value == 0 and np.isfinite(at_zero).all()
        for scale in (1e-150, 1e150):  # the slope of a norm does not depend on the scale
            np.testing.assert_allclose(slope(entries * scale)[1], slope(entries)[1], rtol=1e-9)


@sampled(
    ("norm", "size"),
    {f"{norm}-{size}": (norm, size) for norm in SMOOTH for size in (3, 100)},
    [*(f"{norm}-100" for norm in ("l2", "linf", "l3", "rms")), "l2-3"],
)
def test_derivative_does_not_depend_on_the_scale(norm, size):
    measure = measures.per_leaf(SMOOTH[norm][0])
    slope = jax.jit(jax.grad(lambda x: measure.norms([x]).values[0]))
    entries = np.random.default_rng(0).normal(size=size).astype(np.float32)
    entries[0] = 0
    entries = entries / np.max(abs(entries))
    usual = slope(entries)
    assert np.any(usual)
    for scale in (1e-35, 1e-30, 1e-12, 1e12, 1e30, 1e36, 2.0**120):
        found = slope(entries * np.float32(scale))
        np.testing.assert_allclose(found, usual, rtol=1e-5, atol=1e-6)


@sampled(
    ("norm", "shape"),
    {f"{norm}-{n}": (norm, (2, n)) for norm in SMOOTH for n in (1, 300)},
    [*(f"{norm}-300" for norm in ("l2", "l1.5", "linf")), "l2-1"],
)
def test_derivative_near_the_largest_number_is_right(norm, shape):
    """A quotient by a number above 2^126 must not be formed with its reciprocal."""
    measure = measures.per_unit(SMOOTH[norm][0])
    base = np.broadcast_to(np.float32([[1.0], [0.5]]), shape)
    large = np.float32(2e38)

    @jax.jit
    def both(x):
        values, pulled = jax.vjp(lambda x: measure.norms([x]).values[0], x)
        return values, pulled(jnp.ones_like(values))[0]

    (values, slope), (usual, usual_slope) = both(base * large), both(base)
    np.testing.assert_allclose(values, usual * large, rtol=8 * EPS)
    np.testing.assert_allclose(slope, usual_slope, rtol=1e-5)


@sampled("norm", dict(zip(SMOOTH, SMOOTH, strict=True)), ["l3"])
def test_derivative_forward_equals_backward(norm):
    measure = measures.per_layer(SMOOTH[norm][0])
    gradient, direction = plain(1), plain(2)

    def values(tree):
        return measure.norms(tree).values

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(gradient, direction):
        forward = jax.jvp(values, (gradient,), (direction,))[1]
        return forward, jax.jacrev(values)(gradient)

    forward, jacobian = both(gradient, direction)
    products = jax.tree.map(lambda j, d: j.reshape(j.shape[0], -1) @ d.ravel(), jacobian, direction)
    np.testing.assert_allclose(forward, sum(jax.tree.leaves(products)), rtol=1e-5)


def test_derivative_of_a_complex_leaf_is_that_of_its_modulus():
    tree = [jnp.asarray([3 + 4j, 0, 12j], jnp.complex64)]
    slope = jax.grad(lambda x: measures.per_leaf().norms(x).values[0])(tree)[0]
    np.testing.assert_allclose(slope, np.conj(tree[0]) / 13, rtol=1e-6)
    zero = jax.grad(lambda x: measures.per_leaf().norms(x).values[0])([tree[0] * 0])[0]
    assert np.isfinite(zero).all()
