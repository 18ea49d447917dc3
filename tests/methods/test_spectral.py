"""Laws of `spectral` that are about matrices: its errors, its derivatives, its stacks."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from methods_page import QUICK
from rows import sampled

import clipax
from clipax import _matrices, thresholds

enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
METHODS = ["svd", "eigh", "newton_schulz"]
every_method = pytest.mark.parametrize("method", METHODS)
every_rule = pytest.mark.parametrize("rule", ["hard", "soft"])


def pairs(*default):
    """The methods with both rules; those that are not named are exhaustive."""
    every = {f"{method}-{rule}": (method, rule) for method in METHODS for rule in ("hard", "soft")}
    return sampled(("method", "rule"), every, default or every)


@functools.cache
def jitted(method="auto", rule="hard", quick=True):
    clipper = clipax.spectral(1.0, method=method, rule=rule)
    options = QUICK if quick else None
    return jax.jit(lambda x: clipper.update(x, clipper.init(x)), compiler_options=options)


def quickly(function, *arguments):
    """Compiled with little care: for what does not depend on the last digits."""
    return jax.jit(function, compiler_options=QUICK)(*arguments)


def expected(x, threshold=1.0, rule="hard"):
    return reference.spectral({(): np.asarray(x)}, threshold, rule=rule)[()]


def spectral_norm(x):
    return np.linalg.norm(np.asarray(x, np.float64), 2, axis=(-2, -1)).max()


def matrix(values, rows, seed=0, dtype=np.float32):
    """A matrix with these singular values and directions at random."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(n, len(values))))[0] for n in (rows, len(values)))
    return np.asarray((u * values) @ v.T, dtype)


def spectra(columns):
    gauss = np.random.default_rng(1).normal(size=(columns, columns))
    return {
        "gauss": np.linalg.svd(gauss, compute_uv=False),
        "geometric": np.geomspace(1, 1e-3, columns),
        "linear": np.linspace(1, 0, columns),
        "five": np.where(np.arange(columns) < 5, 1.0, 1e-3),
    }


# Errors: the table of the docstring, relative to the threshold.

SIZE = 32  # the reference shares larger matrices out to threads, which takes far longer
RATIOS = [1.5, 10, 32, 100, 1000]
ERRORS = {
    "svd": [2e-6, 3e-6, 9e-6, 2.5e-5, 2.5e-4],
    "eigh": [2e-6, 8e-6, 1.3e-4, 2.5e-5, 2.5e-4],
    "newton_schulz": [2e-6, 2e-5, 7e-5, 7e-5, 1.3e-4],
}


@pytest.mark.parametrize("columns", [SIZE, pytest.param(64, marks=pytest.mark.exhaustive)])
@pairs()
def test_error_is_at_most_that_of_the_docstring(method, rule, columns):
    for ratio, allowed in zip(RATIOS, ERRORS[method], strict=True):
        for name, values in spectra(columns).items():
            x = matrix(values / values[0] * ratio, columns)
            result, state = jitted(method, rule, quick=columns == SIZE)(x)
            error = spectral_norm(np.asarray(result) - expected(x, rule=rule))
            assert error <= 2 * allowed, (ratio, name)  # other machines round otherwise
            assert spectral_norm(result) <= 1 + 1.2e-4
            assert float(state.metrics.norm) == pytest.approx(spectral_norm(x), rel=1.1e-4)


def test_table_of_errors_is_that_of_the_docstring():
    for method, errors in ERRORS.items():
        cells = [line.split("|") for line in clipax.spectral.__doc__.splitlines()]
        (row,) = (c for c in cells if len(c) > 2 and c[1].strip() == method)
        assert [float(cell) for cell in row[2:-1]] == errors


@pairs()
@pytest.mark.parametrize("ratio", [1e4, 1e9, 1e30])
def test_spike_of_any_size_is_clipped(method, rule, ratio):
    x = matrix(np.linspace(1, 0.1, SIZE) * ratio, SIZE)
    result = jitted(method, rule)(x)[0]
    assert np.isfinite(result).all()
    assert 0.99 <= spectral_norm(result) <= 1 + 1.2e-4


@pairs("svd-hard", "newton_schulz-soft")
def test_float64_is_computed_in_float64(method, rule):
    with enable_x64():
        x = matrix(np.linspace(20, 0.1, 8), 12, dtype=np.float64)
        clipper = clipax.spectral(1.0, method=method, rule=rule)
        result = quickly(lambda x: clipax.clip(x, clipper)[0], x)
        assert result.dtype == jnp.float64
        np.testing.assert_allclose(result, expected(x, rule=rule), rtol=0, atol=1e-12)


COMPLEX = {
    f"{method}-{rule}-{rows}x{columns}": (method, rule, (rows, columns))
    for method in METHODS
    for rule in ("hard", "soft")
    for rows, columns in [(8, 5), (5, 8)]
}


@sampled(
    ("method", "rule", "shape"),
    COMPLEX,
    ["svd-soft-8x5", "newton_schulz-hard-5x8"],
)
def test_complex_matrices_are_clipped_by_their_singular_values(method, rule, shape):
    rng = np.random.default_rng(0)
    x = np.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape), np.complex64)
    clipper = clipax.spectral(1.0, method=method, rule=rule)
    result = quickly(lambda x: clipax.clip(x, clipper)[0], x)
    assert result.dtype == jnp.complex64
    np.testing.assert_allclose(result, expected(x, rule=rule), rtol=0, atol=5e-6)


@sampled("dtype", {"bfloat16": jnp.bfloat16, "float16": jnp.float16}, ["float16"])
def test_sixteen_bits_are_computed_in_float32(dtype):
    x = matrix(np.linspace(9, 0.1, 16), 16).astype(dtype)
    result = np.asarray(quickly(lambda x: clipax.clip(x, clipax.spectral(1.0))[0], x))
    assert result.dtype == dtype
    exact = expected(x).astype(dtype)
    assert np.max(abs(result - exact)) <= 2 * float(jnp.finfo(dtype).eps)


# Matrices, stacks and vectors


@pairs("eigh-hard")
def test_stack_is_clipped_matrix_by_matrix(method, rule):
    rng = np.random.default_rng(0)
    sizes = np.array([1e-3, 1.0, 30.0, 1e6, 1e20, 1e-30])
    x = (rng.normal(size=(6, 4, 7)) * sizes[:, None, None]).astype(np.float32).reshape(2, 3, 4, 7)
    clipper = clipax.spectral(1.0, method=method, rule=rule)
    result = quickly(lambda x: clipax.clip(x, clipper)[0], x)
    np.testing.assert_allclose(result, expected(x, rule=rule), rtol=1e-6, atol=1e-4)
    assert np.asarray(result)[0, 0].tobytes() == x[0, 0].tobytes() or rule == "soft"


@pytest.mark.parametrize("method", ["svd", "eigh"])
@pytest.mark.parametrize("runs", [1, 4])
def test_stack_is_decomposed_one_matrix_at_a_time_on_cpus(method, runs):
    # A stack in one call of LAPACK hangs with some versions of jaxlib, see `_matrices`.
    clipper = clipax.spectral(1.0, method=method)
    update = jax.vmap(lambda x: clipper.update(x, clipper.init(x))[0])
    stacks = jnp.ones((runs, 2, 3, 5, 4))
    text = jax.jit(update).lower(stacks).as_text()
    shapes = re.findall(r"custom_call @lapack_\w+\(.*: \(tensor<([\dx]+)xf32>", text)
    assert shapes and all(shape.count("x") == 1 for shape in shapes), shapes


@sampled("method", dict(zip(METHODS, METHODS, strict=True)), ["eigh"])
def test_wide_matrix_is_clipped_like_its_transpose(method):
    x = matrix(np.linspace(5, 0.1, 6), 9)
    clipper = clipax.spectral(1.0, method=method)
    wide, tall = quickly(lambda *xs: clipax.clip(xs, clipper)[0], x.T, x)
    np.testing.assert_allclose(wide, tall.T, rtol=0, atol=2e-6)


def test_single_column_is_clipped_by_its_length():
    rng = np.random.default_rng(0)
    shapes = [(), (7,), (7, 1), (1, 7), (2, 7, 1)]
    xs = [np.asarray(rng.normal(size=shape) * 5, np.float32) for shape in shapes]
    by_length = clipax.clip_by(clipax.measures.per_unit(axis=(-2, -1)), 1.0)
    lengths, found = (
        quickly(lambda xs, clipper=clipper: clipax.clip(xs, clipper)[0], xs)
        for clipper in (by_length, clipax.spectral(1.0))
    )
    for one, length in zip(found, lengths, strict=True):
        np.testing.assert_array_equal(one, length)


@pytest.mark.exhaustive
@pytest.mark.parametrize("shape", [(), (7,), (7, 1), (1, 7), (2, 7, 1)])
def test_single_column_by_itself_is_clipped_by_its_length(shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape) * 5, jnp.float32)
    by_length = clipax.clip_by(clipax.measures.per_unit(axis=(-2, -1)), 1.0)
    np.testing.assert_array_equal(jitted()(x)[0], clipax.clip(x, by_length)[0])


def test_policy_sees_the_largest_singular_value_of_each_matrix():
    clipper = clipax.spectral(thresholds.window_percentile(50.0, window=3))
    x = {"stack": np.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)), np.float32)}
    state, update = quickly(clipper.init, x), jax.jit(clipper.update, compiler_options=QUICK)
    for size in map(np.float32, (1.0, 1.0, 10.0)):
        result, state = update({"stack": x["stack"] * size}, state)
    assert state.policy.ascending["stack"].shape == (3, 2, 1, 1)
    norms = np.linalg.norm(x["stack"], 2, axis=(-2, -1))
    np.testing.assert_allclose(np.linalg.norm(result["stack"], 2, axis=(-2, -1)), norms, rtol=1e-5)


@sampled(
    ("method", "nonfinite"),
    {
        f"{method}-{nonfinite}": (method, nonfinite)
        for method in METHODS
        for nonfinite in ("propagate", "zero", "sanitize")
    },
    ["svd-zero", "svd-sanitize"],
)
def test_nonfinite_entry_is_decided_for_its_matrix_alone(method, nonfinite):
    x = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    x[1, 2, 0] = np.inf
    clipper = clipax.spectral(0.5, method=method, nonfinite=nonfinite)
    result, metrics = quickly(lambda x: clipax.clip(x, clipper), x)
    exact = reference.spectral({(): x}, 0.5, nonfinite=nonfinite)[()]
    np.testing.assert_allclose(result, exact, rtol=0, atol=5e-6)
    assert int(metrics["nonfinite"]) == 1


def test_automatic_method_is_one_of_the_others():
    x = matrix(np.linspace(5, 0.1, 6), 9)
    usual = "eigh" if jax.default_backend() == "cpu" else "newton_schulz"
    for rule in ("hard", "soft"):
        text = {m: jitted(m, rule).lower(x).as_text() for m in ("auto", *METHODS)}
        assert [m for m in METHODS if text[m] == text["auto"]] == [usual]


# What the methods are made of


def test_quintics_map_each_interval_to_the_next():
    """And they are the nearest to 1: the error takes its maximum four times, with changing sign."""
    lower = (*_matrices._LOWER, None)
    for i, (a, b, c) in enumerate(_matrices._QUINTICS[:5]):
        x = np.linspace(lower[i], 1, 100001)
        y = a * x + b * x**3 + c * x**5
        last = i == 4
        if not last:
            assert y.max() == pytest.approx(1 / 1.002, abs=1e-9)
            assert y.min() == pytest.approx(lower[i + 1], rel=1e-6)
        centre = 1.0 if last else (y.max() + y.min()) / 2
        error = (y - centre) / (np.ptp(y) / 2)
        extrema = [error[0], *error[1:-1][np.diff(np.sign(np.diff(error))) != 0], error[-1]]
        if not last:  # there the error itself is rounding
            np.testing.assert_allclose(extrema, [-1, 1, -1, 1], atol=1e-4)
        else:
            assert abs(y - 1).max() < 1e-9


@jax.jit
def polar_factor(x, smallest):
    return _matrices._polar((x,), _matrices._first(smallest))


def test_polar_factor_is_orthogonal_for_any_ratio():
    for smallest in (0.5, 1e-2, 1e-5):
        x = matrix(np.geomspace(1, smallest, 8), 8)
        (polar,) = polar_factor(x, np.float32(smallest))
        np.testing.assert_allclose(polar.T @ polar, np.eye(8), atol=1e-5)


@pytest.mark.parametrize("equal", [1, 2, SIZE])
def test_schatten_norm_is_above_the_largest_singular_value_by_its_bound(equal):
    x = matrix(np.where(np.arange(SIZE) < equal, 3.0, 0.3), SIZE)
    norm = float(jitted("newton_schulz")(x)[1].metrics.norm)
    assert norm == pytest.approx(spectral_norm(x) * equal ** (2.0**-14), rel=1e-6)


# Derivatives


def assert_slope_is_that_of_the_formula(clipper, rule, x, direction):
    """And that what is clipped is, in float64."""

    def clip(x):
        return clipax.clip(x, clipper)[0]

    clipped, slope = quickly(lambda x, direction: jax.jvp(clip, [x], [direction]), x, direction)
    assert clipped.dtype == x.dtype
    np.testing.assert_allclose(clipped, expected(x, rule=rule), rtol=0, atol=1e-12)
    ends = [expected(x + h * direction, rule=rule) for h in (1e-5, -1e-5)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, atol=1e-8)


@pairs("eigh-soft", "newton_schulz-hard")
def test_derivative_is_finite_and_right_where_singular_values_coincide(method, rule):
    """At a multiple of the identity, where that of the factors is not."""
    with enable_x64():
        direction = np.random.default_rng(0).normal(size=(4, 4))
        clipper = clipax.spectral(1.0, method=method, rule=rule)
        assert_slope_is_that_of_the_formula(clipper, rule, 3 * np.eye(4), direction)


@pairs("newton_schulz-soft")
@pytest.mark.parametrize("columns", [2, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_derivative_is_finite_for_matrices_with_repeated_and_zero_singular_values(
    method, rule, columns
):
    every = np.stack([np.eye(3), np.zeros((3, 3)), np.ones((3, 3))])[..., :columns]
    x = np.concatenate([0.1 * every, 10.0 * every]).astype(np.float32)
    clipper = clipax.spectral(1.0, method=method, rule=rule)
    slope = quickly(jax.grad(lambda x: jnp.sum(clipax.clip(x, clipper)[0] ** 2)), x)
    assert np.isfinite(slope).all()


@sampled(
    ("shape", "dtype", "rule"),
    {
        f"{shape[0]}x{shape[1]}-{dtype.__name__}-{rule}": (shape, dtype, rule)
        for shape in [(5, 3), (3, 5)]
        for dtype in (np.float64, np.complex128)
        for rule in ("hard", "soft")
    },
    ["3x5-complex128-hard"],
)
def test_derivative_of_rectangular_matrices_is_that_of_the_formula(shape, dtype, rule):
    with enable_x64():
        parts = np.random.default_rng(0).normal(size=(2, 2, *shape))
        imaginary = 1j if dtype == np.complex128 else 0
        x, direction = np.asarray(parts[0] + imaginary * parts[1], dtype)
        assert_slope_is_that_of_the_formula(clipax.spectral(1.0, rule=rule), rule, x, direction)


@every_rule
def test_derivative_by_the_threshold(rule):
    with enable_x64():
        x = matrix(np.array([4.0, 2.0, 0.5]), 5, dtype=np.float64)

        def clip(threshold):
            return clipax.clip(x, clipax.spectral(threshold, rule=rule))[0]

        slope = quickly(jax.jacfwd(clip), 1.0)
        numeric = (expected(x, 1 + 1e-6, rule) - expected(x, 1 - 1e-6, rule)) / 2e-6
        np.testing.assert_allclose(slope, numeric, atol=1e-7)


def test_derivative_within_the_threshold_is_the_identity_to_the_bit():
    x, direction = (matrix(np.ones(4), 4, seed) for seed in (0, 1))
    clipper = clipax.spectral(2.0)

    def clip(x):
        return clipax.clip(x, clipper)[0]

    slope = quickly(lambda x, direction: jax.jvp(clip, [x], [direction])[1], x, direction)
    np.testing.assert_array_equal(slope, direction)
