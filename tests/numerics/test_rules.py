"""The rules alone: their edge cases, bounds and derivatives."""

from typing import Any

import jax
import jax.experimental as jax_experimental
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clipax import rules

RULES = {
    "rescale": rules.rescale,
    "normalize": rules.normalize,
    "smooth": rules.smooth,
    "skip": rules.skip,
}
_holder: Any = jax if hasattr(jax, "enable_x64") else jax_experimental
enable_x64 = _holder.enable_x64
every = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
jitted = {rule: jax.jit(rule) for rule in RULES.values()}

TINY, LARGEST = (float(x) for x in (jnp.finfo(jnp.float32).tiny, jnp.finfo(jnp.float32).max))
EPS = float(jnp.finfo(jnp.float32).eps)
SIZE = 64
normal = st.floats(TINY, LARGEST, width=32, allow_subnormal=False)
vectors = hnp.arrays(np.float32, SIZE, elements=normal)
pairs = given(norm=vectors, threshold=vectors)


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def log_uniform(seed, size, low=-37.9, high=38.5):
    """Positive float32 numbers of every magnitude."""
    exponents = np.random.default_rng(seed).uniform(low, high, size)
    return np.float32(10.0) ** exponents.astype(np.float32)


def close_pairs(seed, size):
    """Norms that differ from their thresholds by a few units in the last place, or not."""
    rng = np.random.default_rng(seed)
    threshold = log_uniform(seed, size, -30, 30)
    norm = threshold * (1 + rng.integers(-4, 5, size).astype(np.float32) * np.float32(EPS / 2))
    return norm.astype(np.float32), threshold


def many_pairs():
    norm, threshold = log_uniform(1, 200_000), log_uniform(2, 200_000)
    near, beside = close_pairs(3, 50_000)
    mild = log_uniform(4, 200_000, -9, 9)
    return np.concatenate([norm, near, mild]), np.concatenate(
        [threshold, beside, np.ones(200_000, np.float32)]
    )


# The table of edge cases. Norms 0, 1, 2 and 4 against 2, 3 against the rest.

INF = np.inf
TABLE = {
    "rescale": {
        "norm = 0": [(0, 2, 1), (0, INF, 1), (0, TINY, 1)],
        "norm <= tau": [(1, 2, 1), (2, 2, 1), (TINY, 2, 1), (LARGEST, LARGEST, 1)],
        "norm > tau": [(4, 2, 2 / 4), (8, 2, 2 / 8), (1e30, 1, 1e-30)],
        "tau = inf": [(3, INF, 1), (LARGEST, INF, 1)],
        "tau = 0": [(3, 0, 0), (TINY, 0, 0), (0, 0, 1)],
    },
    "normalize": {
        "norm = 0": [(0, 2, 1), (0, INF, 1), (0, TINY, 1)],
        "norm <= tau": [(1, 2, 2 / 1), (2, 2, 1), (1e-30, 2, 2e30)],
        "norm > tau": [(4, 2, 2 / 4), (8, 2, 2 / 8), (1e30, 1, 1e-30)],
        "tau = inf": [(3, INF, 1), (LARGEST, INF, 1)],
        "tau = 0": [(3, 0, 0), (TINY, 0, 0), (0, 0, 0)],
    },
    "smooth": {
        "norm = 0": [(0, 2, 1), (0, INF, 1), (0, TINY, 1)],
        "norm <= tau": [(1, 2, 2 / 3), (2, 2, 1 / 2), (LARGEST, LARGEST, 1 / 2)],
        "norm > tau": [(4, 2, 2 / 6), (8, 2, 2 / 10), (1e30, 1, 1e-30)],
        "tau = inf": [(3, INF, 1), (LARGEST, INF, 1)],
        "tau = 0": [(3, 0, 0), (TINY, 0, 0), (0, 0, 1)],
    },
    "skip": {
        "norm = 0": [(0, 2, 1), (0, INF, 1), (0, TINY, 1)],
        "norm <= tau": [(1, 2, 1), (2, 2, 1), (LARGEST, LARGEST, 1)],
        "norm > tau": [(4, 2, 0), (8, 2, 0), (1e30, 1, 0)],
        "tau = inf": [(3, INF, 1), (LARGEST, INF, 1)],
        "tau = 0": [(3, 0, 0), (TINY, 0, 0), (0, 0, 1)],
    },
}
CELLS = [(rule, cell, cases) for rule, row in TABLE.items() for cell, cases in row.items()]


@pytest.mark.parametrize(("rule", "cell", "cases"), CELLS, ids=[f"{r}-{c}" for r, c, _ in CELLS])
def test_edge_case_is_that_of_the_table(rule, cell, cases):
    del cell
    norm, threshold, expected = (
        np.array(column, np.float32) for column in zip(*cases, strict=True)
    )
    for rule_of in (RULES[rule], jitted[RULES[rule]]):
        factor = np.asarray(rule_of(jnp.asarray(norm), jnp.asarray(threshold)))
        np.testing.assert_allclose(factor, expected, rtol=4 * EPS)
        exact = (expected == 0) | (expected == 1)
        exact &= (rule in ("rescale", "skip")) | (norm == 0) | (threshold == INF) | (threshold == 0)
        np.testing.assert_array_equal(factor[exact], expected[exact])


@every
@pytest.mark.parametrize(
    "shapes",
    [((), ()), ((5,), ()), ((5,), (5,)), ((2, 3), ()), ((2, 3), (1, 3)), ((0,), ())],
    ids=str,
)
def test_factor_has_the_shape_of_the_norm_and_is_elementwise(rule, shapes):
    norm_shape, threshold_shape = shapes
    rng = np.random.default_rng(0)
    norm = rng.lognormal(size=norm_shape).astype(np.float32)
    threshold = rng.lognormal(size=threshold_shape).astype(np.float32)
    factor = jitted[rule](norm, threshold)
    assert factor.shape == norm_shape and factor.dtype == jnp.float32 and not factor.weak_type
    flat = [
        float(jitted[rule](n, t))
        for n, t in zip(norm.ravel(), np.broadcast_to(threshold, norm_shape).ravel(), strict=True)
    ]
    np.testing.assert_allclose(np.ravel(factor), flat, rtol=2 * EPS)


@every
def test_factor_of_float64_norms_is_float64(rule):
    with enable_x64():
        norm, threshold = jnp.asarray([1e-200, 1.0, 1e200]), jnp.asarray(3.0)
        factor = jax.jit(rule)(norm, threshold)
        assert factor.dtype == jnp.float64
        expected = {"normalize": [3e200, 3, 3e-200], "smooth": [1, 3 / 4, 3e-200]}
        expected |= {"rescale": [1, 1, 3e-200], "skip": [1, 1, 0]}
        np.testing.assert_allclose(factor, expected[rule.__name__], rtol=1e-15)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_factor_of_smooth_root_does_not_depend_on_the_scale(scale):
    norm = np.float64([0.0, 0.5, 1, 4, 100])
    factor = jax.jit(rules.smooth_root)(np.float32(norm * scale), np.float32(2 * scale))
    np.testing.assert_allclose(factor, 2 / np.sqrt(norm**2 + 4), rtol=4 * EPS)


# Bounds, for all pairs of normal numbers. Products are taken in float64, which holds them exactly.


def after(norm, factor):
    return norm.astype(np.float64) * factor.astype(np.float64)


def factors(rule, norm, threshold):
    return np.asarray(jitted[rule](jnp.asarray(norm), jnp.asarray(threshold)))


def check_bounds(rule, norm, threshold):
    factor = factors(rule, norm, threshold)
    assert np.isfinite(factor).all() and (factor >= 0).all()
    if rule is not rules.normalize:
        assert (factor <= 1).all()
    if rule is rules.rescale:
        assert (after(norm, factor) <= threshold).all()
        np.testing.assert_array_equal(factor == 1, norm <= threshold)
    if rule is rules.smooth:
        assert (after(norm, factor) < threshold).all()
        assert (after(norm, factor) <= norm).all()
    if rule is rules.skip:
        np.testing.assert_array_equal(factor, norm <= threshold)


def check_value(rule, norm, threshold):
    """The formula in float64, to a few units in the last place.

    Not of factors below 2^-122: there a quotient may flush to zero, and a clipper shrinks the norm
    by a power of two first.
    """
    n, t = norm.astype(np.float64), threshold.astype(np.float64)
    expected = {
        rules.rescale: np.where(n <= t, 1, t / n),
        rules.normalize: t / n,
        rules.smooth: t / (t + n),
        rules.skip: (n <= t).astype(np.float64),
    }[rule]
    factor = factors(rule, norm, threshold)
    usual = (expected >= 16 * TINY) & (expected < LARGEST) | (expected == 0)
    np.testing.assert_allclose(factor[usual], expected[usual], rtol=4 * EPS)
    small = expected < 16 * TINY
    assert (factor[small] <= expected[small] * (1 + 4 * EPS)).all()


@every
@settings(max_examples=60)
@pairs
def test_factor_is_within_its_bounds(rule, norm, threshold):
    check_bounds(rule, norm, threshold)


@every
def test_factor_is_within_its_bounds_for_many_pairs(rule):
    check_bounds(rule, *many_pairs())


def test_norm_after_smooth_root_is_at_most_the_threshold():
    norm, threshold = many_pairs()
    factor = np.asarray(jax.jit(rules.smooth_root)(norm, threshold))
    assert (factor <= 1).all() and (after(norm, factor) <= threshold).all()


@every
@settings(max_examples=60)
@pairs
def test_factor_is_that_of_the_formula(rule, norm, threshold):
    check_value(rule, norm, threshold)


@every
def test_factor_is_that_of_the_formula_for_many_pairs(rule):
    check_value(rule, *many_pairs())


@every
@settings(max_examples=60)
@given(norm=vectors, threshold=normal)
def test_factor_never_grows_with_the_norm(rule, norm, threshold):
    norm = np.sort(norm)
    factor = factors(rule, norm, np.full(SIZE, threshold, np.float32))
    assert (factor[1:] <= factor[:-1]).all()


@every
@settings(max_examples=60)
@given(norm=normal, threshold=vectors)
def test_factor_never_falls_with_the_threshold(rule, norm, threshold):
    threshold = np.sort(threshold)
    factor = factors(rule, np.full(SIZE, norm, np.float32), threshold)
    assert (factor[1:] >= factor[:-1]).all()


def test_smoothed_norm_grows_with_the_norm():
    """Up to the last place: what is left of a norm is a rounded product."""
    norm = np.sort(log_uniform(5, 10_000, -10, 10))
    left = after(norm, factors(rules.smooth, norm, np.ones_like(norm)))
    assert (left[1:] >= left[:-1] * (1 - 2 * EPS)).all()


# Derivatives.


def true_partials(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return 1 / b, -a / b**2


@settings(max_examples=60)
@given(a=vectors, b=vectors)
def test_derivative_of_a_ratio_is_right_wherever_it_is_representable(a, b):
    check_ratio(a, b)


def test_derivative_of_a_ratio_is_right_for_many_pairs():
    check_ratio(*many_pairs())


@jax.jit
def _ratio_partials(a, b):
    one, zero = jnp.ones_like(a), jnp.zeros_like(a)
    by_a = jax.jvp(rules._ratio, (a, b), (one, zero))[1]
    by_b = jax.jvp(rules._ratio, (a, b), (zero, one))[1]
    backward = jax.vjp(rules._ratio, a, b)[1](one)
    return (by_a, by_b), backward


def check_ratio(a, b):
    finite = (a.astype(np.float64) / b.astype(np.float64)) < LARGEST
    a, b = np.where(finite, a, np.float32(1)), np.where(finite, b, np.float32(1))
    for found in _ratio_partials(jnp.asarray(a), jnp.asarray(b)):
        for partial, expected in zip(found, true_partials(a, b), strict=True):
            size = abs(expected)
            usual = (size > 2 * TINY) & (size < LARGEST / 2) & (b < 0.5 / TINY)  # 1 / b is normal
            np.testing.assert_allclose(np.asarray(partial)[usual], expected[usual], rtol=4 * EPS)
            assert (
                abs(np.asarray(partial))[size < LARGEST / 2] <= 2 * size[size < LARGEST / 2]
            ).all()


def test_second_derivative_of_a_ratio_is_right():
    with enable_x64():
        second = jax.grad(jax.grad(rules._ratio, 1), 1)(jnp.asarray(3.0), jnp.asarray(2.0))
        assert float(second) == pytest.approx(2 * 3 / 2**3)


SLOPES = {  # by the norm and by the threshold; of 4 against 2 and of 1 against 2
    "rescale": [(-2 / 16, 1 / 4), (0, 0)],
    "normalize": [(-2 / 16, 1 / 4), (-2 / 1, 1 / 1)],
    "smooth": [(-2 / 36, 4 / 36), (-2 / 9, 1 / 9)],
    "skip": [(0, 0), (0, 0)],
}


@every
def test_derivative_of_the_factor_is_that_of_the_formula(rule):
    norm, threshold = jnp.asarray([4.0, 1.0]), jnp.asarray([2.0, 2.0])
    slopes = jax.jit(jax.vmap(jax.grad(rule, (0, 1))))(norm, threshold)
    np.testing.assert_allclose(np.transpose(slopes), SLOPES[rule.__name__], rtol=8 * EPS)


@every
def test_derivative_of_the_factor_is_finite_at_the_edges(rule):
    norm = jnp.asarray([0.0, 0.0, 0.0, 3.0, 3.0, 2.0, 1e30, 1e-15])
    threshold = jnp.asarray([0.0, 2.0, jnp.inf, 0.0, jnp.inf, 2.0, 1.0, 1.0])
    for slope in jax.jit(jax.vmap(jax.grad(rule, (0, 1))))(norm, threshold):
        assert np.isfinite(slope).all(), slope
