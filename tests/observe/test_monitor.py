"""`monitor`: norms of a gradient by group, against numpy, and a gradient that stays as it is."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_groups import group_arrays, inexact, norm_of
from trees import mixed, plain
from updates import assert_same_bits, series

import clipax
from clipax import measures

KEYS = ("norm", "mean", "max", "nonfinite", "first_nonfinite")


def seen(monitor, gradients, params=None):
    """The metrics and the state after updates in a row, which must change nothing."""
    state = monitor.init(gradients[0] if params is None else params)
    update = jax.jit(monitor.update, donate_argnums=1)
    for gradient in gradients:
        result, state = update(gradient, state)
        assert_same_bits(result, gradient)
    return clipax.metrics(state), state["monitor"]


@pytest.mark.parametrize("groups", ["tree", "layer", "leaf"])
def test_what_is_kept_is_that_of_numpy(groups):
    gradients = series(12)
    found, state = seen(clipax.monitor(measure=getattr(measures, f"per_{groups}")()), gradients)
    names = {"tree": [""], "layer": ["dense/", "/"], "leaf": None}[groups] or [
        "dense/kernel/",
        "dense/bias/",
        "scalar/",
    ]
    norms = [[norm_of(arrays, 2) for arrays in group_arrays(groups, g)] for g in gradients]
    # Leaves of a dict lie in the order of its keys.
    order = {"tree": [""], "layer": ["dense/", ""], "leaf": sorted(names)}[groups]
    for prefix, column in zip(order, np.transpose(norms), strict=True):
        expected = {"norm": column[-1], "mean": column.mean(), "max": column.max()}
        for key, value in expected.items():
            np.testing.assert_allclose(found[f"monitor/{prefix}{key}"], value, rtol=1e-6)
    counted = np.zeros((64, len(order)), int)
    by_name = sorted(range(len(order)), key=lambda i: order[i])
    for i, column in enumerate(np.transpose(norms)[by_name]):
        np.add.at(counted[:, i], np.floor(np.log2(column)).astype(int) + 40, 1)
    np.testing.assert_array_equal(state.histogram, counted)


def test_norms_out_of_range_count_at_the_ends():
    sizes = [0.0, 2.0**-60, 2.0**-40, 2.0**-39, 1.0, 2.0**22, 2.0**23, 2.0**100]
    _, state = seen(clipax.monitor(), [[jnp.asarray([x], jnp.float32)] for x in sizes])
    counts = np.zeros(64, int)
    counts[[0, 1, 40, 62, 63]] = 3, 1, 1, 1, 2
    np.testing.assert_array_equal(state.histogram[:, 0], counts)


def test_what_is_not_finite_is_told_with_its_place_and_step():
    good, bad = [plain(seed) for seed in range(3)], plain()
    bad["dense"]["bias"] = bad["dense"]["bias"].at[1].set(jnp.inf)
    found, state = seen(clipax.monitor(), [*good[:2], bad, good[2], bad])
    assert int(found["monitor/dense/nonfinite"]) == 2
    assert int(found["monitor/dense/first_nonfinite"]) == 2
    assert int(found["monitor/nonfinite"]) == 0 and int(found["monitor/first_nonfinite"]) == -1
    expected, clean = seen(clipax.monitor(), good)
    for key in (f"monitor/dense/{name}" for name in ("mean", "max")):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-6)
    np.testing.assert_array_equal(state.histogram[:, 1], clean.histogram[:, 1])


def test_mean_of_norms_at_the_ends_of_the_range_is_finite():
    sizes = [3e38, 1e-38, 3e38, 3e38]
    found, _ = seen(clipax.monitor(), [[jnp.asarray([x], jnp.float32)] for x in sizes])
    np.testing.assert_allclose(found["monitor/0/mean"], 2.25e38, rtol=1e-5)


def test_names_are_the_paths_of_the_groups():
    gradient = {"z": [jnp.ones(2)], "a": {"b": {"w": jnp.ones(3)}}}
    keys = clipax.metrics(clipax.monitor().init(gradient))
    assert list(keys) == [f"monitor/{group}/{key}" for group in ("a/b", "z") for key in KEYS]
    labelled = clipax.monitor(measure=measures.per_group(lambda path: path[0] == "a"))
    assert "monitor/True/norm" in clipax.metrics(labelled.init(gradient))


def test_names_that_would_be_the_same_are_numbers():
    labels = {"a": 1, "b": "1"}
    gradient = {"a": jnp.ones(2), "b": jnp.full(1, 7.0)}
    found, _ = seen(clipax.monitor(measure=measures.per_group(labels)), [gradient])
    assert float(found["monitor/1/norm"]) == 7


def test_measure_without_names_has_numbers():
    bare = measures.per_leaf()._replace(names=None)
    found, _ = seen(clipax.monitor(measure=bare), [list(np.arange(12, dtype=np.float32))])
    assert [float(found[f"monitor/{i:02}/norm"]) for i in range(12)] == list(range(12))


def test_several_in_a_chain_show_the_gradient_before_and_behind_a_clipper():
    before, behind = (clipax.monitor(measure=measures.per_tree(), name=n) for n in ("in", "out"))
    optimizer = optax.chain(before, clipax.global_norm(1.0), behind)
    gradient = {"w": jnp.array([3.0, 4.0])}
    _, state = jax.jit(optimizer.update)(gradient, optimizer.init(gradient))
    found = clipax.metrics(state)
    assert float(found["in/norm"]) == 5 and float(found["out/norm"]) == pytest.approx(1, rel=1e-6)
    assert float(found["norm"]) == 5  # of the clipper, whose keys stay plain
    histogram = optax.tree_utils.tree_get(state[0], "histogram")
    assert histogram.shape == (64, 1) and int(histogram.sum()) == 1


def test_every_kind_of_leaf_passes():
    gradient = mixed()
    monitor = clipax.monitor(measure=measures.per_leaf())

    def names():
        result, state = monitor.update(gradient, monitor.init(gradient))
        assert all(x is y for x, y in zip(*map(jax.tree.leaves, (result, gradient)), strict=True))
        return clipax.metrics(state)

    measured = sum(inexact(x) for x in jax.tree.leaves(gradient))
    assert len(jax.eval_shape(names)) == measured * len(KEYS)
    assert clipax.metrics(clipax.monitor().init({})) == {}


def test_state_is_a_carry_can_be_vmapped_and_stored():
    monitor = clipax.monitor()
    gradients = jax.tree.map(lambda *xs: jnp.stack(xs), *series(6))
    start = monitor.init(plain())
    loop = jax.jit(lambda s, g: jax.lax.scan(lambda s, g: monitor.update(g, s)[::-1], s, g))
    end, _ = loop(start, gradients)
    chex.assert_trees_all_equal_shapes_and_dtypes(start, end)
    _, alone = seen(monitor, series(6))
    assert_same_bits(end["monitor"], alone)
    stored = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, end)))
    assert_same_bits(end, jax.tree.map(jnp.asarray, stored))
    many = jax.jit(jax.vmap(lambda g: monitor.update(g, monitor.init(g))[1]))(gradients)
    norms = [norm_of(group_arrays("layer", g)[0], 2) for g in series(6)]
    np.testing.assert_allclose(clipax.metrics(many)["monitor/dense/norm"], norms, rtol=1e-6)


def test_groups_inside_leaves_are_refused():
    with pytest.raises(ValueError, match="`measure` must have groups of whole leaves"):
        clipax.monitor(measure=measures.per_unit()).init(plain())


def test_norms_are_measured_once_for_monitor_and_clipper():
    """A compiler finds the two to be the same: no entry is read twice."""
    tree = [np.ones(2**16, np.float32)] * 3

    def read(optimizer):
        state = optimizer.init(tree)
        cost = jax.jit(optimizer.update).lower(tree, state).compile().cost_analysis()
        return (cost[0] if isinstance(cost, list) else cost)["flops"]

    clipper = clipax.per_leaf(1.0)
    assert read(optax.chain(clipax.monitor(measure=measures.per_leaf()), clipper)) < 1.05 * read(
        clipper
    )


@pytest.mark.parametrize("measure", [None, measures.per_leaf(), measures.per_tree()])
def test_state_goes_through_tree_map_params(measure):
    """As where shardings of an optimizer's state are made from those of the parameters."""
    optimizer = optax.chain(clipax.monitor(measure=measure), optax.adam(1e-3))
    state = optimizer.init(plain())
    found = optax.tree_utils.tree_map_params(
        optimizer, lambda _: "param", state, transform_non_params=lambda _: "other"
    )
    assert set(jax.tree.leaves(found[0])) == {"other"}
    assert set(jax.tree.leaves(found[1])) == {"param", "other"}
    jax.tree.map(lambda kind, part: None, found, state)  # a prefix of the state


def test_tree_without_groups_can_be_watched():
    found, state = seen(clipax.monitor(), [{}, {}])
    assert found == {} and int(state.steps) == 2
