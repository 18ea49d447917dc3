"""The laws of state: a stable pytree of arrays in every loop that carries it."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest
from catalogue import INSIDE_LEAVES, group_norms
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each_structure, every, rows, sampled
from trees import mixed, plain, with_element
from updates import policy_of, run, series, stacked

import clipax

# Law 7: state is a stable pytree of arrays.


@each_structure
@pytest.mark.parametrize("tree", [plain, mixed], ids=["plain", "mixed"])
def test_state_keeps_structure_shapes_and_dtypes(tree, row):
    laws.state_keeps_structure_shapes_and_dtypes(row.make(), tree())


STEPS, RUNS = 640, 16
in_a_loop = rows(default=["adaptive_per_layer", "unit_mean", "value", "stable_spam"])


@functools.cache
def looped(clipper):
    """The first `count` of 640 steps of 16 runs, in a loop that carries their states."""
    update = jax.vmap(clipper.update)

    def loop(state, gradients, count):
        def step(i, carry):
            state, results = carry
            result, state = update(jax.tree.map(lambda x: x[i], gradients), state)
            return state, jax.tree.map(lambda xs, x: xs.at[i].set(x), results, result)

        return jax.lax.fori_loop(0, count, step, (state, jax.tree.map(jnp.zeros_like, gradients)))

    return jax.jit(loop)


def started(clipper):
    return jax.jit(jax.vmap(clipper.init))(stacked([plain()] * RUNS))


def steps_of(runs):
    """Gradients of runs, each a list of steps, as the loop takes them; the rest is zeros."""
    runs = stacked([stacked(steps) for steps in runs])

    def filled(x):
        whole = np.zeros((STEPS, RUNS, *x.shape[2:]), x.dtype)
        whole[: x.shape[1], : x.shape[0]] = x.swapaxes(0, 1)
        return whole

    return jax.tree.map(filled, runs)


def run_in_a_loop(tx, runs):
    state, outputs = looped(tx)(started(tx), steps_of(runs), len(runs[0]))
    results = jax.tree.map(lambda x: x[: len(runs[0]), : len(runs)].swapaxes(0, 1), outputs)
    return results, jax.tree.map(lambda x: x[: len(runs)], state)


@in_a_loop
def test_loop_over_vmapped_runs_equals_single_runs(row):
    runs = [series(6, seed) for seed in (0, 50, 100)]
    laws.loop_over_batched_runs_equals_single_runs(row.make(), run_in_a_loop, runs, row.error)


@functools.cache
def garbage():
    """Sizes of all magnitudes, zeros, NaN, infinities, levels that jump by a million and more."""
    rng = np.random.default_rng(0)
    jumps = 10.0 ** rng.uniform(-38, 38, (STEPS // 40, RUNS))
    levels = np.repeat(jumps, 40, axis=0) * rng.lognormal(size=(STEPS, RUNS))
    sizes = np.where(np.arange(RUNS) % 2, levels, 10.0 ** rng.uniform(-38, 38.5, (STEPS, RUNS)))
    sizes[rng.random(sizes.shape) < 0.1] = 0

    def leaf(x):
        entries = rng.normal(size=(STEPS, RUNS, *x.shape))
        entries *= sizes.reshape(STEPS, RUNS, *[1] * x.ndim)
        for bad in (np.nan, np.inf, -np.inf):
            entries[rng.random(entries.shape) < 0.003] = bad
        with np.errstate(over="ignore"):
            entries = entries.astype(np.float32)
        return np.where(abs(entries) < np.finfo(np.float32).tiny, np.float32(0), entries)

    return jax.tree.map(leaf, plain())


def assert_sound(row, gradients, results):
    """What is finite stays so and is clipped; of which share of steps and runs that was said."""
    # Of all norms the sum is the largest, and must be a number itself.
    sums = sum(_over_entries(np.sum, abs(np.float64(x))) for x in jax.tree.leaves(gradients))
    sound = sums < np.finfo(np.float32).max  # NaN is not
    for x, y in zip(jax.tree.leaves(gradients), jax.tree.leaves(results), strict=True):
        assert np.isfinite(np.asarray(y)[sound]).all()
        if row.rule in ("rescale", "skip", "smooth", "value"):
            assert np.all(abs(np.asarray(y)[sound]) <= abs(x[sound]))
    if row.rule in ("rescale", "value", "skip") and row.fixed is not None:
        for step, which in np.argwhere(sound)[:: 1 + sound.size // 100]:
            result = jax.tree.map(lambda x, at=(step, which): np.asarray(x[at]), results)
            assert group_norms(row, result).max(initial=0) <= row.fixed
    return sound.mean()


@in_a_loop
def test_ten_thousand_steps_of_garbage_break_nothing(row):
    """The state stays a number too, and calm gradients come through again."""
    gradients = garbage()
    state, results = looped(row.make())(started(row.make()), gradients, STEPS)
    assert not any(np.isnan(x).any() for x in jax.tree.leaves(policy_of(state)))
    assert 0.8 < assert_sound(row, gradients, results) < 0.95
    calm = steps_of([[plain(i, 0.01) for i in range(row.reset)]] * RUNS)
    state, results = looped(row.make())(state, calm, row.reset)
    assert not any(np.isnan(x).any() for x in jax.tree.leaves(policy_of(state)))
    for x in jax.tree.leaves(results):
        last = np.asarray(x)[row.reset - 1]
        assert np.isfinite(last).all()
        # A threshold of 1e-38 takes the published AdaGC thousands of steps, as it says.
        if row.name != "adagc_published" and row.rule != "skip":
            assert np.all(_over_entries(np.any, last[None]))


WRAPPERS = {
    "skip_spikes": clipax.skip_spikes(optax.chain(clipax.global_norm(0.5), optax.adam(0.1))),
    "error_feedback": clipax.error_feedback(clipax.global_norm(0.5), decay=0.5),
    "monitor": clipax.monitor(),
    "momentum_reset": clipax.momentum_reset(
        optax.chain(clipax.adaptive(nonfinite="zero"), optax.trace(0.9)), 100, warmup=10
    ),
}


@sampled("wrapper", WRAPPERS, ["skip_spikes", "momentum_reset"])
def test_ten_thousand_steps_of_garbage_break_no_wrapper(wrapper):
    state, _ = looped(wrapper)(started(wrapper), garbage(), STEPS)
    calm = steps_of([[plain(i, 0.01) for i in range(300)]] * RUNS)
    state, results = looped(wrapper)(state, calm, 300)
    assert not any(np.isnan(x).any() for x in jax.tree.leaves(state))
    for x in jax.tree.leaves(results):
        last = np.asarray(x)[299]
        assert np.isfinite(last).all() and np.all(_over_entries(np.any, last[None]))


@every
@settings(max_examples=5)
@given(
    sizes=st.lists(st.sampled_from([0, 1e-38, 1e-20, 1, 1e6, 1e20, 1e38]), min_size=1, max_size=8),
    bad=st.dictionaries(st.integers(0, 7), st.sampled_from([np.nan, np.inf, -np.inf])),
)
def test_any_short_series_breaks_nothing(row, sizes, bad):
    """The same for a few steps, so that what breaks something is shrunk to the least that does."""
    gradients = [plain(i, float(size)) for i, size in enumerate(sizes)]
    for i in bad.keys() & range(len(gradients)):
        gradients[i] = with_element(gradients[i], bad[i])
    results, state = run(row.make(), gradients)
    assert not any(np.isnan(x).any() for x in jax.tree.leaves(policy_of(state)))
    assert_sound(row, *(jax.tree.map(_as_one_run, stacked(x)) for x in (gradients, results)))


def _as_one_run(x):
    return x[:, None]


def _over_entries(reduce, x):
    return reduce(x, axis=tuple(range(2, x.ndim))) if x.ndim > 2 else x


@every
def test_resumed_equals_uninterrupted_to_the_bit(row):
    laws.resumed_equals_uninterrupted(row.make(), series(8))


@every
def test_leaf_shaped_state_is_found_by_tree_map_params(row):
    laws.leaf_shaped_state_is_found(
        row.make(), plain(), policy_of, expected=row.groups in INSIDE_LEAVES
    )


@rows("rescale")
def test_tracked_statistics_are_read_and_set_by_name(row):
    state = row.make().init(plain())
    for field in getattr(policy_of(state), "_fields", ()):
        if field in ("steps", "decays"):
            value = optax.tree_utils.tree_get(state, field)
            state = optax.tree_utils.tree_set(state, **{field: value + 3})
            assert np.all(np.asarray(optax.tree_utils.tree_get(state, field)) == 3)
