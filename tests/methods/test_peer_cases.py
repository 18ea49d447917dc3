"""The cases that other libraries test their clipping with, as far as they have a meaning here.

Written anew after optax (`_clipping_test.py`), TensorFlow (`clip_ops_test.py`), PyTorch
(`test_nn.py`, `clip_grad_norm_`) and JAX Privacy (`clipping_test.py`).
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_page import QUICK
from numpy_groups import norm_of
from rows import rows, sampled
from trees import plain
from updates import assert_same_bits

import clipax
from clipax import measures

# optax


@pytest.mark.parametrize("make", [clipax.global_norm, clipax.block_rms, clipax.value])
def test_clipping_again_and_lower_is_clipping_once(make):
    clipped = jax.jit(
        lambda updates, limit: clipax.clip(updates, make(limit))[0], compiler_options=QUICK
    )
    first = updates = plain(3, 300.0)
    for i in range(1, 51):
        updates = clipped(updates, 1.0 / i)
        chex.assert_trees_all_close(updates, clipped(first, 1.0 / i), rtol=2e-5)


@rows("rescale", "value", "skip", fixed=True)
def test_clipping_twice_is_clipping_once(row):
    clip = jax.jit(lambda updates: clipax.clip(updates, row.make())[0], compiler_options=QUICK)
    clipped = clip(plain(4, 30.0))
    assert_same_bits(clip(clipped), clipped)


def test_gradients_of_examples_are_clipped_one_by_one():
    """Four examples with norms 0.5, sqrt(50), sqrt(70) and 0."""
    examples = [
        jnp.asarray([[0.0, -0.5], [3.0, 4.0], [5.0, 6.0], [0.0, 0.0]]),
        jnp.asarray([[0.0], [5.0], [-3.0], [0.0]]),
    ]
    params = [jnp.zeros(2), jnp.zeros(1)]

    def loss_fn(params, a, b):
        return params[0] @ a + params[1] @ b

    fn = clipax.per_example(loss_fn, clipax.global_norm(1.0))
    _, found = jax.jit(fn, compiler_options=QUICK)(params, *examples)
    first = np.array([0, -0.5]) + np.array([3, 4]) / 50**0.5 + np.array([5, 6]) / 70**0.5
    np.testing.assert_allclose(found[0], first / 4, rtol=1e-6)
    np.testing.assert_allclose(found[1], [(5 / 50**0.5 - 3 / 70**0.5) / 4], rtol=1e-6)


@pytest.mark.parametrize("axis", [None, (0, 1, 2), (0, 1, 2, 3)])
def test_units_of_a_kernel_with_three_space_axes_are_relative_to_their_weights(axis):
    params = np.ones((2, 2, 2, 3, 4), np.float32)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def clipped(gradient, clipping):
        return clipax.clip([gradient], clipax.agc(clipping, axis=axis), [params])[0][0]

    np.testing.assert_allclose(clipped(2 * params, 0.5), 0.5 * params, rtol=1e-6)
    small = np.float32(0.1) * params
    np.testing.assert_array_equal(clipped(small, 2.0), small)


# TensorFlow

X = np.float32([[-3.0, 0.0, 0.0], [4.0, 0.0, 3.0]])


@pytest.mark.parametrize(
    ("axis", "max_norm", "expected"),
    [
        (0, 4.0, [[-2.4, 0.0, 0.0], [3.2, 0.0, 3.0]]),
        (1, 4.0, [[-3.0, 0.0, 0.0], [3.2, 0.0, 2.4]]),
        (1, 6.0, [[-3.0, 0.0, 0.0], [4.0, 0.0, 3.0]]),
        ((0, 1), 34**0.5 / 2, [[-1.5, 0.0, 0.0], [2.0, 0.0, 1.5]]),
    ],
)
def test_norm_along_axes(axis, max_norm, expected):
    clipper = clipax.clip_by(measures.per_unit(axis=axis), max_norm)
    clipped = jax.jit(lambda x: clipax.clip([x], clipper)[0][0], compiler_options=QUICK)(X)
    np.testing.assert_allclose(clipped, expected, rtol=1e-6)


def test_leaves_that_are_none_stay_none():
    tree = (jnp.asarray([[-2.0, 0.0, 0.0], [4.0, 0.0, 0.0]]), None, jnp.asarray([1.0, -2.0]), None)
    clipped, metrics = clipax.clip(tree, clipax.global_norm(jnp.asarray(4.0)))
    assert clipped[1] is clipped[3] is None and float(metrics["norm"]) == 5
    np.testing.assert_allclose(clipped[0], [[-1.6, 0, 0], [3.2, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(clipped[2], [0.8, -1.6], rtol=1e-6)


@pytest.mark.parametrize("make", [clipax.global_norm, clipax.per_leaf])
def test_slope_at_zero_is_that_of_the_identity(make):
    slope_of = jax.grad(lambda x: clipax.clip([x], make(1.0))[0][0].sum())
    slope = jax.jit(slope_of, compiler_options=QUICK)(np.zeros(3, np.float32))
    np.testing.assert_array_equal(slope, np.ones(3))


@pytest.mark.parametrize("make", [clipax.global_norm, clipax.value])
@pytest.mark.parametrize("threshold", [jnp.ones(2), np.ones((2, 3))])
def test_threshold_of_another_shape_is_refused(make, threshold):
    with pytest.raises((TypeError, ValueError), match="must be"):
        make(threshold)


def test_integers_are_no_gradient_and_pass():
    counts = jnp.asarray([1, 2, 3, 6], jnp.int32)
    clipped, _ = clipax.clip({"a": counts, "b": jnp.asarray([9.0])}, clipax.value(4.0))
    assert clipped["a"] is counts and float(clipped["b"][0]) == 4


def test_infinite_entries_are_not_finite_for_value_either():
    """TensorFlow clips them to the limits; here they are what `nonfinite` says."""
    gradient = jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 5.0])
    loud, _ = clipax.clip(gradient, clipax.value(4.0))
    np.testing.assert_array_equal(loud, [np.nan, np.nan, np.nan, 4.0])
    for nonfinite in ("zero", "sanitize"):
        quiet, _ = clipax.clip(gradient, clipax.value(4.0, nonfinite=nonfinite))
        np.testing.assert_array_equal(quiet, [0.0, 0.0, 0.0, 4.0])


# PyTorch


@sampled("ord", {str(ord): ord for ord in (0.5, 1, 1.5, 2, 4, math.inf)}, ["0.5", "2", "inf"])
def test_all_leaves_are_multiplied_by_one_factor(ord):
    gradient = {
        "w": np.arange(1.0, 101.0, dtype=np.float32).reshape(10, 10),
        "b": np.full(10, 1e-3, np.float32),
    }
    clipper = clipax.global_norm(2.0, ord=ord)
    clip = jax.jit(lambda gradient: clipax.clip(gradient, clipper), compiler_options=QUICK)
    clipped, metrics = clip(gradient)
    before, after = ([np.float64(x) for x in jax.tree.leaves(tree)] for tree in (gradient, clipped))
    assert float(metrics["norm"]) == pytest.approx(norm_of(before, ord), rel=1e-6)
    assert norm_of(after, ord) == pytest.approx(2.0, rel=1e-6)
    factors = np.concatenate([(a / b).ravel() for a, b in zip(after, before, strict=True)])
    np.testing.assert_allclose(factors, 2.0 / norm_of(before, ord), rtol=1e-6)
    small = jax.tree.map(lambda x: x / np.float32(1e9), gradient)
    assert_same_bits(clip(small)[0], small)


def test_single_array_and_no_array():
    clipped, _ = clipax.clip(jnp.asarray([3.0, 4.0]), clipax.global_norm(1.0))
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-6)
    nothing, metrics = clipax.clip([], clipax.global_norm(1.0))
    assert nothing == [] and float(metrics["norm"]) == 0


# JAX Privacy

MIXED = {
    "a": jnp.asarray(np.random.default_rng(0).normal(size=10), jnp.float16),
    "b": jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)), jnp.float32),
    "c": jnp.asarray(0.7, jnp.bfloat16),
}


@pytest.mark.parametrize("max_norm", [0.0, 1.0, 2.0, jnp.inf])
def test_norm_of_mixed_dtypes_is_bounded(max_norm):
    clipped, _ = clipax.clip(MIXED, clipax.global_norm(max_norm))
    chex.assert_trees_all_equal_shapes_and_dtypes(clipped, MIXED)
    norm = norm_of([np.asarray(x, np.float64) for x in clipped.values()], 2)
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    assert norm <= max_norm * (1 + eps)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_sanitized_gradient_is_clipped_as_if_the_bad_entries_were_zero(bad):
    clipper = clipax.global_norm(1.0, nonfinite="sanitize")
    found, _ = clipax.clip(jnp.asarray([3.0, 0.0, 1.0, bad, 2.0]), clipper)
    expected, _ = clipax.clip(jnp.asarray([3.0, 0.0, 1.0, 0.0, 2.0]), clipper)
    assert_same_bits(found, expected)


def test_one_example_more_less_or_other_moves_the_sum_by_the_threshold():
    data = np.float32(np.random.default_rng(0).normal(size=(15, 4)))
    fn = jax.jit(clipax.per_example(lambda w, x: w @ x, clipax.global_norm(1.0)))

    def total(data, mask):
        return fn(jnp.zeros(4), data, mask=mask)[1] * mask.sum()

    everyone, others = np.ones(15, bool), np.arange(15) != 3
    changed = data.copy()
    changed[3] = [-10, 10, 20, 20]
    difference = total(data, everyone) - total(changed, everyone)
    assert float(jnp.linalg.norm(difference)) <= 2 + 1e-5
    difference = total(data, everyone) - total(data, others)
    assert float(jnp.linalg.norm(difference)) <= 1 + 1e-5
