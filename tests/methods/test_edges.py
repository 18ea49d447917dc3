"""Edges of the methods at which they were once wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipax
from clipax import measures, rules, thresholds


def learned(clipper, norms):
    state, update = clipper.init([jnp.zeros(1)]), jax.jit(clipper.update)
    for norm in norms:
        _, state = update([np.float32([norm])], state)
    return state


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_sanitized_gradient_meets_the_threshold_of_what_was_learned(bad):
    """Of ZClip too, whose threshold else depends on the norm itself."""
    clipper = clipax.zclip(warmup=3, max_norm=None, nonfinite="sanitize")
    state = learned(clipper, [1.0, 2.0, 3.0])
    highest = 2 + 2.5 * np.sqrt(2 / 3)
    update = jax.jit(clipper.update)
    (spike,), _ = update([np.float32([1e6, 0.0, bad])], state)
    np.testing.assert_allclose(spike, [highest, 0, 0], rtol=1e-6)
    (calm,), _ = update([np.float32([2.2, 0.0, bad])], state)
    np.testing.assert_array_equal(calm, np.float32([2.2, 0, 0]))


def test_sanitized_gradient_meets_the_median_of_what_was_learned():
    """Not that of a window which its own norm, infinite, would fill."""
    policy = thresholds.periodic_median(2.0, window=3)
    clipper = clipax.clip_by(measures.per_tree(), policy, nonfinite="sanitize")
    state = learned(clipper, [1.0, 2.0, 3.0, 5.0, 5.0])
    (spike,), _ = jax.jit(clipper.update)([np.float32([1e6, 0.0, jnp.inf])], state)
    np.testing.assert_allclose(spike, [2, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("mode", ["adaptive", "mean", "percentile"])
def test_small_rise_after_equal_norms_is_not_clipped(mode):
    policy = thresholds.z_score(warmup=3, mode=mode)
    state = policy.init(jnp.zeros(1))
    update = jax.jit(lambda norm, state: policy.update(norm, state, step=0, param_norm=None))
    for norm in np.float32([[1.0], [1.0], [1.0], [1.001]]):
        threshold, state = update(norm, state)
        assert threshold[0] >= norm[0]


@pytest.mark.parametrize("rule", [rules.stabilized(1e-40), rules.stabilized(jnp.zeros(()))])
def test_factor_of_a_tiny_norm_is_finite(rule):
    clipper = clipax.clip_by(measures.per_tree(), 10.0, rule)
    clipped, _ = clipax.clip([jnp.array([1.2e-38, 0.0])], clipper)
    assert np.isfinite(clipped[0]).all()


def test_parameter_at_zero_with_a_tiny_allowance_loses_nothing():
    clipped, _ = clipax.clip([jnp.zeros(2)], clipax.clippy(absolute=1e-46), [jnp.zeros(2)])
    np.testing.assert_array_equal(clipped[0], np.zeros(2))


def test_schedule_that_scales_by_nan_makes_nan():
    clipper = clipax.global_norm(thresholds.scaled(jnp.inf, lambda step: jnp.nan))
    assert np.isnan(clipax.clip([jnp.ones(2)], clipper)[0][0]).all()
    clipper = clipax.global_norm(thresholds.scaled(jnp.inf, lambda step: 0.0))
    np.testing.assert_array_equal(clipax.clip([jnp.ones(2)], clipper)[0][0], np.ones(2))


def test_state_of_a_policy_without_the_axes_of_the_norms_is_refused():
    policy = clipax.ThresholdPolicy(lambda norm: jnp.zeros(()), lambda norm, s, **_: (norm, s))
    message = r"state of a policy must end with the axes of the norms, \(1,\).*, got \(\)"
    with pytest.raises(ValueError, match=message):
        clipax.clip([jnp.ones(2)], clipax.global_norm(policy))


def test_rule_that_cannot_be_hashed_is_refused():
    class Halve:
        __hash__ = None

        def __call__(self, norm, threshold):
            return norm * 0.5

    with pytest.raises(TypeError, match="`rule` must be hashable"):
        clipax.clip_by(measures.per_tree(), 1.0, Halve())
