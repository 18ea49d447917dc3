"""The laws of `jit`, of derivatives, and of what else `update` is given."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import mixed, norm_of, plain
from compilations import compiled
from laws import every, rows, run, series
from norms import enable_x64

import clipax

# Law 8: eager equals jit, nothing compiles twice, unknown arguments pass.


@every
@pytest.mark.parametrize("placed", [jax.device_put, jax.device_get], ids=["device", "numpy"])
def test_eager_equals_jit_and_makes_no_nan(row, placed):
    """With `jax_debug_nans`, which raises where an operation gives one."""
    clipper, gradients = row.make(), [*series(3), jax.tree.map(jnp.zeros_like, plain())]
    expected, end = run(clipper, gradients)
    state = placed(clipper.init(gradients[0]))
    with jax.debug_nans(True):
        for gradient, right in zip(gradients, expected, strict=True):
            result, state = clipper.update(placed(gradient), state)
            chex.assert_trees_all_close(result, right, rtol=1e-6)
    chex.assert_trees_all_close(state, end, rtol=1e-6)


@every
def test_update_is_traced_once(row):
    """A state that comes back is the same to `jit` as one from `init`."""
    chex.clear_trace_counter()
    clipper = row.make()
    update = jax.jit(chex.assert_max_traces(lambda g, s: clipper.update(g, s), n=1))
    _, state = update.eval_shape(plain(), clipper.init(plain()))
    update.eval_shape(plain(), state)


@every
def test_repeated_eager_updates_compile_nothing(row):
    clipper = row.make()
    state = clipper.init(mixed())
    for seed in range(2):
        _, state = clipper.update(mixed(seed), state)
    before = len(compiled)
    for seed in range(3):
        _, state = clipper.update(mixed(seed), state)
    assert compiled[before:] == []


def test_compilations_are_seen():
    before = len(compiled)
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(7)).block_until_ready()
    assert len(compiled) > before


@every
@pytest.mark.parametrize("x64", [False, True])
def test_nothing_is_promoted_implicitly(row, x64):
    """An update is traced where JAX refuses to mix dtypes and ranks."""
    assert_promotes_nothing(row.make(nonfinite="sanitize"), x64)


WRAPPED = {
    "skip_spikes": clipax.skip_spikes(clipax.global_norm(1.0), watch="both"),
    "error_feedback": clipax.error_feedback(clipax.per_leaf(1.0)),
    "monitor": clipax.monitor(),
    "momentum_reset": clipax.momentum_reset(optax.identity()),
}


@pytest.mark.parametrize("wrapper", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("x64", [False, True])
def test_no_wrapper_promotes_implicitly(wrapper, x64):
    assert_promotes_nothing(wrapper, x64)


def assert_promotes_nothing(transformation, x64):
    strict = jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")
    with strict[0], strict[1], enable_x64(x64):
        gradient = mixed()
        state = transformation.init(gradient)
        jax.eval_shape(lambda s: transformation.update(gradient, s, value=1.0)[1], state)


@pytest.mark.parametrize("wrapper", WRAPPED.values(), ids=WRAPPED)
def test_no_wrapper_makes_nan_of_finite_gradients(wrapper):
    with jax.debug_nans(True):
        stepped(wrapper, [*series(3), jax.tree.map(jnp.zeros_like, plain())])


def stepped(transformation, gradients):
    """The results of `update` line by line."""
    results, state = [], transformation.init(gradients[0])
    for gradient in gradients:
        result, state = transformation.update(gradient, state, gradient, value=1.0)
        results.append(result)
    return results


@every
def test_disabled_jit_changes_no_result(row):
    clipper, gradients = row.make(), series(2)
    with jax.disable_jit():
        results = stepped(clipper, gradients)
    expected, _ = run(clipper, gradients)
    chex.assert_trees_all_close(results, expected, rtol=1e-6, atol=row.error)


@pytest.mark.parametrize("wrapper", WRAPPED.values(), ids=WRAPPED)
def test_disabled_jit_changes_no_result_of_a_wrapper(wrapper):
    gradients = series(2)
    with jax.disable_jit():
        results = stepped(wrapper, gradients)
    chex.assert_trees_all_close(results, stepped(wrapper, gradients), rtol=1e-6)


@every
def test_unknown_extra_arguments_are_accepted(row):
    gradient = plain()
    clipper = row.make()
    result, _ = clipper.update(
        gradient, clipper.init(gradient), gradient, value=1.0, step=7, fn=lambda x: x
    )
    chex.assert_trees_all_close(result, run(clipper, [gradient])[0][0], rtol=1e-6)


def test_extra_arguments_reach_the_policy():
    seen = {}

    def update(norm, state, *, step, param_norm, loss, **extra_args):
        seen.update(step=step, loss=loss, params=param_norm())
        return jnp.asarray(1.0), state

    policy = clipax.ThresholdPolicy(lambda norm: (), update)
    clipper = clipax.global_norm(policy)
    gradient = [jnp.ones(4)]
    clipper.update(gradient, clipper.init(gradient), [jnp.full(4, 3.0)], loss=0.25, epoch=2)
    assert seen["loss"] == 0.25 and int(seen["step"]) == 0
    assert float(seen["params"][0]) == 6.0


# Law 10: derivatives are finite wherever the true one is.


def layer(seed, scale=1.0):
    return {"dense": plain(seed, scale)["dense"]}


@functools.cache
def derivatives(row):
    """Along one direction, forward and backward, as a function of the gradient of a layer."""
    clipper, direction = row.make(), layer(14)
    state = clipper.init(direction)

    def clipped(gradient):
        return clipper.update(gradient, state)[0]

    def both(gradient):
        forward = jax.jvp(clipped, (gradient,), (direction,))[1]
        return forward, jax.vjp(clipped, gradient)[1](direction)[0]

    return jax.jit(both)


@every
def test_derivatives_are_finite(row):
    enlarged = row.rule in ("normalize", "stable_spam")  # see the docstring of `rules.normalize`
    tiny = 1e-15 if enlarged else 1e-30
    for magnitude in (0.0, 1.0, 1e25, tiny):
        for x in jax.tree.leaves(derivatives(row)(layer(12, magnitude))):
            assert np.isfinite(np.asarray(x)).all(), magnitude


@rows("rescale", "normalize", "smooth", "spectral", "soft_spectral", fixed=True)
def test_derivative_far_above_the_threshold_scales_like_one_over_the_norm(row):
    if row.groups == "element":
        return  # an entry beyond its threshold does not depend on the gradient at all
    _, near = derivatives(row)(layer(12, 1e5))
    _, far = derivatives(row)(layer(12, 1e25))
    near = jax.tree.map(lambda x: x * 1e-20, near)
    largest = max(float(jnp.max(abs(x))) for x in jax.tree.leaves(near))
    chex.assert_trees_all_close(far, near, rtol=1e-3, atol=1e-4 * largest)


@rows("rescale", "smooth", "normalize", "spectral", "soft_spectral", fixed=True)
def test_derivative_is_that_of_the_formula(row):
    """Against finite differences, at a gradient that is clipped and one that is not."""
    with enable_x64():
        clipper = row.make()
        gradient = jax.tree.map(lambda x: x.astype(jnp.float64), plain(13))
        state = clipper.init(gradient)
        flat, unravel = jax.flatten_util.ravel_pytree(gradient)
        weights = jnp.asarray(np.random.default_rng(0).normal(size=flat.size))

        @jax.jit
        @jax.value_and_grad
        def f(x):
            result = clipper.update(unravel(x), state)[0]
            return weights @ jax.flatten_util.ravel_pytree(result)[0]

        for magnitude in (3.0, 0.01):
            x, steps = magnitude * flat, 1e-6 * magnitude * np.eye(flat.size)
            numeric = [(f(x + d)[0] - f(x - d)[0]) / (2e-6 * magnitude) for d in steps]
            np.testing.assert_allclose(f(x)[1], numeric, rtol=1e-5, atol=1e-6)


# Law 11: params are needed only where the threshold needs them.


def test_missing_params_are_named():
    def update(norm, state, *, step, param_norm, **extra_args):
        return 0.01 * param_norm(), state

    clipper = clipax.clip_by(
        clipax.measures.per_leaf(), clipax.ThresholdPolicy(lambda norm: (), update), name="mine"
    )
    gradient = [jnp.ones(3)]
    state = clipper.init(gradient)
    with pytest.raises(ValueError, match=r"(?s)update\(updates, state, params\).*'mine'"):
        clipper.update(gradient, state)
    result, _ = clipper.update(gradient, state, [jnp.full(3, 2.0)])
    assert norm_of([np.asarray(result[0], np.float64)], 2) == pytest.approx(0.02 * 3**0.5)


@every
def test_clippers_of_the_gradient_alone_need_no_params(row):
    clipper = row.make()
    clipper.update(plain(), clipper.init(plain()))
