"""The state of the thresholds: one for each group, and counters that are full."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from replays import EACH, LAST, POLICIES, TOLERANCE, replay, series
from rows import sampled

import clipax
from clipax import thresholds

# Groups.


def test_each_group_has_the_threshold_of_its_own_policy():
    parts = [2.0, optax.linear_schedule(4.0, 1.0, 100), thresholds.moving_mean(window=5)]
    parts.append(thresholds.window_percentile(50.0, window=5))
    norms = np.stack([series(seed, 200) for seed in range(4)], axis=1)
    values, _, _ = replay(thresholds.by_group(parts), norms)
    for i, part in enumerate(parts):
        single, _, _ = replay(thresholds.as_policy("one", part), norms[:, i])
        np.testing.assert_allclose(values[:, i], single, rtol=1e-6)


def test_number_of_groups_must_be_that_of_the_thresholds():
    policy = thresholds.by_group([1.0, 2.0])
    for shape in ((), (3,), (1,), (2, 2)):
        with pytest.raises(ValueError, match="`thresholds` must have one entry a group"):
            policy.init(jnp.zeros(shape))


def test_no_thresholds_serve_no_groups():
    measure = clipax.measures.per_group(lambda path: path)
    result, _ = clipax.clip({}, clipax.clip_by(measure, thresholds.by_group([])))
    assert result == {}


@sampled("policy", POLICIES, EACH)
def test_policy_serves_any_shape_elementwise(policy):
    norms = np.stack([series(seed, 300) for seed in range(6)], axis=1)
    single = [replay(policy, norms[:, i]) for i in range(6)]
    expected = np.stack([values for values, _, _ in single], axis=1)
    lasts = jax.tree.map(lambda *xs: np.stack(xs, -1), *(last for _, _, last in single))
    for shape in ((6,), (2, 3)):
        values, _, last = replay(policy, norms.reshape(-1, *shape))
        np.testing.assert_allclose(values.reshape(-1, 6), expected, rtol=1e-6)
        assert jax.tree.structure(last) == jax.tree.structure(lasts)
        for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(lasts), strict=True):
            assert a.shape[a.ndim - len(shape) :] == shape  # the axes of the norms are last
            np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-6)


def test_no_groups_have_no_thresholds():
    for policy in POLICIES.values():
        values, _, _ = replay(policy, np.zeros((3, 0), np.float32))
        assert values.shape == (3, 0)


# Counters.


@pytest.mark.parametrize("name", [name for name in POLICIES if "m" in name or "percentile" in name])
def test_threshold_stays_right_after_the_counter_of_norms_is_full(name):
    policy, norms = POLICIES[name], series(5, 60)
    _, _, state = replay(policy, norms[:30])
    if not hasattr(state, "history"):
        return
    expected, _, _ = replay(policy, norms[30:], state)
    late = optax.tree_utils.tree_set(state, seen=jnp.asarray(LAST - 5, jnp.int32))
    assert int(late.history.seen) == LAST - 5
    values, _, last = replay(policy, norms[30:], late)
    np.testing.assert_array_equal(values, expected)
    assert int(last.history.seen) == LAST


@pytest.mark.parametrize("every", [1, 2, 5])
def test_decay_goes_on_after_the_counter_of_norms_is_full(every):
    policy = thresholds.decayed(3.0, 0.9, every=every)
    late = (LAST - 15) // every * every
    state = policy.init(jnp.zeros(()))
    state = optax.tree_utils.tree_set(state, steps=jnp.asarray(late, jnp.int32))
    values, _, _ = replay(policy, np.ones(60, np.float32), state)
    np.testing.assert_allclose(values, 3 * 0.9 ** (np.arange(60) // every), rtol=TOLERANCE)


def test_threshold_stays_at_the_floor_after_the_counter_of_decays_is_full():
    policy = thresholds.decayed(3.0, 0.999, floor=0.5, clip_rate=0.0, window=3)
    state = policy.init(jnp.zeros(()))
    full = jnp.asarray(LAST - 5, jnp.int32)
    state = optax.tree_utils.tree_set(state, steps=full, decays=full, seen=full)
    values, _, last = replay(policy, np.ones(20, np.float32), state)
    np.testing.assert_array_equal(values, np.full(20, 0.5, np.float32))
    assert int(last.decays) == LAST and int(last.clipped.seen) == LAST


def test_clipper_goes_on_after_its_counter_of_steps_is_full():
    clipper = clipax.global_norm(lambda step: jnp.where(jnp.asarray(step) > 10, 2.0, 1.0))
    gradient = [jnp.asarray([3.0, 4.0])]
    state: Any = clipper.init(gradient)
    state = state._replace(step=jnp.asarray(LAST - 1, jnp.int32))
    for _ in range(4):
        _, state = clipper.update(gradient, state)
        assert float(clipax.metrics(state)["threshold"]) == 2.0
    assert int(state.step) == LAST
