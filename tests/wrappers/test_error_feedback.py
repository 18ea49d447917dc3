"""What is cut off comes back: conservation, rounding, what is lost, memory."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import BY_NAME
from numpy_groups import inexact
from rows import sampled
from trees import mixed, plain, with_dtype
from updates import assert_same_bits, run, series

import clipax

NAMES = ["global_norm", "per_layer", "value", "adaptive", "unit", "adagc", "skip", "spectral"]
MODES = ("propagate", "zero", "sanitize")
LOST = {f"{mode}-{name}": (name, mode) for mode in MODES for name in NAMES}


@functools.cache
def fed_back(name, nonfinite="propagate"):
    return clipax.error_feedback(BY_NAME[name].make(nonfinite=nonfinite))


@sampled("name", {name: name for name in NAMES}, ("value", "unit"))
def test_gradient_and_buffer_before_are_update_and_buffer_after(name):
    clipper = fed_back(name, nonfinite="propagate")
    state = clipper.init(plain())
    for gradient in series(8):
        before = jax.tree.map(lambda g, e: np.float64(g) + np.float64(e), gradient, state.buffer)
        (update,), state = run(clipper, [gradient], state)
        after = jax.tree.map(lambda u, e: np.float64(u) + np.float64(e), update, state.buffer)
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_allclose(y, x, rtol=0, atol=2 * 2.0**-23 * np.abs(x).max())


def test_dyadic_values_are_conserved_to_the_bit():
    rng = np.random.default_rng(0)
    clipper = clipax.error_feedback(clipax.value(0.5))
    update = jax.jit(clipper.update)
    state, come, gone = clipper.init(jnp.zeros(50)), np.zeros(50), np.zeros(50)
    for _ in range(100):
        gradient = np.float32(rng.integers(-64, 64, 50) / 64)
        result, state = update(gradient, state)
        come, gone = come + gradient, gone + np.asarray(result)
        np.testing.assert_array_equal(come, gone + np.asarray(state.buffer))


def test_what_was_cut_off_comes_back_and_no_more():
    clipper = clipax.error_feedback(clipax.global_norm(1.0))
    gradients = [jnp.asarray([3.0, 4.0])] + [jnp.zeros(2)] * 7
    results, state = run(clipper, gradients)
    np.testing.assert_allclose(np.sum(results, axis=0), [3, 4], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(results[:5], axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(results[5:], 0, atol=1e-6)
    np.testing.assert_allclose(state.buffer, 0, atol=1e-6)


def test_mean_of_the_updates_is_that_of_the_gradients():
    """Heavy tails: the clipper alone is biased, with feedback it is not."""
    rng = np.random.default_rng(0)
    gradients = np.float32(rng.exponential(size=4000) ** 2)

    def mean(clipper):
        def step(state, gradient):
            return clipper.update(gradient, state)[::-1]

        _, updates = jax.lax.scan(step, clipper.init(jnp.zeros(())), jnp.asarray(gradients))
        return float(jnp.mean(updates))

    threshold = 3.0
    assert mean(clipax.value(threshold)) < 0.8 * gradients.mean()
    fed = mean(clipax.error_feedback(clipax.value(threshold)))
    assert fed == pytest.approx(gradients.mean(), rel=0.02)


def test_decay_bounds_the_buffer():
    decays = np.array([0.0, 0.5, 0.9], np.float32)

    def last(decay):
        clipper = clipax.error_feedback(clipax.global_norm(1.0), decay=decay)
        gradients = jnp.full((60, 4), 50.0)
        step = lambda state, g: (clipper.update(g, state)[1], None)  # noqa: E731
        return jax.lax.scan(step, clipper.init(gradients[0]), gradients)[0].buffer

    buffers = np.abs(jax.jit(jax.vmap(last))(decays)).max(axis=1)
    assert (buffers <= decays / (1 - decays) * 50).all()
    results, _ = run(clipax.error_feedback(clipax.adaptive(), decay=0.0), series(6))
    expected, _ = run(clipax.adaptive(), series(6))
    assert_same_bits(results, expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_are_fed_back_in_float32(dtype):
    gradient = with_dtype(plain(1, 2.0), dtype)
    clipper = clipax.error_feedback(clipax.global_norm(0.3))
    state = clipper.init(gradient)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.buffer))
    came = jax.tree.map(lambda x: np.zeros(x.shape), gradient)
    gone = came
    for _ in range(20):
        (result,), state = run(clipper, [gradient], state)
        assert all(x.dtype == dtype for x in jax.tree.leaves(result))
        came, gone = (
            jax.tree.map(lambda a, b: a + np.float64(b), total, new)
            for total, new in ((came, gradient), (gone, result))
        )
    whole = jax.tree.map(lambda u, e: u + np.float64(e), gone, state.buffer)
    chex.assert_trees_all_close(whole, came, rtol=1e-5, atol=1e-4)


def test_every_kind_of_leaf_is_kept():
    clipper = clipax.error_feedback(clipax.per_leaf(0.5))
    gradient = mixed(3)

    def check():
        result, state = clipper.update(gradient, clipper.init(gradient))
        result, _ = clipper.update(gradient, state)
        chex.assert_trees_all_equal_structs(result, gradient)
        for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(gradient), strict=True):
            assert x.shape == y.shape and x.dtype == y.dtype
            if inexact(y):
                assert x.weak_type == y.weak_type
            else:
                assert x is y

    jax.eval_shape(check)


# What is lost enters nothing.


@sampled("lost", LOST, (
    "propagate-value", "propagate-unit", "zero-adagc", "zero-skip", "sanitize-per_layer",
))  # fmt: skip
@pytest.mark.parametrize("at", [0, 3])
def test_nonfinite_step_leaves_the_state_as_if_it_had_not_been(lost, at):
    name, nonfinite = lost
    clipper, good = fed_back(name, nonfinite=nonfinite), series(6)
    bad = jax.tree.map(lambda x: np.full_like(x, np.nan), plain())
    _, expected = run(clipper, good)
    results, state = run(clipper, [*good[:at], bad, *good[at:]])
    assert_same_bits(state.buffer, expected.buffer)
    lost = jax.tree.leaves(results[at])
    assert all(np.isnan(x).all() if nonfinite == "propagate" else not np.any(x) for x in lost)


@pytest.mark.parametrize("nonfinite", MODES)
def test_group_that_is_not_hit_goes_on(nonfinite):
    clipper = clipax.error_feedback(clipax.per_leaf(0.5, nonfinite=nonfinite))
    good = {"a": jnp.asarray([2.0, 0.0]), "b": jnp.asarray([3.0, 0.0])}
    bad = good | {"a": jnp.asarray([2.0, jnp.inf])}
    _, before = run(clipper, [good])
    _, after = run(clipper, [bad], before)
    np.testing.assert_array_equal(after.buffer["b"], [5.0, 0.0])
    if nonfinite == "sanitize":  # the rest of the group is clipped and fed back
        np.testing.assert_array_equal(after.buffer["a"], [3.0, 0.0])
    else:
        np.testing.assert_array_equal(after.buffer["a"], before.buffer["a"])


# The state.


def test_buffer_is_one_float32_copy_and_is_updated_in_place():
    gradient = jnp.ones((512, 512), jnp.bfloat16)
    clipper = clipax.error_feedback(clipax.global_norm(1.0))
    state = clipper.init(gradient)
    small = sum(x.nbytes for x in jax.tree.leaves(state)) - 4 * gradient.size
    assert small < 100
    update = jax.jit(clipper.update, donate_argnums=(0, 1)).lower(gradient, state).compile()
    memory = update.memory_analysis()
    assert memory.alias_size_in_bytes >= 4 * gradient.size
    copies = 1 if jax.__version_info__ >= (0, 12) else 2  # older compilers hold the update as well
    assert memory.temp_size_in_bytes <= 4 * copies * gradient.size + 10_000


def test_buffer_is_found_by_tree_map_params():
    params = plain()
    clipper = clipax.error_feedback(clipax.adaptive())
    state = optax.tree_utils.tree_map_params(
        clipper, lambda _, param: jnp.full_like(param, 7.0), clipper.init(params), params
    )
    assert all(np.all(x == 7) for x in jax.tree.leaves(state.buffer))
    assert not any(np.any(x == 7) for x in jax.tree.leaves(state.inner))


def test_derivative_is_that_of_the_formula():
    """Through two steps: of what is clipped at the second as well."""
    clipper = clipax.error_feedback(clipax.global_norm(1.0))

    def last(gradient):
        _, state = clipper.update(gradient, clipper.init(gradient))
        return jnp.sum(clipper.update(gradient, state)[0] * jnp.arange(1.0, 4.0))

    x = jnp.asarray([3.0, -1.0, 2.0])
    steps = 1e-2 * jnp.eye(3)
    values, slope = jax.jit(jax.vmap(last)), jax.jit(jax.grad(last))
    numeric = (values(x + steps) - values(x - steps)) / 2e-2
    np.testing.assert_allclose(slope(x), numeric, atol=2e-3)
    assert np.isfinite(slope(jnp.zeros(3))).all()
