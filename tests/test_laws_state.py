"""The laws of state: a stable pytree of arrays in every loop that carries it."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from catalogue import INSIDE_LEAVES, mixed, plain
from laws import assert_same_bits, every, rows, run, series

# Law 7: state is a stable pytree of arrays.


@every
def test_state_keeps_structure_shapes_and_dtypes(row):
    clipper = row.make()
    for gradient in (plain(), mixed()):
        before = clipper.init(gradient)
        _, after = clipper.update(gradient, before)
        chex.assert_trees_all_equal_structs(before, after)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(before))
        assert not any(x.weak_type for x in jax.tree.leaves((before, after)))


@every
def test_scan_over_vmapped_runs_equals_loops(row):
    clipper = row.make()
    batch = [series(6, seed) for seed in (0, 50, 100)]
    singles = [run(clipper, gradients) for gradients in batch]
    stacked = _stacked([_stacked(gradients) for gradients in zip(*batch, strict=True)])

    @jax.jit
    def scan(state):
        return jax.lax.scan(lambda s, g: jax.vmap(clipper.update)(g, s)[::-1], state, stacked)

    state, outputs = scan(jax.vmap(clipper.init)(jax.tree.map(lambda x: x[0], stacked)))
    results = _stacked([_stacked(step) for step in zip(*(r for r, _ in singles), strict=True)])
    chex.assert_trees_all_close(outputs, results, rtol=1e-6, atol=row.error)
    states = _stacked([s for _, s in singles])
    chex.assert_trees_all_close(state, states, rtol=1e-6, atol=row.error)


def _stacked(trees):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


@every
def test_resumed_equals_uninterrupted_to_the_bit(row):
    clipper, gradients = row.make(), series(8)
    results, whole = run(clipper, gradients)
    _, half = run(clipper, gradients[:4])
    stored = pickle.dumps(jax.tree.map(np.asarray, half))
    restored = jax.tree.map(jnp.asarray, pickle.loads(stored))
    rest, end = run(clipper, gradients[4:], restored)
    assert_same_bits(rest, results[4:])
    assert_same_bits(end, whole)


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
