"""Small leaves of one shape, which are measured above each other where there is one device.

The law: a tree has the norms, and slopes, that it would have if each leaf were measured by itself.
"""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_page import QUICK
from norms import EPS, NORMS, TINY
from numpy_groups import double, norm_of
from rows import sampled

import clipax
from clipax import _layout, _norms, measures

LAYERS = 5
LABELS = {f"layer{i}": "first" if i < 2 else f"rest{i // 3}" for i in range(LAYERS)} | {
    "stack": "stack",
    "head": "first",
}
MEASURES = {
    "tree": measures.per_tree,
    "leaf": measures.per_leaf,
    "layer": measures.per_layer,
    "scanned": functools.partial(
        measures.per_layer,
        stacked={**{f"layer{i}": False for i in range(LAYERS)}, "stack": True, "head": False},
    ),
    "label": functools.partial(measures.per_group, LABELS),
}
every_norm = sampled("norm", dict(zip(NORMS, NORMS, strict=True)), ["l2", "linf", "rms"])


def tree(dtype=np.float32):
    """Layers alike, one that lacks a leaf, leaves of a shape that few have, a stack, a scalar."""
    rng = np.random.default_rng(0)

    def leaf(*shape, size=1.0):
        return np.asarray(rng.normal(size=shape) * size, dtype)

    made = {
        f"layer{i}": {"kernel": leaf(3, 5, size=4.0**i), "bias": leaf(5), "gain": leaf()}
        for i in range(LAYERS)
    }
    del made["layer3"]["bias"]
    return made | {"stack": {"kernel": leaf(2, 3, 5)}, "head": {"kernel": leaf(4, 2)}}


def norms_by_all(norm, given):
    """The norms by every measure."""
    return {name: make(NORMS[norm][0]).norms(given).values for name, make in MEASURES.items()}


@functools.cache
def compiled(norm):
    return jax.jit(functools.partial(norms_by_all, norm))


def measured(norm, given):
    return compiled(norm)(given)


def expected_norms(norm, given):
    """The same in float64 numpy."""
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(given)[0], strict=True)
    tops = [path[0].key for path in paths]
    groups = {
        "tree": ["all"] * len(leaves),
        "leaf": range(len(leaves)),
        "layer": tops,
        "label": [LABELS[top] for top in tops],
    }
    found = {name: _norms_of(norm, of_leaf, leaves) for name, of_leaf in groups.items()}
    slices = [norm_of([double(x)], NORMS[norm][1]) for x in given["stack"]["kernel"]]
    return found | {"scanned": np.array([*found["layer"][:-1], *slices])}


def _norms_of(norm, groups, leaves):
    members = {}
    for group, leaf in zip(groups, leaves, strict=True):
        members.setdefault(group, []).append(double(leaf))
    return np.array([norm_of(arrays, NORMS[norm][1]) for arrays in members.values()])


def assert_close(found, expected, ulps=4):
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(found))
    chex.assert_trees_all_close(found, expected, rtol=ulps * EPS)


def rows_of(given):
    """How many leaves lie in how many arrays."""
    leaves = tuple(map(jnp.asarray, jax.tree.leaves(given)))
    count = len(leaves)
    layout = _layout.of_whole_arrays(leaves, (0,) * count, (None,), ((),) * count)
    return count, len(_layout.in_rows(layout, leaves)[1])


def test_leaves_of_a_shape_that_four_have_are_rows_of_one_array():
    assert rows_of(tree()) == (3 * LAYERS - 1 + 2, 3 + 2)
    ones = functools.partial(np.ones, dtype=np.float32)
    assert rows_of([ones(2)] * 3) == (3, 3)
    assert rows_of([ones(2)] * 4 + [np.ones(2, jnp.bfloat16)] * 4) == (8, 2)
    assert rows_of([ones(2**14)] * 4) == (4, 1)
    assert rows_of([ones(2**14 + 1)] * 4) == (4, 4)


@pytest.mark.parametrize("devices", [1, 4])
def test_leaves_that_are_compiled_for_several_devices_are_measured_by_themselves(devices):
    """Also on a machine that has one."""
    mesh = jax.sharding.AbstractMesh((devices,), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    leaves = [jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=spread)] * 6
    traced = jax.jit(lambda g: measures.per_tree().norms(g).values).trace(leaves)
    assert bool(re.search(r"f32\[6,8(?:@data)?,4\]", str(traced.jaxpr))) == (devices == 1)


@sampled(
    ("norm", "dtype"),
    {
        f"{norm}-{dtype.__name__}": (norm, dtype)
        for norm in NORMS
        for dtype in (np.float32, jnp.bfloat16)
    },
    ["l2-float32", "linf-float32", "l3-float32", "rms-float32", "l1-bfloat16"],
)
def test_norms_are_those_of_each_leaf_by_itself(norm, dtype):
    given = tree(dtype)
    assert_close(measured(norm, given), expected_norms(norm, given))


@every_norm
def test_norms_outside_the_range_of_squares_are_right(norm):
    usual = measured(norm, tree())
    for scale in map(np.float32, (1e25, 1e-30)):
        found = measured(norm, jax.tree.map(lambda x, scale=scale: np.float32(x * scale), tree()))
        assert_close(jax.tree.map(lambda x, scale=scale: x / scale, found), usual, ulps=8)


def test_entries_whose_squares_underflow_count_beside_one_whose_square_does_not():
    entries = np.full(2**20, 2.0**-75, np.float32)
    entries[77] = 2.0**-62.5
    (found,) = jax.jit(lambda x: measures.per_leaf().norms([x]).values)(entries)
    assert float(found) == pytest.approx(norm_of([double(entries)], 2), rel=4 * EPS, abs=0)


@every_norm
def test_what_is_not_finite_is_lost_in_its_own_group_alone(norm):
    given = tree()
    given["layer4"]["bias"][2] = np.nan
    given["layer3"]["kernel"][0, 0] = -np.inf
    expected = expected_norms(norm, given)
    assert all(np.isnan(x).sum() == 1 for x in expected.values())
    assert_close(measured(norm, given), expected)


def test_group_of_zeros_beside_others_has_norm_zero():
    given = jax.tree.map(np.zeros_like, tree())
    given["layer2"]["kernel"][:] = 2.0
    for groups, norms in measured("l2", given).items():
        zeros = [] if groups == "tree" else [0]
        assert sorted(set(np.asarray(norms))) == [*zeros, np.float32(2 * 15**0.5)]


@pytest.mark.parametrize(
    "names",
    [("tree", "scanned"), pytest.param(tuple(MEASURES), marks=pytest.mark.exhaustive)],
    ids=["two", "all"],
)
@sampled("norm", {"l2": "l2", "linf": "linf"}, ["l2"])
def test_slopes_are_those_of_each_leaf_by_itself(norm, names):
    def slope(given):
        def total(g):
            found = norms_by_all(norm, g)
            return sum(jnp.sum(found[name] ** 2) for name in names)

        return jax.jit(jax.grad(total), compiler_options=QUICK)(given)

    given = tree()
    for i in range(LAYERS):  # none but kernels and gains in rows
        given[f"layer{i}"].pop("bias", None)
    found = slope(given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_norms, "_jitted_norms", _norms._norms)
        chex.assert_trees_all_close(found, slope(given), rtol=1e-5, atol=TINY)


@pytest.mark.parametrize("norm", ["l2", pytest.param("rms", marks=pytest.mark.exhaustive)])
def test_norms_over_a_batch_are_those_of_its_entries(norm):
    scales = np.float32([1.0, 1e-30, 0.0, 1e25])
    batch = jax.tree.map(lambda x: np.stack([np.float32(x * s) for s in scales]), tree())
    found = jax.jit(jax.vmap(functools.partial(norms_by_all, norm)))(batch)
    for i in range(len(scales)):
        one, expected = (jax.tree.map(lambda x, i=i: x[i], t) for t in (batch, found))
        assert_close(measured(norm, one), expected)


def test_a_hundred_leaves_are_clipped_and_compiled_to_few_reductions():
    leaves = [np.full(8, 1 + i, np.float32) for i in range(100)]
    clipper = clipax.global_norm(1.0)
    update = jax.jit(clipper.update).lower(leaves, clipper.init(leaves)).compile()
    text = update.as_text()
    assert text is not None and text.count(" reduce(") < 20
    result, _ = update(leaves, clipper.init(leaves))
    assert np.linalg.norm(np.concatenate(result)) == pytest.approx(1, rel=1e-5)
    clipped = jax.jit(lambda g: clipax.clip(g, clipax.per_leaf(1.0))[0], compiler_options=QUICK)
    by_leaf = clipped(leaves)
    for x in by_leaf:
        np.testing.assert_allclose(x, 8**-0.5, rtol=1e-6)
