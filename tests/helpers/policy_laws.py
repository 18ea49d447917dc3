"""The laws of threshold policies, each a function of a policy and of what it must be told.

They use public names only, so that they hold for any `clipax.ThresholdPolicy`. Every law follows
series of one shape, `[STEPS, GROUPS]`, so that a policy is compiled once for all of them. They are
told

- `by_step`, whether the threshold depends on the number of the step, which a norm that is not
  finite adds to as well;
- `stuck_above` and `stuck_below`, whether the threshold may be there for hundreds of calm norms
  after a history of larger or of smaller ones;
- `least`, the smallest norms after which the threshold is still positive.
"""

import functools
import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

STEPS, GROUPS = 640, 16
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).tiny)


class Followed(NamedTuple):
    """What a policy makes of a series.

    Attributes:
        thresholds: of all steps and groups.
        lost: where a number of the state is NaN, of all steps and groups.
        state: after the last step.
    """

    thresholds: np.ndarray
    lost: np.ndarray
    state: Any


def scan(policy, norms, state, begin=0):
    """The last state, and the thresholds and states of all steps.

    A clipper freezes the state of a group whose norm is not finite. The parameters have norm 1.
    """

    def step(state, norm_and_step):
        threshold, new = one_step(policy, *norm_and_step, state)
        return new, (threshold, new)

    return jax.lax.scan(step, state, (norms, begin + jnp.arange(norms.shape[0])))


def one_step(policy, norm, step, state):
    threshold, new = policy.update(norm, state, step=step, param_norm=lambda: jnp.ones_like(norm))
    finite = jnp.isfinite(norm)
    new = jax.tree.map(lambda a, b: jnp.where(jnp.broadcast_to(finite, b.shape), a, b), new, state)
    return jnp.broadcast_to(threshold, norm.shape), new


@functools.partial(jax.jit, static_argnums=0)
def _followed(policy, norms, state, begin):
    def step(state, norm_and_step):
        threshold, new = one_step(policy, *norm_and_step, state)
        lost = jnp.zeros(norms.shape[1:], bool)
        for leaf in jax.tree.leaves(new):
            lost |= jnp.isnan(leaf).any(axis=range(leaf.ndim - lost.ndim))
        return new, (threshold, lost)

    return jax.lax.scan(step, state, (norms, begin + jnp.arange(norms.shape[0])))


def follow(policy, norms, state=None, begin=0):
    norms = np.asarray(norms, np.float32)
    state = policy.init(jnp.zeros(norms.shape[1:])) if state is None else state
    last, (values, lost) = _followed(policy, norms, state, begin)
    return Followed(np.asarray(values), np.asarray(lost), jax.tree.map(np.asarray, last))


def one_group(state, group):
    return jax.tree.map(lambda leaf: leaf[..., group], state)


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert x.tobytes() == y.tobytes(), (x, y)


# Series.


def rough(seed=0, lost=0.03):
    """Jumps over the whole range of float32, stretches of one size, zeros, NaN and infinity."""
    rng = np.random.default_rng(seed)
    norms = 10.0 ** rng.uniform(-37.9, 38.5, (STEPS, GROUPS))
    level = np.repeat(10.0 ** rng.uniform(-37, 37, (STEPS // 40, GROUPS)), 40, axis=0)
    steady = np.repeat(rng.random((STEPS // 80, GROUPS)) < 0.6, 80, axis=0)
    norms = np.where(steady, level * rng.lognormal(sigma=0.5, size=norms.shape), norms)
    norms[rng.random(norms.shape) < 0.05] = 0
    norms[:50, 0] = norms[100:300, 1] = norms[:, 2] = 0
    norms[:, 3], norms[:, 4], norms[::2, 5], norms[1::2, 5] = LARGEST, SMALLEST, LARGEST, 0
    norms = np.minimum(norms, LARGEST)
    norms[rng.random(norms.shape) < lost] = np.nan
    norms[rng.random(norms.shape) < lost] = np.inf
    return norms.astype(np.float32)


def usual(seed=0):
    """Lognormal norms with spikes, zeros and a level for each group."""
    rng = np.random.default_rng(seed)
    norms = rng.lognormal(sigma=0.4, size=(STEPS, GROUPS)) * 10.0 ** rng.uniform(-3, 3, GROUPS)
    norms[rng.random(norms.shape) < 0.02] *= 50
    norms[rng.random(norms.shape) < 0.03] = 0
    return norms.astype(np.float32)


# The laws.


def state_is_laid_out_as_the_norms(policy, shape):
    """Its structure, shapes and dtypes stay, and its last axes are those of the norms."""
    norm = jax.ShapeDtypeStruct(shape, np.float32)
    state = jax.eval_shape(policy.init, norm)

    def update(norm, state):
        threshold, new = policy.update(
            norm, state, step=jnp.int32(0), param_norm=lambda: jnp.ones_like(norm)
        )
        return jnp.broadcast_to(threshold, norm.shape), new

    threshold, new = jax.eval_shape(update, norm, state)
    assert (threshold.shape, threshold.dtype) == (shape, np.float32)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert not before.weak_type and not after.weak_type
        assert before.shape[before.ndim - len(shape) :] == shape


def threshold_and_state_are_never_nan(policy, norms):
    found = follow(policy, norms)
    assert (found.thresholds >= 0).all()  # which no NaN is
    assert not found.lost.any()
    assert found.thresholds.dtype == np.float32


def nonfinite_norm_leaves_its_group_as_it_was(policy, by_step=False):
    """The other groups go on to the bit, and its own does as if that norm had not been.

    Nor does the threshold beside such a norm depend on what it is.
    """
    norms, rng = usual(1), np.random.default_rng(2)
    bad = rng.random(norms.shape) < 0.1
    bad[:2] = bad[200:240] = True
    bad[:, ::2] = False
    clean, spoiled = (follow(policy, x) for x in (norms, np.where(bad, np.nan, norms)))
    infinite = follow(policy, np.where(bad, np.inf, norms))
    assert (spoiled.thresholds >= 0).all() and not spoiled.lost.any()
    assert_same_bits(infinite, spoiled)
    even = np.s_[..., ::2]
    np.testing.assert_array_equal(spoiled.thresholds[even], clean.thresholds[even])
    assert_same_bits(one_group(spoiled.state, np.s_[::2]), one_group(clean.state, np.s_[::2]))
    if by_step:
        return
    left = np.full(norms.shape, np.nan)
    for group in range(GROUPS):
        kept = norms[~bad[:, group], group]
        left[: kept.size, group] = kept
    expected = follow(policy, left)
    assert_same_bits(spoiled.state, expected.state)
    for group in range(GROUPS):
        kept = ~bad[:, group]
        same = expected.thresholds[: kept.sum(), group]
        np.testing.assert_array_equal(spoiled.thresholds[kept, group], same)


def groups_do_not_see_each_other(policy):
    """To the bit, whatever the norms of the others are."""
    norms, others = usual(3), rough(4)
    expected = follow(policy, norms)
    for first in (0, 1):
        mine = np.arange(GROUPS) % 2 == first
        found = follow(policy, np.where(mine, norms, others))
        np.testing.assert_array_equal(found.thresholds[:, mine], expected.thresholds[:, mine])
        assert_same_bits(one_group(found.state, mine), one_group(expected.state, mine))


def resumed_equals_uninterrupted(policy, norms):
    """To the bit, from a state that went through pickle."""
    half = STEPS // 2
    whole = follow(policy, norms)
    nothing = np.full((half, GROUPS), np.nan)  # changes no state
    before = follow(policy, np.concatenate([norms[:half], nothing]))
    state = jax.tree.map(jnp.asarray, pickle.loads(pickle.dumps(before.state)))
    rest = follow(policy, np.concatenate([norms[half:], nothing]), state, half)
    np.testing.assert_array_equal(rest.thresholds[:half], whole.thresholds[half:])
    assert_same_bits(rest.state, whole.state)


def clipping_comes_back_to_life(policy, stuck_above=False, stuck_below=False, least=SMALLEST):
    """After any history a spike is clipped, and calm norms pass: by a fiftieth at the least.

    After the smallest and the largest norms, and where it is stuck, the threshold is at least
    positive and finite.
    """
    calm = np.random.default_rng(5).lognormal(sigma=0.2, size=(STEPS, GROUPS))
    norms, history = calm.copy(), 300
    levels = [1e-6, 1e-5, 1e-4, 1e-2, 1, 10, 1e3, 1e5, 1e6, 0, 1, 1, 1, 1, least, LARGEST]
    norms[:history] = np.minimum(np.array(levels) * calm[:history], LARGEST)
    norms[0, 9], norms[7, 10], norms[7, 11] = 1, 1e6, 1e-6  # one before zeros, two in a warm-up
    norms[100:200, 12], norms[:60, 13] = 1e6, 0
    norms[-1], norms[-1, -1] = 1e5, LARGEST  # the spikes
    thresholds = follow(policy, norms).thresholds
    assert (thresholds[-10:] > 0).all() and (thresholds[-1] < np.inf).all()
    if not stuck_above:
        assert (thresholds[-1, :14] < 0.9 * norms[-1, :14]).all(), thresholds[-1]
    passed = np.minimum(thresholds[-10:-1] / norms[-10:-1], 1)
    if not stuck_below:
        assert (passed[:, :14] > 0.02).all(), passed.min(axis=0)
