"""The laws of clippers, each a function of a transformation and of what it must be told.

They use public names only, so that they hold for any `optax.GradientTransformation`. They are told

- `max_norm`, the threshold where it is one number;
- `norms`, a function from a tree to the float64 norms of all groups;
- `groups`, a function from a tree to the arrays of each group;
- `statistics`, a function from a state to the part that a non-finite step must not change.
"""

import functools
import pickle
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compiled
from numpy_groups import inexact
from updates import assert_same_bits, clipped, run, run_eagerly, stacked

import clipax

# Law 1: norms are computed in float32 at least, and dtypes are kept.


def reported_norm_is_the_largest(tx, gradient, norms):
    _, state = run(tx, [gradient])
    if "norm" in clipax.metrics(state):
        norm = float(clipax.metrics(state)["norm"])
        assert norm == pytest.approx(norms(gradient).max(), rel=1e-6, abs=0)


def norms_above_the_threshold_become_the_threshold(tx, gradient, max_norm, norms, error=0.0):
    (result,), _ = run(tx, [gradient])
    before, after = norms(gradient), norms(result)
    kept = before <= max_norm
    np.testing.assert_array_equal(after[kept], before[kept])
    np.testing.assert_allclose(after[~kept], max_norm, rtol=1e-6 + error)


def finite_gradients_stay_finite(tx, gradient):
    result = clipped(tx, gradient)
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(result) if inexact(x))
    return result


def dtypes_shapes_and_weak_types_are_kept(tx, gradient):
    """Leaves that are not floating-point are handed on as they are. Nothing is compiled."""

    def check():
        result, _ = tx.update(gradient, tx.init(gradient))
        chex.assert_trees_all_equal_structs(result, gradient)
        for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(gradient), strict=True):
            if inexact(y):
                assert x.shape == y.shape and x.dtype == y.dtype and x.weak_type == y.weak_type
            else:
                assert x is y

    jax.eval_shape(check)


# Law 2: the norm afterwards is at most the threshold; the direction is kept.


def norm_never_exceeds_the_threshold(tx, gradients, max_norm, norms, error=0.0):
    for result in run(tx, gradients)[0]:
        assert norms(result).max() <= max_norm * (1 + error)


def norm_never_exceeds_a_moving_threshold(tx, gradients, norms, one_group):
    state = None
    for gradient in gradients:
        (result,), state = run(tx, [gradient], state)
        values = clipax.metrics(state)
        if one_group:
            kept = values["factor"] == 1
            allowed = max(float(values["threshold"]), float(values["norm"]) * kept)
            assert norms(result).max() <= allowed * (1 + 1e-7 * kept)
        assert np.all(norms(result) <= norms(gradient))


def direction_is_kept(tx, gradient, groups):
    result = clipped(tx, gradient)
    for before, after in zip(groups(gradient), groups(result), strict=True):
        a, b = (np.concatenate([np.ravel(x) for x in arrays]) for arrays in (before, after))
        if np.any(a):
            cosine = np.real(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b))
            assert cosine == pytest.approx(1, abs=1e-4)


# Law 3: what is within the threshold does not change.


def gradient_within_the_threshold_is_unchanged(tx, gradient):
    assert_same_bits(run(tx, [gradient])[0][0], gradient)


# Law 5: a norm that is not finite enters no statistic.


def nonfinite_step_enters_no_statistic(tx, good, bad, at, statistics, counts_steps=False):
    """The statistics are those of the same steps without the bad one.

    Where they depend on the number of the step (`counts_steps`), which a bad step adds to as well,
    the bad step itself changes nothing.
    """
    if counts_steps:
        _, before = run(tx, good[:at]) if at else (None, tx.init(bad))
        _, state = run(tx, [bad], before)
        assert_same_bits(statistics(state), statistics(before))
        return
    _, expected = run(tx, good)
    _, state = run(tx, [*good[:at], bad, *good[at:]])
    assert_same_bits(statistics(state), statistics(expected))
    found, without = clipax.metrics(state), clipax.metrics(expected)
    if "nonfinite" in found:
        assert int(found["nonfinite"]) == int(without["nonfinite"]) + 1
    return state, expected


def modes_learn_alike(txs, gradients, statistics):
    """What becomes of a step that is not finite does not change what is learnt."""
    expected, *others = (statistics(run(tx, gradients)[1]) for tx in txs)
    for found in others:
        assert_same_bits(found, expected)


def nonfinite_groups_become_nan(tx, gradient, groups):
    (result,), _ = run(tx, [gradient])
    for before, after in zip(groups(gradient), groups(result), strict=True):
        lost = not all(np.isfinite(x).all() for x in before)
        assert all(np.isnan(x).all() if lost else np.isfinite(x).all() for x in after)


def nonfinite_groups_become_zero(tx, gradient, groups):
    (result,), _ = run(tx, [gradient])
    for before, after in zip(groups(gradient), groups(result), strict=True):
        lost = not all(np.isfinite(x).all() for x in before)
        assert all(np.isfinite(x).all() and not (lost and np.any(x)) for x in after)


def statistics_of_other_groups_go_on(tx, history, bad, clean, frozen, statistics):
    """The state of a group that is hit stays as it was; that of every other group moves.

    `frozen` has, for each array of norms, which of its groups are not finite.
    """
    _, before = run(tx, history)
    _, hit = run(tx, [bad], before)
    _, expected = run(tx, [clean], before)
    states = (jax.tree.leaves(statistics(state)) for state in (before, hit, expected))
    for i, (old, new, other) in enumerate(zip(*states, strict=True)):
        mask = np.broadcast_to(frozen[i % len(frozen)], new.shape)
        np.testing.assert_array_equal(new, np.where(mask, old, other))


# Law 6: no state is absorbing.


def clipping_recovers_from_zeros(tx, calm, spike, norms, keeps_calm_gradients=True):
    zeros = jax.tree.map(lambda x: jax.device_put(np.zeros_like(x)), spike)
    results, _ = run(tx, [zeros] * 10 + calm + [spike])
    assert all(np.isfinite(np.asarray(x)).all() for r in results for x in jax.tree.leaves(r))
    if keeps_calm_gradients:
        assert all(np.any(x) for x in jax.tree.leaves(results[-2]))
    assert norms(results[-1]).max() < 0.9 * norms(spike).max()


# Law 7: state is a stable pytree of arrays.


def state_keeps_structure_shapes_and_dtypes(tx, gradient):
    """Nothing is compiled."""

    def check():
        before = tx.init(gradient)
        _, after = tx.update(gradient, before)
        chex.assert_trees_all_equal_structs(before, after)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(before))
        assert not any(x.weak_type for x in jax.tree.leaves((before, after)))

    jax.eval_shape(check)


def resumed_equals_uninterrupted(tx, gradients):
    """To the bit, from a state that went through pickle."""
    half = len(gradients) // 2
    results, whole = run(tx, gradients)
    _, state = run(tx, gradients[:half])
    stored = pickle.dumps(jax.tree.map(np.asarray, state))
    restored = jax.device_put(pickle.loads(stored))
    rest, end = run(tx, gradients[half:], restored)
    assert_same_bits(rest, results[half:])
    assert_same_bits(end, whole)


def loop_over_batched_runs_equals_single_runs(tx, loop, runs, error=0.0):
    """`loop(tx, runs)`: results, with axes of run and step, and the states of a vmapped loop."""
    singles = [run(tx, steps) for steps in runs]
    results, state = loop(tx, runs)
    expected = stacked([stacked(steps) for steps, _ in singles])
    chex.assert_trees_all_close(results, expected, rtol=1e-6, atol=error)
    states = stacked([state for _, state in singles])
    chex.assert_trees_all_close(state, states, rtol=1e-6, atol=error)


# Law 8: eager equals jit, nothing compiles twice, unknown arguments pass.


def eager_equals_jit(tx, gradients, placed):
    """Also where `jax_debug_nans` raises if an operation makes a NaN."""
    expected, end = run(tx, gradients)
    state = placed(tx.init(gradients[0]))
    with jax.debug_nans(True):
        for gradient, right in zip(gradients, expected, strict=True):
            result, state = tx.update(placed(gradient), state)
            chex.assert_trees_all_close(result, right, rtol=1e-6)
    chex.assert_trees_all_close(state, end, rtol=1e-6)


def update_is_traced_once(tx, gradient):
    """A state that comes back is the same to `jit` as one from `init`."""
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(lambda g, s: tx.update(g, s), n=1))
    _, state = update.eval_shape(gradient, tx.init(gradient))
    update.eval_shape(gradient, state)


def repeated_eager_updates_compile_nothing(tx, gradients):
    _, state = run_eagerly(tx, gradients[:2])
    before = len(compiled)
    run_eagerly(tx, gradients[2:], state)
    assert compiled[before:] == []


def nothing_is_promoted_implicitly(tx, gradient):
    """An update can be traced where JAX refuses to mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda: tx.update(gradient, tx.init(gradient), value=1.0)[1])


def disabled_jit_changes_no_result(tx, gradients, error=0.0):
    def update(gradient, state):
        return tx.update(gradient, state, gradient, value=1.0)

    def results(update):
        found, state = [], tx.init(gradients[0])
        for gradient in gradients:
            result, state = update(gradient, state)
            found.append(result)
        return found

    with jax.disable_jit():
        plain = results(update)
    chex.assert_trees_all_close(plain, results(jax.jit(update)), rtol=1e-6, atol=error)


def unknown_extra_arguments_are_accepted(tx, gradient):
    extra: dict[str, Any] = {"value": 1.0, "step": 7, "fn": lambda x: x}
    result, _ = tx.update(gradient, tx.init(gradient), gradient, **extra)
    chex.assert_trees_all_close(result, run(tx, [gradient])[0][0], rtol=1e-6)


# Law 10: derivatives are finite wherever the true one is.


@functools.cache
def derivatives(tx):
    """Along one direction, forward and backward, as a function of gradient and direction."""

    def both(gradient, direction):
        state = tx.init(gradient)

        def clipped(gradient):
            return tx.update(gradient, state)[0]

        forward = jax.jvp(clipped, (gradient,), (direction,))[1]
        return forward, jax.vjp(clipped, gradient)[1](direction)[0]

    return jax.jit(both)


def derivatives_are_finite(tx, gradients, direction):
    for gradient in gradients:
        for x in jax.tree.leaves(derivatives(tx)(gradient, direction)):
            assert np.isfinite(np.asarray(x)).all(), gradient


def derivative_falls_as_one_over_the_norm(tx, gradient, direction):
    """Far above the threshold: at `gradient` and at 1e20 times that."""
    far = jax.tree.map(lambda x: x * 1e20, gradient)
    _, near = derivatives(tx)(gradient, direction)
    _, far = derivatives(tx)(far, direction)
    near = jax.tree.map(lambda x: x * 1e-20, near)
    largest = max(float(jnp.max(abs(x))) for x in jax.tree.leaves(near))
    chex.assert_trees_all_close(far, near, rtol=1e-3, atol=1e-4 * largest)


def derivative_is_that_of_finite_differences(tx, gradients):
    """With float64 gradients, where they are enabled."""
    state = tx.init(gradients[0])
    _, unravel = jax.flatten_util.ravel_pytree(gradients[0])

    @jax.jit
    @jax.value_and_grad
    def f(x, weights):
        result = tx.update(unravel(x), state)[0]
        return weights @ jax.flatten_util.ravel_pytree(result)[0]

    for gradient in gradients:
        x, _ = jax.flatten_util.ravel_pytree(gradient)
        weights = np.random.default_rng(0).normal(size=x.size)
        step = 1e-6 * np.sqrt(np.mean(np.square(x)))
        above, below = (
            [f(x + sign * d, weights)[0] for d in step * np.eye(x.size)] for sign in (1, -1)
        )
        numeric = (np.array(above) - np.array(below)) / (2 * step)
        np.testing.assert_allclose(f(x, weights)[1], numeric, rtol=1e-5, atol=1e-6)


# Law 11: parameters are needed only where the threshold needs them.


def no_parameters_are_needed(tx, gradient):
    tx.update(gradient, tx.init(gradient))


# Leaf-shaped state.


def leaf_shaped_state_is_found(tx, params, statistics, expected):
    """By `optax.tree_utils.tree_map_params`: all of the statistics or nothing of them."""
    marked = optax.tree_utils.tree_map_params(
        tx, lambda state, param: jnp.full(param.shape, jnp.nan), tx.init(params), params
    )
    leaves = [np.asarray(x, np.float32) for x in jax.tree.leaves(statistics(marked))]
    assert all((np.isnan(x).all() and x.size > 0) == expected for x in leaves)
