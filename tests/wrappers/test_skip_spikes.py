"""Steps that are skipped: which, what is left alone then, and what other trainers do instead."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_spikes
from compilations import compiled
from rows import sampled
from trees import mixed, plain
from updates import assert_same_bits

import clipax


def lognormal(length=400, seed=0, sigma=0.2):
    return np.random.default_rng(seed).lognormal(sigma=sigma, size=length)


def with_spikes(seed=0):
    series = lognormal(600, seed)
    series[[90, 91, 300, 301, 302, 450]] = [50, 1e20, 9, np.nan, np.inf, 30]
    return series


SERIES = {
    "calm": lognormal(),
    "spikes": with_spikes(),
    "level": np.concatenate([lognormal(200), 10 * lognormal(200, 1)]),
    "constant": np.full(300, 2.5),
    "zeros": np.concatenate([np.zeros(100), lognormal(200)]),
    "heavy": np.exp(np.random.default_rng(2).standard_t(2, size=500)),
    "falling": np.linspace(9, 1, 400),
    "small window": lognormal(200, 3),
    "huge": np.minimum(1e30 * with_spikes(4), 3e38),
}


@functools.cache
def stepper(inner=None, **options):
    optimizer = clipax.skip_spikes(inner or optax.sgd(1.0), **options)
    return optimizer, jax.jit(lambda g, s, **extra: optimizer.update(g, s, **extra))


@functools.cache
def looped(watch, **options):
    """Follows a series of any length; what comes behind its `count` values is not looked at."""
    optimizer, _ = stepper(watch=watch, **options)

    @jax.jit
    def loop(state, series, count):
        def step(i, carry):
            state, zero, told = carry
            gradient = series[i] if watch == "norm" else jnp.ones(())
            update, state = optimizer.update(gradient, state, value=series[i])
            skipped = state.spikes["skip_spikes"].skipped.astype(bool)
            return state, zero.at[i].set(update == 0), told.at[i].set(skipped)

        none = jnp.zeros(series.shape, bool)
        return jax.lax.fori_loop(0, count, step, (state, none, none))

    return optimizer, loop


def skips(series, watch="norm", **options):
    """Which steps are skipped, and the last metrics."""
    optimizer, loop = looped(watch, **options)
    padded = np.zeros(2000, np.float32)  # one length for all series
    padded[: len(series)] = series
    state, zero, told = loop(optimizer.init(jnp.zeros(())), padded, len(series))
    values, told = clipax.metrics(state), np.asarray(told)[: len(series)]
    if watch == "loss":
        np.testing.assert_array_equal(zero[: len(series)], told)
    assert int(values["skip_spikes/steps_skipped"]) == told.sum()
    return told, {key.removeprefix("skip_spikes/"): float(x) for key, x in values.items()}


# Which steps.


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("watch", ["norm", "loss"])
def test_skipped_steps_are_those_of_the_rule(name, watch):
    options = {"window": 16, "warmup": 4, "sigma": 3.0} if name == "small window" else {}
    found, _ = skips(SERIES[name], watch, **options)
    np.testing.assert_array_equal(found, reference_spikes.clipax(SERIES[name], **options))


def test_losses_may_be_negative():
    series = with_spikes() - 5
    found, _ = skips(series, "loss")
    np.testing.assert_array_equal(found, reference_spikes.clipax(series))
    assert found[90] and not found[:90].any()


@pytest.mark.parametrize("seed", range(5))
def test_calm_series_are_not_skipped(seed):
    found, _ = skips(lognormal(2000, seed))
    assert found.sum() <= 4


@pytest.mark.parametrize(("factor", "steps"), [(2, 10), (10, 30), (1e6, 130)])
def test_level_that_lasts_is_accepted(factor, steps):
    series = np.concatenate([lognormal(200, sigma=0.05), factor * lognormal(400, 1, sigma=0.05)])
    found, values = skips(series)
    assert not found[200 + steps :].any()
    assert values["restarts"] == 0 and values["consecutive"] == 0


def test_any_level_is_accepted_after_the_most_skips_in_a_row():
    series = np.concatenate([lognormal(100), 1e30 * lognormal(400, 1)])
    found, values = skips(series)
    assert found[100:300].all() and not found[300:].any()
    assert values["restarts"] == 1 and values["steps_skipped"] == 200
    found, values = skips(series, max_consecutive=3)
    assert found.sum() == 3 and values["restarts"] == 1


def test_nothing_that_is_not_finite_is_ever_accepted():
    series = np.concatenate([lognormal(100), np.full(500, np.nan), lognormal(50, 1)])
    found, values = skips(series)
    assert found[100:600].all() and not found[600:].any()
    assert values["nonfinite"] == 500 and values["consecutive"] == 0


def test_norm_above_the_largest_is_skipped_at_any_time_and_however_often():
    series = np.concatenate([[50.0], lognormal(20), np.full(300, 50.0)])
    found, _ = skips(series, max_norm=40.0)
    np.testing.assert_array_equal(found, series == 50)
    optimizer, update = stepper(watch="loss", max_norm=40.0)
    state = optimizer.init(jnp.zeros(()))
    for norm, skipped in ((39.0, 0), (41.0, 1), (np.nan, 1), (1.0, 0)):
        _, state = update(jnp.asarray(norm), state, value=jnp.ones(()))
        assert int(clipax.metrics(state)["skip_spikes/skipped"]) == skipped


def test_norm_above_the_largest_enters_as_the_largest():
    """One in the warm-up does not hide the spikes of the rest of the window."""
    series = lognormal(90)
    series[10], series[75] = 1e6, 39.0
    found, _ = skips(series, max_norm=40.0)
    assert np.flatnonzero(found).tolist() == [10, 75]


def test_no_level_above_the_largest_norm_is_accepted():
    series = np.concatenate([lognormal(100), np.full(20, 50.0), [39.0]])
    found, values = skips(series, max_norm=40.0, max_consecutive=10)
    assert found[100:].tolist() == [True] * 20 + [False]
    assert int(values["restarts"]) == 1


def test_both_are_watched():
    optimizer, update = stepper(watch="both", warmup=2)
    state = optimizer.init(jnp.zeros(()))
    cases = [(1, 1, 0), (1, 1, 0), (1, 9, 1), (9, 1, 1), (1, np.nan, 1), (np.inf, 1, 1), (1, 1, 0)]
    for norm, loss, skipped in cases:
        _, state = update(jnp.float32(norm), state, value=jnp.float32(loss))
        values = clipax.metrics(state)
        assert int(values["skip_spikes/skipped"]) == skipped
        np.testing.assert_equal(float(values["skip_spikes/norm"]), norm)
        np.testing.assert_equal(float(values["skip_spikes/loss"]), loss)
    assert int(values["skip_spikes/nonfinite"]) == 2


# The failures of others, shown not to happen here.


def test_constant_values_freeze_nothing():
    """A strict comparison with a deviation of 0, or of less than 0, skips for ever (AXLearn)."""
    for jitter in (0, 1e-4, 1e-3):
        series = 1 + jitter * np.random.default_rng(0).normal(size=2000)
        assert reference_spikes.axlearn(series)[-500:].all()
        for watch in ("norm", "loss"):
            assert not skips(series, watch)[0].any()


def test_one_nan_does_not_decide_about_the_steps_after_it():
    """It stays in the window of OLMo-core and MaxText, and stops the clipping of Levanter."""
    series = lognormal(400)
    series[150] = np.nan
    series[200] = 100
    found, _ = skips(series)
    np.testing.assert_array_equal(np.flatnonzero(found), [150, 200])
    assert reference_spikes.olmo_core(series)[151:270].all()
    assert not reference_spikes.levanter(series)[151:270].any()


def test_burst_is_skipped_and_so_is_the_next_spike():
    """With the values themselves in the window a few spikes let the next ones pass (OLMo-core)."""
    series = lognormal(300)
    series[200:210] *= 100
    series[250] = 100
    theirs = reference_spikes.olmo_core(series)
    assert not theirs[205:210].any() and not theirs[250]
    ours, _ = skips(series)
    assert ours[200:210].all() and ours[250] and ours.sum() == 11


def test_rise_of_a_constant_loss_by_little_is_no_spike():
    series = np.full(300, 2.5)
    series[200:] *= 1.001
    assert reference_spikes.olmo_core(series)[200]
    assert not skips(series, "loss")[0].any()


def test_nan_is_not_taken_after_many():
    """As `optax.apply_if_finite` does after `max_consecutive_errors`."""
    theirs = optax.apply_if_finite(optax.sgd(1.0), 3)
    state = theirs.init(jnp.zeros(()))
    update_theirs = jax.jit(theirs.update)
    for _ in range(5):
        update, state = update_theirs(jnp.full((), jnp.nan), state)
    assert np.isnan(update)
    optimizer, step = stepper(max_consecutive=3)
    state = optimizer.init(jnp.zeros(()))
    for _ in range(10):
        update, state = step(jnp.full((), jnp.nan), state)
        assert update == 0


# What is left alone.


def optimizer_with_state():
    return optax.chain(clipax.adaptive(window=5, warmup=0), optax.sgd(1e-2, momentum=0.9))


def test_skipped_step_leaves_the_optimizer_as_it_was_to_the_bit():
    optimizer = clipax.skip_spikes(optimizer_with_state(), warmup=3)
    update = jax.jit(optimizer.update)
    params = plain()
    state = optimizer.init(params)
    for i in range(6):
        _, state = update(plain(i), state, params)
    for bad in (plain(9, 1e6), jax.tree.map(lambda x: x * jnp.nan, plain()), plain(9, 1e36)):
        result, after = update(bad, state, params)
        assert_same_bits(after.inner, state.inner)
        assert all(not np.any(x) for x in jax.tree.leaves(result))


def test_steps_that_are_taken_are_those_of_the_optimizer_alone():
    inner = optimizer_with_state()
    optimizer = clipax.skip_spikes(inner, warmup=3)
    update, alone = jax.jit(optimizer.update), jax.jit(inner.update)
    state, expected_state = optimizer.init(plain()), inner.init(plain())
    for i, size in enumerate([1, 1.1, 0.9, 1, 1e5, 1, np.nan, 1.2]):
        gradient = plain(i, size)
        result, state = update(gradient, state)
        if size < 1e5:  # which the norm that is lost is not either
            expected, expected_state = alone(gradient, expected_state)
            assert_same_bits(result, expected)
    assert_same_bits(state.inner, expected_state)


def test_skipped_step_does_not_compute_the_update():
    called = []
    counted = optax.stateless(
        lambda updates, _: (jax.debug.callback(lambda: called.append(1)), updates)[1]
    )
    optimizer = clipax.skip_spikes(counted, warmup=2)
    update = jax.jit(optimizer.update)
    state = optimizer.init(jnp.zeros(()))
    for norm in (1, 1, 1, 99, np.nan, 1):
        _, state = update(jnp.float32(norm), state)
    jax.effects_barrier()
    assert len(called) == 4


def test_every_kind_of_leaf_passes():
    optimizer = clipax.skip_spikes(clipax.per_leaf(0.5), warmup=1)
    # float0 cannot be handed to `jit`.
    gradients = [mixed(seed, scale) for seed, scale in enumerate((1.0, 1.0, 1e4))]
    for seed, gradient in enumerate(gradients):
        gradient["cell"][0] = mixed(seed)["cell"][0]
        gradient["rest"].pop("none")
    update, clip = jax.jit(optimizer.update), jax.jit(clipax.per_leaf(0.5).update)
    state, inner = optimizer.init(gradients[0]), clipax.per_leaf(0.5).init(gradients[0])
    for gradient in gradients:
        result, state = update(gradient, state)
        expected, _ = clip(gradient, inner)
        assert jax.tree.structure(result) == jax.tree.structure(expected)
        for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert int(clipax.metrics(state)["skip_spikes/skipped"]) == 1
    floating = [x for x in jax.tree.leaves(result) if jnp.issubdtype(x.dtype, jnp.inexact)]
    assert all(not np.any(x) for x in floating)


# The loss.


def test_value_goes_before_loss():
    optimizer, update = stepper(watch="loss")
    state = optimizer.init(jnp.zeros(()))
    _, state = update(jnp.ones(()), state, value=jnp.float32(2.0), loss=jnp.float32(3.0))
    assert float(clipax.metrics(state)["skip_spikes/loss"]) == 2
    _, state = update(jnp.ones(()), state, loss=jnp.bfloat16(3.0))
    assert float(clipax.metrics(state)["skip_spikes/loss"]) == 3


def test_missing_loss_is_told():
    optimizer = clipax.skip_spikes(optax.sgd(1.0), watch="loss")
    state = optimizer.init(jnp.zeros(()))
    with pytest.raises(ValueError, match=r"update\(updates, state, params, value=loss\)"):
        optimizer.update(jnp.ones(()), state)
    with pytest.raises(ValueError, match=r"must be a scalar, got one of shape \(3,\)"):
        optimizer.update(jnp.ones(()), state, value=jnp.ones(3))


def test_extra_arguments_reach_the_optimizer():
    seen = {}

    def update(updates, state, params=None, **extra_args):
        seen.update(extra_args)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
    optimizer = clipax.skip_spikes(inner)
    optimizer.update(jnp.ones(()), optimizer.init(jnp.zeros(())), value=1.0, fn=abs)
    assert set(seen) == {"value", "fn"}


# In loops and transforms.


def test_state_is_a_carry_that_can_be_donated_and_resumed():
    optimizer = clipax.skip_spikes(optimizer_with_state(), warmup=3, watch="both")
    gradients = [plain(i, s) for i, s in enumerate([1, 1, 1, 1e5, 1, 1])]

    def step(state, gradient):
        return optimizer.update(gradient, state, value=jnp.sum(gradient["scalar"]))[::-1]

    update = jax.jit(step, donate_argnums=0)
    state, results = optimizer.init(plain()), []
    for gradient in gradients:
        state, result = update(state, gradient)
        results.append(result)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)
    last, outputs = jax.jit(lambda s: jax.lax.scan(step, s, stacked))(optimizer.init(plain()))
    for a, b in ((last, state), (outputs, jax.tree.map(lambda *xs: jnp.stack(xs), *results))):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_runs_in_a_batch_are_skipped_each_by_itself():
    optimizer, update = stepper(warmup=2)
    state = jax.vmap(optimizer.init)(jnp.zeros(3))
    for norms in ([1, 1, 1], [1, 1, 1], [1, 50, np.nan]):
        result, state = jax.vmap(update)(jnp.float32(norms), state)
    np.testing.assert_array_equal(result, [-1, 0, 0])


def test_name_is_the_prefix_of_the_metrics():
    optimizer = clipax.skip_spikes(
        optax.chain(clipax.global_norm(1.0), optax.sgd(1.0)), name="guard"
    )
    _, state = optimizer.update(jnp.full(4, 2.0), optimizer.init(jnp.zeros(4)))
    values = clipax.metrics(state)
    assert float(values["norm"]) == 4 and float(values["guard/norm"]) == 4
    assert np.isinf(values["guard/norm_threshold"])


def test_one_around_another_is_told_apart():
    optimizer = clipax.skip_spikes(clipax.skip_spikes(optax.sgd(1.0)))
    values = clipax.metrics(optimizer.init(jnp.zeros(())))
    assert len(values) == 2 * len(clipax.metrics(stepper()[0].init(jnp.zeros(()))))


MEASURING = {
    "the gradient": (optax.identity(), clipax.global_norm(1.0), 1),
    "another gradient": (optax.scale(2.0), clipax.global_norm(1.0), 2),
    "another norm": (optax.identity(), clipax.per_leaf(1.0), 2),
}


@sampled("case", MEASURING, ("the gradient", "another gradient"))
def test_clipper_inside_measures_nothing_again(case):
    """One pass for the norm, whoever needs it; another gradient or another norm has its own."""
    before, clipper, passes = case
    optimizer = optax.chain(before, clipper, optax.sgd(1.0))
    gradient = [jnp.ones((64, 64)), jnp.ones(3)]

    def updated(optimizer):
        state = optimizer.init(gradient)
        update = jax.jit(optimizer.update).lower(gradient, state).compile()
        return update.as_text().count(" conditional("), update(gradient, state)[0]

    (alone, expected), (wrapped, found) = map(updated, (optimizer, clipax.skip_spikes(optimizer)))
    assert wrapped - alone == passes  # one is that of the wrapper, and each norm has one
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)


def test_repeated_eager_updates_compile_nothing():
    optimizer = clipax.skip_spikes(optimizer_with_state(), warmup=2)
    state = optimizer.init(plain())
    sizes = (1.0, 1.0, 1.0, 1e5)
    for i, size in enumerate(sizes):
        _, state = optimizer.update(plain(i, size), state)
    before = len(compiled)
    for i, size in enumerate(sizes):
        _, state = optimizer.update(plain(i, size), state)
    assert compiled[before:] == []
