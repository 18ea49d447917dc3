"""The laws of norms that are not finite and of states that must not be absorbing."""

import functools

import chex
import jax
import laws
import numpy as np
import pytest
from catalogue import INSIDE_LEAVES, group_norms
from numpy_groups import group_arrays
from rows import every, rows
from trees import filled, plain, with_element
from updates import policy_of, run, series

# Law 5: a norm that is not finite enters nothing.

MODES = ("propagate", "zero", "sanitize")
by_mode = rows(default=["unit_mean", "value", "stable_spam"])


def poisoned(bad):
    return with_element(plain(11), bad)


@every
@pytest.mark.parametrize("at", [0, 1, 6])
def test_nonfinite_step_leaves_the_state_as_if_it_had_not_been(row, at):
    """Of the groups that were hit; a schedule counts the step all the same."""
    found = laws.nonfinite_step_enters_no_statistic(
        row.make(), series(9), filled(np.nan), at, policy_of, counts_steps=row.by_step
    )
    if found:
        state, without = found
        assert int(state.step) == int(without.step) + 1


@by_mode
def test_every_mode_learns_the_same(row):
    gradients = [*series(4), poisoned(np.inf), filled(np.nan), *series(3, 20)]
    laws.modes_learn_alike([row.make(nonfinite=mode) for mode in MODES], gradients, policy_of)


every_bad = pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])


@every
@every_bad
def test_nonfinite_group_becomes_nan(row, bad):
    groups = functools.partial(group_arrays, row.groups)
    laws.nonfinite_groups_become_nan(row.make(), poisoned(bad), groups)


@by_mode
@every_bad
def test_nonfinite_group_becomes_zero_if_asked(row, bad):
    groups = functools.partial(group_arrays, row.groups)
    laws.nonfinite_groups_become_zero(row.make(nonfinite="zero"), poisoned(bad), groups)


@by_mode
@every_bad
def test_sanitized_gradient_is_that_without_its_nonfinite_entries(row, bad):
    sanitize = row.make(nonfinite="sanitize")
    _, state = run(sanitize, series(6))
    (result,), _ = run(sanitize, [poisoned(bad)], state)
    assert row.mixes or float(result["dense"]["kernel"][1, 2]) == 0
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(result))
    clean = poisoned(0.0)
    if row.fixed is not None:
        (expected,), _ = run(row.make(), [clean], run(row.make(), series(6))[1])
        chex.assert_trees_all_close(result, expected, rtol=1e-6)
    elif row.rule != "stable_spam":  # which enlarges as well
        norms = group_norms(row, result) / np.maximum(group_norms(row, clean), 1e-30)
        assert np.all(norms <= 1 + 1e-6)


@every
def test_only_the_group_that_is_hit_is_frozen(row):
    laws.statistics_of_other_groups_go_on(
        row.make(), series(4), poisoned(np.nan), poisoned(0.0),
        frozen_groups(row, poisoned(np.nan)), policy_of,
    )  # fmt: skip


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
    laws.clipping_recovers_from_zeros(
        row.make(),
        [plain(i, 0.01) for i in range(row.reset)],
        plain(3, 1e4),
        functools.partial(group_norms, row),
        keeps_calm_gradients=row.rule != "skip",
    )
