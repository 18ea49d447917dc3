"""Clippers inside and around what optax, Flax and jmp wrap: accumulation, masks, loss scales."""

import functools

import chex
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
import pytest
from catalogue import BY_NAME
from flax.training.dynamic_scale import DynamicScale
from numpy_groups import norm_of
from rows import sampled
from trees import plain, with_dtype
from updates import assert_same_bits, series, steps

import clipax

NAMES = ("global_norm", "value", "adaptive", "adagc", "unit")


def names(*default):
    return sampled("name", {name: name for name in NAMES}, default)


# Accumulation


@names("adaptive")
def test_accumulated_gradient_is_clipped_once(name):
    optimizer = optax.chain(BY_NAME[name].make(), optax.sgd(1.0))
    micro = series(8)
    means = [jax.tree.map(lambda a, b: (a + b) / 2, *micro[i : i + 2]) for i in range(0, 8, 2)]
    found, state = steps(optax.MultiSteps(optimizer, 2), micro)
    expected, inner = steps(optimizer, means)
    chex.assert_trees_all_close(found[1::2], expected, rtol=1e-5, atol=1e-6)
    assert all(not np.any(x) for x in jax.tree.leaves(found[::2]))
    assert int(clipax.metrics(state).get("nonfinite", 0)) == 0
    assert int(state.inner_opt_state[0].step) == int(inner[0].step) == 4


# Masks and partitions

MASK = {"dense": {"kernel": True, "bias": False}, "scalar": True}


@names("adaptive", "value")
def test_masked_leaves_do_not_count_and_pass(name):
    clipper, gradients = BY_NAME[name].make(), series(5)
    found, _ = steps(optax.masked(clipper, MASK), gradients)
    chosen = [{"dense": {"kernel": g["dense"]["kernel"]}, "scalar": g["scalar"]} for g in gradients]
    expected, _ = steps(clipper, chosen)
    for result, right, gradient in zip(found, expected, gradients, strict=True):
        assert_same_bits(result["dense"]["bias"], gradient["dense"]["bias"])
        chex.assert_trees_all_close(result["dense"]["kernel"], right["dense"]["kernel"], rtol=1e-6)
        chex.assert_trees_all_close(result["scalar"], right["scalar"], rtol=1e-6)


@names("adagc")
def test_frozen_parameters_count_in_no_norm(name):
    labels = {"dense": "train", "scalar": "frozen"}
    clipper, gradients = BY_NAME[name].make(), series(5)
    parts = {"train": optax.chain(clipper, optax.sgd(1.0)), "frozen": optax.set_to_zero()}
    found, state = steps(optax.partition(parts, labels), gradients)
    expected, _ = steps(parts["train"], [{"dense": g["dense"]} for g in gradients])
    for result, right in zip(found, expected, strict=True):
        chex.assert_trees_all_close(result["dense"], right["dense"], rtol=1e-6)
        assert float(result["scalar"]) == 0
    assert clipax.metrics(state)


def test_norm_around_a_partition_is_that_of_all():
    labels = {"dense": "slow", "scalar": "fast"}
    parts = {"slow": optax.sgd(0.1), "fast": optax.sgd(1.0)}
    gradient = plain(3, 5.0)
    optimizer = optax.chain(clipax.global_norm(1.0), optax.partition(parts, labels))
    (update,), state = steps(optimizer, [gradient])
    whole = norm_of([np.float64(x) for x in jax.tree.leaves(gradient)], 2)
    assert float(clipax.metrics(state)["norm"]) == pytest.approx(whole, rel=1e-6)
    np.testing.assert_allclose(update["scalar"], -gradient["scalar"] / whole, rtol=1e-6)
    np.testing.assert_allclose(
        update["dense"]["bias"], -0.1 * gradient["dense"]["bias"] / whole, rtol=1e-6
    )


# What is not finite


@names("adaptive")
def test_skipping_what_is_not_finite_agrees_with_optax(name):
    inner = optax.chain(BY_NAME[name].make(), optax.adam(0.1))
    good = series(5)
    bad = jax.tree.map(lambda x: x * jnp.nan, plain())
    gradients = [*good[:3], bad, *good[3:]]
    expected, _ = steps(inner, good)
    skipping = (clipax.skip_spikes(inner), optax.apply_if_finite(inner, 5))
    for optimizer in skipping:
        found, state = steps(optimizer, gradients)
        assert all(not np.any(x) for x in jax.tree.leaves(found[3]))
        chex.assert_trees_all_close([*found[:3], *found[4:]], expected, rtol=1e-5, atol=1e-7)
        assert int(clipax.metrics(state).get("nonfinite", 0)) == 0


# Hyperparameters


def test_threshold_is_changed_without_another_compilation():
    inject = optax.inject_hyperparams(clipax.adaptive, static_args=("percentile", "window"))
    clipper = inject(50.0, window=8, multiplier=2.0, warmup=1)
    update = jax.jit(clipper.update)
    state = clipper.init(plain())
    for multiplier in (2.0, 0.5, 0.25):
        state.hyperparams["multiplier"] = jnp.asarray(multiplier)
        result, state = update(plain(), state)
        share = norm_of([np.float64(x) for x in jax.tree.leaves(result)], 2) / norm_of(
            [np.float64(x) for x in jax.tree.leaves(plain())], 2
        )
        assert share == pytest.approx(min(1.0, multiplier), rel=1e-6)
    assert update._cache_size() == 1


def trained(optimizer, params, point=lambda params: params):
    """Parameters and metrics after steps on a quadratic, with one exploding gradient on the way."""
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, size):
        updates, state = optimizer.update(size * point(params), state, params)
        return optax.apply_updates(params, updates), state

    for i in range(150):
        params, state = step(params, state, 1e6 if i == 20 else 1.0)
    return params, state


START = np.float32([3.0, -2.0])


def assert_learnt(end, state):
    assert float(jnp.linalg.norm(end)) < 0.5
    assert 0 < float(clipax.metrics(state)["clip_rate"]) < 1


def test_schedule_free_training_survives_a_spike():
    inner = optax.chain(clipax.global_norm(1.0), optax.sgd(0.1))
    params, state = trained(optax.contrib.schedule_free(inner, 0.1), jnp.asarray(START))
    assert_learnt(optax.contrib.schedule_free_eval_params(state, params), state)


def test_lookahead_training_survives_a_spike():
    inner = optax.chain(clipax.global_norm(1.0), optax.sgd(0.1))
    params = optax.LookaheadParams.init_synced(jnp.asarray(START))
    params, state = trained(optax.lookahead(inner, 3, 0.5), params, lambda params: params.fast)
    assert_learnt(params.slow, state)


# Mixed precision


def half_loss(params, x):
    return jnp.mean((x @ params["w"].astype(jnp.float16)) ** 2)


X = np.float16(np.random.default_rng(0).normal(size=(6, 16, 4)))


def scaled_by_flax(scale, params, x):
    scale, finite, _, gradient = scale.value_and_grad(half_loss)(params, x)
    return scale, finite, gradient


def scaled_by_jmp(scale, params, x):
    scaled = jax.grad(lambda params: scale.scale(half_loss(params, x)))(params)
    gradient = scale.unscale(scaled)
    finite = jmp.all_finite(gradient)
    return scale.adjust(finite), finite, gradient


@functools.cache
def step_in_half(optimizer, package):
    scaled = scaled_by_flax if package == "flax" else scaled_by_jmp

    def step(dynamic, params, state, x):
        dynamic, finite, gradient = scaled(dynamic, params, x)
        updates, new = optimizer.update(gradient, state, params)
        new = optax.apply_updates(params, updates), new
        return dynamic, *jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, (params, state))

    return jax.jit(step)


def trained_in_half(optimizer, scale, package="flax"):
    """Parameters and state after six steps, the gradients being unscaled before the optimizer."""
    params = {"w": jnp.asarray([0.5, -0.25, 1.0, 0.125])}
    state = optimizer.init(params)
    scale = jnp.asarray(scale)
    dynamic = DynamicScale(scale=scale) if package == "flax" else jmp.DynamicLossScale(scale)
    for x in X:
        dynamic, params, state = step_in_half(optimizer, package)(dynamic, params, state, x)
    return params, state


@functools.cache
def clipped_adam(name):
    return optax.chain(BY_NAME[name].make(), optax.adam(1e-2))


SCALES = {"flax-64": ("flax", 2.0**6), "flax-1024": ("flax", 2.0**10), "jmp-1024": ("jmp", 2.0**10)}


@names("adaptive")
@sampled("scaled", SCALES, ["jmp-1024"])
def test_clipping_is_the_same_at_any_loss_scale(name, scaled):
    package, scale = scaled
    optimizer = clipped_adam(name)
    expected, usual = trained_in_half(optimizer, 1.0)
    params, state = trained_in_half(optimizer, scale, package)
    chex.assert_trees_all_close(params, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(state[0], usual[0], rtol=5e-3, atol=1e-6)


@sampled("package", {"flax": "flax", "jmp": "jmp"}, ["flax"])
def test_step_that_overflows_leaves_no_trace(package):
    """At a scale of 2^17 all gradients overflow; the scale falls, and the first step is taken."""
    _, state = trained_in_half(clipped_adam("adaptive"), 2.0**18, package)
    assert int(clipax.metrics(state)["nonfinite"]) == 0
    assert 0 < int(state[0].step) < len(X)
    assert float(clipax.metrics(state)["norm"]) < 100


def test_clipping_before_unscaling_clips_another_gradient():
    gradient, scale = {"w": jnp.asarray([0.3, 0.4], jnp.float16)}, 1024.0
    scaled = jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradient)
    unscaled = jax.tree.map(lambda g: g.astype(jnp.float32) / scale, scaled)
    right, _ = clipax.clip(unscaled, clipax.global_norm(1.0))
    wrong, _ = clipax.clip(scaled, clipax.global_norm(1.0))
    np.testing.assert_allclose(right["w"], [0.3, 0.4], rtol=1e-3)
    np.testing.assert_allclose(wrong["w"] / scale, np.array([0.6, 0.8]) / scale, rtol=1e-3)


@names("adagc")
def test_training_in_bfloat16_keeps_its_dtypes_and_learns(name):
    optimizer = optax.chain(BY_NAME[name].make(), optax.adam(0.05))
    params = with_dtype(plain(1), jnp.bfloat16)
    start = jax.tree.map(jnp.float32, params)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(params, state, params)  # of the loss sum(x**2) / 2
        return optax.apply_updates(params, updates), state

    for _ in range(60):
        params, state = step(params, state)
        assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(params))
    before, after = (float(optax.tree_utils.tree_norm(t)) for t in (start, params))
    assert after < 0.5 * before
