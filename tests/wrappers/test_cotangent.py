"""Clipping inside a backward pass: in loops, cells and transforms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import clipax
from clipax import measures

THRESHOLDS = {
    "number": 0.5,
    "array": jnp.float32(0.5),
    "clipper": clipax.global_norm(0.5),
}


@pytest.mark.parametrize("clipper", THRESHOLDS.values(), ids=THRESHOLDS)
def test_forward_is_the_identity_and_backward_the_clipper(clipper):
    x = {"a": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(3.0)}
    weights = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray(4.0)}

    def loss(x):
        y = clipax.clip_cotangent(x, clipper)
        return jnp.sum(y["a"] * weights["a"]) + y["b"] * weights["b"]

    jax.tree.map(np.testing.assert_array_equal, clipax.clip_cotangent(x, clipper), x)
    for f in (loss, jax.jit(loss)):
        value, slope = jax.value_and_grad(f)(x)
        assert float(value) == 15
        expected, _ = clipax.clip(weights, clipax.global_norm(0.5))
        jax.tree.map(np.testing.assert_array_equal, slope, expected)


def test_time_steps_are_clipped_one_by_one():
    def last(h, clipper):
        def step(h, _):
            return 3.0 * clipax.clip_cotangent(h, clipper), None

        return jax.lax.scan(step, h, length=50)[0]

    assert float(jax.grad(last)(1.0, np.inf)) == pytest.approx(3.0**50, rel=1e-5)
    # 3 comes in, 1 goes out, at each step.
    assert float(jax.grad(last)(1.0, 1.0)) == pytest.approx(1.0, rel=1e-6)
    remat = jax.checkpoint(last, static_argnums=1)
    assert float(jax.grad(remat)(1.0, 1.0)) == pytest.approx(1.0, rel=1e-6)


def test_traced_threshold_is_no_constant():
    @jax.jit
    def slope(x, max_norm):
        return jax.grad(lambda x: 7 * clipax.clip_cotangent(x, max_norm))(x)

    found = [slope(1.0, t) for t in (0.5, 2.0, 9.0)]
    np.testing.assert_allclose(found, [0.5, 2.0, 7.0], rtol=1e-6)


def test_each_run_and_each_row_can_be_clipped_by_itself():
    x, weights = jnp.zeros((3, 4)), jnp.asarray([[3.0] * 4, [0.1] * 4, [40.0] * 4])

    def slope(clipper, mapped):
        def loss(x, w):
            return jnp.sum(w * clipax.clip_cotangent(x, clipper))

        f = jax.vmap(jax.grad(loss)) if mapped else jax.grad(loss)
        return jax.jit(f)(x, weights)

    by_row = clipax.clip_by(measures.per_unit(axis=-1), 1.0)
    expected = [[0.5] * 4, [0.1] * 4, [0.5] * 4]
    np.testing.assert_allclose(slope(by_row, False), expected, rtol=1e-6)
    np.testing.assert_allclose(slope(1.0, True), expected, rtol=1e-6)
    together = slope(1.0, False)
    assert np.linalg.norm(together) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(
    "clipper", [clipax.value(10.0), clipax.per_leaf(1.0), clipax.spectral(2.0)]
)
def test_any_clipper_without_state_serves(clipper):
    x = jnp.ones(3)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(50 * clipax.clip_cotangent(x, clipper))))(x)
    expected = jax.jit(lambda x: clipax.clip(50 * x, clipper)[0])(x)
    np.testing.assert_array_equal(slope, expected)


def test_clipper_with_a_state_is_refused():
    for clipper in (clipax.adaptive(), clipax.spam(), clipax.error_feedback(clipax.value(1.0))):
        with pytest.raises(TypeError, match="`clipper` must be a clipper without a state"):
            clipax.clip_cotangent(jnp.ones(3), clipper)


def test_forward_mode_says_that_there_is_no_backward_pass():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: clipax.clip_cotangent(x, 1.0), (1.0,), (1.0,))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtype_is_kept(dtype):
    x = jnp.ones(3, dtype)
    y, pull = jax.vjp(lambda x: clipax.clip_cotangent(x, 1.0), x)
    (slope,) = pull(jnp.full(3, 9.0, dtype))
    assert y.dtype == slope.dtype == dtype
    assert np.linalg.norm(np.complex128(slope)) == pytest.approx(1.0, rel=1e-2)


# In cells: the recipe of Graves, derivatives of what goes into the gates within [-10, 10].


def test_linen_cell_is_clipped_at_each_step():
    class Clipped(nn.RNNCellBase):
        features: int

        @nn.compact
        def __call__(self, carry, x):
            carry = clipax.clip_cotangent(carry, clipax.value(1e-3))
            return nn.OptimizedLSTMCell(self.features)(carry, x)

        @property
        def num_feature_axes(self):
            return 1

        def initialize_carry(self, rng, shape):
            return nn.OptimizedLSTMCell(self.features, parent=None).initialize_carry(rng, shape)

    x = jnp.ones((2, 30, 3))
    model = nn.RNN(Clipped(4))
    rng, shapes = np.random.default_rng(0), jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)

    @jax.jit
    def slope(x):
        return jax.grad(lambda x: 1e6 * jnp.sum(model.apply(params, x)[:, -1]))(x)

    first, last = np.abs(slope(x)[:, 0]).max(), np.abs(slope(x)[:, -1]).max()
    assert last > 1e3 and first < 1e-2


def test_nnx_cell_is_clipped_at_each_step():
    class Clipped(nnx.LSTMCell):
        def __call__(self, carry, x):
            return super().__call__(clipax.clip_cotangent(carry, clipax.value(1e-3)), x)

    model = nnx.RNN(Clipped(3, 4, rngs=nnx.Rngs(0)))
    x = jnp.ones((2, 30, 3))
    slope = nnx.grad(lambda m, x: 1e6 * jnp.sum(m(x)[:, -1]), argnums=1)(model, x)
    assert np.abs(slope[:, -1]).max() > 1e3 and np.abs(slope[:, 0]).max() < 1e-2
