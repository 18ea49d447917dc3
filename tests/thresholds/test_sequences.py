"""The thresholds over any sequence of norms: the sorted window, sound states, the whole range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from replays import EACH, LARGEST, LENGTH, POLICIES, replay, series
from rows import sampled

import clipax
from clipax import thresholds

# The sorted window.


usual = st.floats(0, LARGEST, width=32, allow_subnormal=False)
few = st.sampled_from([0.0, 1.0, 2.0, 2.5, 1e30])  # many duplicates
sequences = hnp.arrays(np.float32, LENGTH, elements=usual) | hnp.arrays(
    np.float32, LENGTH, elements=few
)
any_norm = usual | few | st.sampled_from([np.nan, np.inf])
rough = hnp.arrays(np.float32, LENGTH, elements=any_norm)


@functools.cache
def percentile_policy(percentile, window):
    return thresholds.window_percentile(percentile, window=window)


@sampled("window", {str(n): n for n in (1, 2, 7, 40, 60)}, ("7", "60"))
@settings(max_examples=40)
@given(norms=sequences)
def test_sorted_window_is_a_sorted_copy_of_the_ring(window, norms):
    _, states, _ = replay(percentile_policy(50.0, window), norms)
    ring = np.asarray(states.history.values)
    np.testing.assert_array_equal(np.sort(ring, axis=1), states.ascending)
    for step in (0, window // 2, LENGTH - 1):
        if step < LENGTH:
            kept = np.sort(norms[max(0, step + 1 - window) : step + 1])
            np.testing.assert_array_equal(np.asarray(states.ascending)[step, : kept.size], kept)
            assert np.isinf(np.asarray(states.ascending)[step, kept.size :]).all()


def test_sorted_window_stays_sorted_over_a_long_series():
    _, states, _ = replay(percentile_policy(50.0, 17), series(3))
    np.testing.assert_array_equal(np.sort(states.history.values, axis=1), states.ascending)


PERCENTILES = (0.0, 12.5, 50.0, 95, 99.9, 100.0)
PARTS = {f"{window}-{p}": (window, p) for window in (1, 7, 60) for p in PERCENTILES}


@sampled("part", PARTS, ("7-0.0", "1-50.0", "60-99.9", "7-100.0"))
@settings(max_examples=15)
@given(norms=sequences)
def test_percentile_is_that_of_numpy_for_windows_partly_and_wholly_filled(part, norms):
    window, percentile = part
    values, _, _ = replay(percentile_policy(percentile, window), norms)
    held = [norms[max(0, i + 1 - window) : i + 1].astype(np.float64) for i in range(LENGTH)]
    expected = np.array([np.percentile(x, percentile) for x in held])
    expected = np.where(expected == 0, np.inf, expected)
    normal = expected > 1e-37
    np.testing.assert_allclose(values[normal], expected[normal], rtol=4e-7)


# Any sequence of norms.


@sampled("policy", POLICIES, EACH)
@settings(max_examples=40)
@given(norms=rough)
def test_any_sequence_of_norms_leaves_a_sound_state_and_threshold(policy, norms):
    values, states, last = replay(policy, norms)
    assert not np.isnan(values).any()
    for leaf in jax.tree.leaves(states):
        assert not np.isnan(np.asarray(leaf)).any()
    if hasattr(last, "ascending"):  # what no norm has filled yet is infinite
        filled = min(int(last.history.seen), last.ascending.shape[0])
        assert np.isfinite(last.ascending[:filled]).all()
        assert np.isinf(last.ascending[filled:]).all()
        assert int(last.history.seen) == np.isfinite(norms).sum()
    else:
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(states))


@functools.cache
def clipper_of(name):
    return clipax.global_norm(POLICIES[name], nonfinite="zero")


@functools.partial(jax.jit, static_argnums=0)
def _norms_after(clipper, norms):
    def step(state, norm):
        result, state = clipper.update([norm[None]], state)
        return state, (result[0][0], clipax.metrics(state)["threshold"])

    return jax.lax.scan(step, clipper.init([jnp.zeros(1)]), norms)


@sampled("name", {name: name for name in POLICIES}, EACH)
@settings(max_examples=40)
@given(norms=rough)
def test_clipped_norm_is_finite_and_never_above_the_threshold(name, norms):
    last, (after, values) = _norms_after(clipper_of(name), norms)
    assert np.isfinite(after).all() and not np.isnan(values).any()
    assert (np.asarray(values) >= 0).all()
    assert (np.asarray(after) <= np.asarray(values)).all()
    assert not any(np.isnan(np.asarray(x)).any() for x in jax.tree.leaves(last.policy))


@sampled("policy", POLICIES, ("window_percentile",))
def test_norm_that_is_not_finite_leaves_the_policy_as_it_was(policy):
    clean = np.array([1.0, 2.0, 0.5, 3.0, 9.0, 0.1], np.float32)
    spoiled = np.insert(clean, [0, 2, 2, 6], [np.nan, np.inf, np.nan, np.inf])
    _, _, expected = replay(policy, clean)
    _, _, found = replay(policy, spoiled.astype(np.float32))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


# Range.


def test_mean_of_the_largest_norms_does_not_overflow():
    policy = thresholds.moving_mean(1.0, window=1000)
    values, _, last = replay(policy, np.full(1200, 3e38, np.float32))
    np.testing.assert_allclose(values[1:], 3e38, rtol=1e-6)
    assert np.isfinite(last.history.values).all()


def test_mean_of_the_smallest_norms_does_not_vanish():
    tiny = np.float32(1.2e-38)
    values, _, _ = replay(thresholds.moving_mean(1.0, window=1000), np.full(1200, tiny))
    np.testing.assert_allclose(values[1:], tiny, rtol=1e-6)
    values, _, _ = replay(
        thresholds.moving_mean(1.0, window=4), np.array([2e38, 0, 0, 0, 0], np.float32)
    )
    np.testing.assert_allclose(values[1:], [2e38, 1e38, 2e38 / 3, 5e37], rtol=1e-6)


def test_percentile_spans_the_whole_range():
    norms = np.array([1.2e-38, 3e38, 3e38, 1.2e-38], np.float32)
    values, _, _ = replay(percentile_policy(50.0, 7), norms)
    np.testing.assert_allclose(values, [1.2e-38, 1.5e38, 3e38, 1.5e38], rtol=1e-6)


def test_threshold_above_the_largest_number_is_infinite():
    for make in (thresholds.window_percentile, thresholds.moving_mean):
        values, _, _ = replay(make(multiplier=10.0), np.full(3, 3e38, np.float32))
        assert values[2] == np.inf


@pytest.mark.parametrize("initial", [0.25, 7.0, np.inf])
def test_initial_stands_in_where_the_statistic_is_zero(initial):
    norms = np.array([0, 0, 0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 0], np.float32)
    median = thresholds.window_percentile(50.0, window=3, warmup=0, initial=initial)
    values, _, _ = replay(median, norms)
    expected = np.where([0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0], 2.0, initial)
    np.testing.assert_array_equal(values, expected)
    mean = thresholds.moving_mean(1.0, window=3, warmup=0, initial=initial)
    values, _, _ = replay(mean, norms)
    np.testing.assert_array_equal(values[[0, 1, 2, 3, 4, 11, 12]], [initial] * 7)
    assert (values[5:11] > 0).all() and (values[5:11] < 3).all()


def test_initial_stands_in_before_the_first_finite_norm():
    norms = np.full(4, np.nan, np.float32)
    for policy in (
        thresholds.window_percentile(warmup=0, initial=3.0),
        thresholds.moving_mean(warmup=0, initial=3.0),
        thresholds.decayed(3.0, 0.5),
    ):
        np.testing.assert_array_equal(replay(policy, norms)[0], np.full(4, 3.0))
