"""The laws of state: a stable pytree of arrays in every loop that carries it."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import INSIDE_LEAVES, mixed, plain
from laws import assert_same_bits, every, rows, run, series

# Law 7: state is a stable pytree of arrays.


@every
def test_state_keeps_structure_shapes_and_dtypes(row):
    clipper = row.make(name="clip")
    for gradient in (plain(), mixed()):
        before = clipper.init(gradient)
        _, after = clipper.update(gradient, before)
        chex.assert_trees_all_equal_structs(before, after)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(before))
        assert not any(x.weak_type for x in jax.tree.leaves((before, after)))


@every
def test_scan_equals_a_loop(row):
    clipper, gradients = row.make(), series()
    results, state = run(clipper, gradients)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)

    @jax.jit
    def scan(state):
        return jax.lax.scan(lambda s, g: clipper.update(g, s)[::-1], state, stacked)

    last, outputs = scan(clipper.init(gradients[0]))
    chex.assert_trees_all_close(last, state, rtol=1e-6, atol=row.error)
    chex.assert_trees_all_close(
        outputs, jax.tree.map(lambda *xs: jnp.stack(xs), *results), rtol=1e-6, atol=row.error
    )


@every
def test_vmap_equals_a_loop_over_runs(row):
    clipper = row.make()
    batch = [series(6, seed) for seed in (0, 50, 100)]
    single = [run(clipper, gradients) for gradients in batch]
    stacked = [jax.tree.map(lambda *xs: jnp.stack(xs), *gs) for gs in zip(*batch, strict=True)]
    state = jax.vmap(clipper.init)(stacked[0])
    update = jax.jit(jax.vmap(clipper.update))
    for gradient in stacked:
        result, state = update(gradient, state)
    expected = jax.tree.map(lambda *xs: jnp.stack(xs), *[results[-1] for results, _ in single])
    chex.assert_trees_all_close(result, expected, rtol=1e-6, atol=row.error)
    states = jax.tree.map(lambda *xs: jnp.stack(xs), *[s for _, s in single])
    chex.assert_trees_all_close(state, states, rtol=1e-6, atol=row.error)


@every
def test_resumed_equals_uninterrupted_to_the_bit(row):
    clipper, gradients = row.make(name="clip"), series(8)
    results, whole = run(clipper, gradients)
    _, half = run(clipper, gradients[:4])
    stored = pickle.dumps(jax.tree.map(np.asarray, half))
    restored = jax.tree.map(jnp.asarray, pickle.loads(stored))
    rest, end = run(clipper, gradients[4:], restored)
    assert_same_bits(rest, results[4:])
    assert_same_bits(end, whole)


@every
@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_donated_buffers_give_the_same_result(row):
    clipper = row.make()
    expected, _ = run(clipper, series(3))
    update = jax.jit(lambda g, s: clipper.update(g, s), donate_argnums=(0, 1))
    state = clipper.init(plain())
    for gradient, right in zip(series(3), expected, strict=True):
        result, state = update(jax.tree.map(jnp.copy, gradient), state)
        chex.assert_trees_all_close(result, right, rtol=1e-6)


@every
def test_leaf_shaped_state_is_found_by_tree_map_params(row):
    clipper, params = row.make(), plain()
    policy = optax.tree_utils.tree_map_params(
        clipper, lambda state, param: jnp.full(param.shape, jnp.nan), clipper.init(params), params
    ).policy
    leaves = jax.tree.leaves(policy)
    found = [np.isnan(np.asarray(x, np.float32)).all() and x.size > 0 for x in leaves]
    assert all(f == (row.groups in INSIDE_LEAVES) for f in found)


@rows("rescale")
def test_tracked_statistics_are_read_and_set_by_name(row):
    state = row.make().init(plain())
    for field in getattr(state.policy, "_fields", ()):
        if field in ("steps", "decays"):
            value = optax.tree_utils.tree_get(state, field)
            state = optax.tree_utils.tree_set(state, **{field: value + 3})
            assert np.all(np.asarray(optax.tree_utils.tree_get(state, field)) == 3)
