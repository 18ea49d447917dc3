"""Known defects of optax: its answers in the README's table, pinned beside clipax's.

They are those of one version, which is named there and here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import clipax

VERSION = "0.2.8"
pytestmark = pytest.mark.skipif(
    optax.__version__ != VERSION, reason=f"the answers are those of optax {VERSION}"
)

HALF, FULL, NARROW = jnp.float16, jnp.float32, jnp.bfloat16


def by_optax(leaves, max_norm=1.0):
    clip = optax.clip_by_global_norm(max_norm)
    return [np.asarray(x, np.float64) for x in clip.update(leaves, clip.init(leaves))[0]]


def by_clipax(leaves, max_norm=1.0):
    clipped, _ = clipax.clip(leaves, clipax.global_norm(max_norm))
    return [np.asarray(x, np.float64) for x in clipped]


def norm(leaves):
    return float(np.sqrt(sum(np.sum(x**2) for x in leaves)))


@pytest.mark.parametrize(
    ("leaf", "max_norm", "theirs", "ours"),
    [
        (jnp.full(3, 1e20, FULL), 1.0, [0, 0, 0], [3**-0.5] * 3),
        (jnp.full(1, 300, HALF), 1.0, [0], [1]),
        (jnp.full(3, 1e-23, FULL), 1e-25, [1e-23] * 3, [3**-0.5 * 1e-25] * 3),
        (jnp.zeros(2), 0.0, [np.nan] * 2, [0, 0]),
    ],
    ids=["large", "half precision", "small", "nothing to clip"],
)
def test_gradient_is_clipped_where_optax_loses_it(leaf, max_norm, theirs, ours):
    np.testing.assert_allclose(by_optax([leaf], max_norm)[0], theirs, rtol=1e-3)
    np.testing.assert_allclose(by_clipax([leaf], max_norm)[0], ours, rtol=1e-6)


@pytest.mark.exhaustive
def test_norm_of_many_bfloat16_leaves_is_the_norm_where_optax_stops_at_16():
    leaves = [jnp.ones(1, NARROW)] * 1000
    assert float(optax.tree.norm(leaves)) == 16
    assert round(norm(by_optax(leaves)), 2) == 1.98
    assert round(norm(by_clipax(leaves)), 3) == 1.004


@pytest.mark.parametrize(
    ("dtype", "theirs", "ours"), [(FULL, 1.0000001, 1.0), (NARROW, 1.0038, 1.0009)]
)
def test_norm_afterwards_is_the_threshold_where_that_of_optax_is_above(dtype, theirs, ours):
    rng = np.random.default_rng(0)
    vectors = jnp.asarray(rng.normal(size=(300, 100)) * 10, dtype)
    clip = optax.clip_by_global_norm(1.0)
    digits = len(str(theirs)) - 2

    def largest(clipped):
        return round(max(norm([x]) for x in np.asarray(clipped, np.float64)), digits)

    assert largest(jax.vmap(lambda x: clip.update(x, clip.init(x))[0])(vectors)) == theirs
    assert largest(jax.vmap(lambda x: clipax.clip(x, clipax.global_norm(1.0))[0])(vectors)) <= ours


def test_negative_threshold_is_refused_where_optax_goes_uphill():
    np.testing.assert_allclose(by_optax([jnp.array([3.0, 4.0])], -1.0)[0], [-0.6, -0.8], rtol=1e-6)
    with pytest.raises(ValueError, match="max_norm"):
        clipax.global_norm(-1.0)


def test_scheduled_threshold_clips_bfloat16_where_optax_refuses():
    leaf = jnp.array([3, 4], NARROW)
    injected = optax.inject_hyperparams(optax.clip_by_global_norm)(max_norm=lambda step: 1.0)
    with pytest.raises(TypeError):
        injected.update([leaf], injected.init([leaf]))
    (ours,), _ = clipax.clip([leaf], clipax.global_norm(lambda step: 1.0))
    np.testing.assert_allclose(np.asarray(ours, np.float64), [0.6, 0.8], rtol=4e-3)


def test_infinite_entry_is_loud_where_optax_loses_half_the_step_silently():
    leaves = [jnp.array([jnp.inf, 1]), jnp.array([2.0])]
    np.testing.assert_array_equal(np.concatenate(by_optax(leaves)), [np.nan, 0, 0])
    assert np.isnan(np.concatenate(by_clipax(leaves))).all()


def test_derivative_at_zero_is_one_where_that_of_optax_is_nan():
    def slope(clip):
        return jax.grad(lambda x: jnp.sum(clip(x)))(jnp.zeros(2))

    theirs = optax.clip_by_global_norm(1.0)
    assert np.isnan(slope(lambda x: theirs.update(x, theirs.init(x))[0])).all()
    ours = slope(lambda x: clipax.clip(x, clipax.global_norm(1.0))[0])
    np.testing.assert_array_equal(ours, [1, 1])


def test_complex_entries_are_clipped_by_value_where_optax_refuses():
    leaf = jnp.array([3 + 4j], jnp.complex64)
    theirs = optax.clip(1.0)
    with pytest.raises(ValueError, match="complex"):
        theirs.update([leaf], theirs.init([leaf]))
    (ours,), _ = clipax.clip([leaf], clipax.value(1.0))
    np.testing.assert_allclose(ours, [0.6 + 0.8j], rtol=1e-6)
