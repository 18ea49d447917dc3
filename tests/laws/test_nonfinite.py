"""The laws of norms that are not finite and of states that must not be absorbing."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import INSIDE_LEAVES, group_arrays, group_norms, plain
from laws import assert_same_bits, every, run, series

# Law 5: a norm that is not finite enters nothing.

MODES = ("propagate", "zero", "sanitize")


def poisoned(bad):
    gradient = plain(11)
    gradient["dense"]["kernel"] = gradient["dense"]["kernel"].at[1, 2].set(bad)
    return gradient


@functools.cache
def _in_every_mode(row):
    clippers = {mode: row.make(nonfinite=mode) for mode in MODES}
    return jax.jit(lambda g, s: {mode: clippers[mode].update(g, s) for mode in MODES})


def in_every_mode(row, gradients, state=None):
    """Updates in a row; the last result of each mode, and the state, which the modes share."""
    state = row.make().init(gradients[0]) if state is None else state
    for gradient in gradients:
        found = _in_every_mode(row)(gradient, state)
        for mode in MODES[1:]:
            assert_same_bits(found[mode][1].policy, found[MODES[0]][1].policy)
        state = found[MODES[0]][1]
    return {mode: result for mode, (result, _) in found.items()}, state


@every
@pytest.mark.parametrize("at", [0, 1, 6])
def test_nonfinite_step_leaves_the_state_as_if_it_had_not_been(row, at):
    """Of the groups that were hit; a schedule counts the step all the same."""
    good = series(9)
    bad = jax.tree.map(lambda x: x * jnp.nan, plain())
    if row.by_step:
        expected = in_every_mode(row, good[:at])[1] if at else row.make().init(plain())
        _, state = in_every_mode(row, [bad], expected)
        assert_same_bits(state.policy, expected.policy)
        return
    _, expected = in_every_mode(row, good)
    _, state = in_every_mode(row, [*good[:at], bad, *good[at:]])
    assert_same_bits(state.policy, expected.policy)
    if state.metrics.nonfinite is not None:
        assert int(state.metrics.nonfinite) == 1
    assert int(state.step) == int(expected.step) + 1


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_group_becomes_nan_or_zero_as_asked(row, bad):
    gradient = poisoned(bad)
    results, _ = in_every_mode(row, [gradient])
    before, nans, zeros = (
        group_arrays(row.groups, tree) for tree in (gradient, results["propagate"], results["zero"])
    )
    for arrays, nan, zero in zip(before, nans, zeros, strict=True):
        lost = not all(np.isfinite(x).all() for x in arrays)
        assert all(np.isnan(x).all() if lost else np.isfinite(x).all() for x in nan)
        assert all(np.isfinite(x).all() and not (lost and np.any(x)) for x in zero)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_sanitized_gradient_is_that_without_its_nonfinite_entries(row, bad):
    _, state = in_every_mode(row, series(6))
    result = in_every_mode(row, [poisoned(bad)], state)[0]["sanitize"]
    assert row.mixes or float(result["dense"]["kernel"][1, 2]) == 0
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(result))
    clean = poisoned(0.0)
    if row.fixed is not None:
        expected = in_every_mode(row, [clean], state)[0]["propagate"]
        chex.assert_trees_all_close(result, expected, rtol=1e-6)
    elif row.rule != "stable_spam":  # which enlarges as well
        norms = group_norms(row, result) / np.maximum(group_norms(row, clean), 1e-30)
        assert np.all(norms <= 1 + 1e-6)


@every
def test_only_the_group_that_is_hit_is_frozen(row):
    """Its state stays to the bit, that of every other group moves as if nothing had happened."""
    clipper, history, bad = row.make(), series(4), poisoned(np.nan)
    _, before = run(clipper, history)
    _, hit = run(clipper, [bad], before)
    _, clean = run(clipper, [poisoned(0.0)], before)
    frozen = frozen_groups(row, bad)
    states = (jax.tree.leaves(s.policy) for s in (before, hit, clean))
    for i, (old, new, other) in enumerate(zip(*states, strict=True)):
        mask = np.broadcast_to(frozen[i % len(frozen)], new.shape)
        np.testing.assert_array_equal(new, np.where(mask, old, other))


def frozen_groups(row, gradient):
    """For every array of norms which of its groups are not finite."""
    if row.groups not in INSIDE_LEAVES:
        groups = group_arrays(row.groups, gradient)
        return [np.array([not all(np.isfinite(x).all() for x in arrays) for arrays in groups])]
    leaves = [~np.isfinite(np.asarray(x)) for x in jax.tree.leaves(gradient)]
    if row.groups == "element":
        return leaves
    spanned = 0 if row.groups == "unit" else (-2, -1)
    return [x.any(axis=spanned if x.ndim > 1 else None, keepdims=True) for x in leaves]


# Law 6: no state is absorbing.


@every
def test_clipping_comes_back_to_life_after_zeros(row):
    zeros = jax.tree.map(jnp.zeros_like, plain())
    calm = [plain(i, 0.01) for i in range(row.reset)]
    spike = plain(3, 1e4)
    results, _ = run(row.make(), [zeros] * 10 + calm + [spike])
    assert all(np.isfinite(np.asarray(x)).all() for r in results for x in jax.tree.leaves(r))
    if row.rule != "skip":  # calm gradients come through, and a spike does not
        assert all(np.any(x) for x in jax.tree.leaves(results[-2]))
    assert group_norms(row, results[-1]).max() < 0.9 * group_norms(row, spike).max()
