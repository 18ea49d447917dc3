"""Small leaves of one shape, which are measured above each other where there is one device.

The law: a tree has the norms, and slopes, that it would have if each leaf were measured by itself.
"""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from norms import EPS, NORMS, TINY

import clipax
from clipax import _layout, _norms, measures

LAYERS = 6
LABELS = {f"layer{i}": "first" if i < 2 else f"rest{i // 4}" for i in range(LAYERS)} | {
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
every_norm = pytest.mark.parametrize("norm", list(NORMS))


def tree(dtype=jnp.float32, scale=1.0):
    """Layers alike, one that lacks a leaf, leaves of a shape that few have, a stack, a scalar."""
    rng = np.random.default_rng(0)

    def leaf(*shape):
        return jnp.asarray(rng.normal(size=shape) * scale, dtype)

    made = {
        f"layer{i}": {"kernel": leaf(3, 5) * 4.0**i, "bias": leaf(5), "gain": leaf()}
        for i in range(LAYERS)
    }
    del made["layer3"]["bias"]
    return made | {"stack": {"kernel": leaf(2, 3, 5)}, "head": {"kernel": leaf(4, 2)}}


def measured(norm, given):
    """The norms by every measure."""

    def norms(g):
        return {name: make(NORMS[norm][0]).norms(g).values for name, make in MEASURES.items()}

    return jax.jit(norms)(given)


def alone(norm, given):
    """The same with each leaf by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_norms, "_jitted_norms", _norms._norms)
        return measured(norm, given)


def assert_close(found, expected, ulps=4):
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found))
    chex.assert_trees_all_close(found, expected, rtol=ulps * EPS)


def rows_of(given):
    """How many leaves lie in how many arrays."""
    leaves = tuple(jax.tree.leaves(given))
    count = len(leaves)
    layout = _layout.of_whole_arrays(leaves, (0,) * count, (None,), ((),) * count)
    return count, len(_layout.in_rows(layout, leaves)[1])


def test_leaves_of_a_shape_that_four_have_are_rows_of_one_array():
    assert rows_of(tree()) == (3 * LAYERS - 1 + 2, 3 + 2)
    assert rows_of([jnp.ones(2)] * 3) == (3, 3)
    assert rows_of([jnp.ones(2)] * 4 + [jnp.ones(2, jnp.bfloat16)] * 4) == (8, 2)
    assert rows_of([jnp.ones(2**14)] * 4) == (4, 1)
    assert rows_of([jnp.ones(2**14 + 1)] * 4) == (4, 4)


@pytest.mark.parametrize("devices", [1, 4])
def test_leaves_that_are_compiled_for_several_devices_are_measured_by_themselves(devices):
    """Also on a machine that has one."""
    mesh = jax.sharding.AbstractMesh((devices,), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    leaves = [jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=spread)] * 6
    traced = jax.jit(lambda g: measures.per_tree().norms(g).values).trace(leaves)
    assert bool(re.search(r"f32\[6,8(?:@data)?,4\]", str(traced.jaxpr))) == (devices == 1)


@every_norm
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
def test_norms_are_those_of_each_leaf_by_itself(norm, dtype):
    given = tree(dtype)
    assert_close(measured(norm, given), alone(norm, given))


@every_norm
def test_norms_outside_the_range_of_squares_are_right(norm):
    usual = measured(norm, tree())
    for scale in map(np.float32, (1e25, 1e-30)):
        found = measured(norm, jax.tree.map(lambda x, scale=scale: x * scale, tree()))
        assert_close(jax.tree.map(lambda x, scale=scale: x / scale, found), usual, ulps=8)


@every_norm
def test_what_is_not_finite_is_lost_in_its_own_group_alone(norm):
    given = tree()
    given["layer4"]["bias"] = given["layer4"]["bias"].at[2].set(jnp.nan)
    given["layer5"]["kernel"] = given["layer5"]["kernel"].at[0, 0].set(-jnp.inf)
    expected = alone(norm, given)
    assert all(np.isnan(x).sum() == 1 for x in expected.values())
    assert_close(measured(norm, given), expected)


def test_group_of_zeros_beside_others_has_norm_zero():
    given = jax.tree.map(jnp.zeros_like, tree())
    given["layer2"]["kernel"] = jnp.full((3, 5), 2.0)
    for groups, norms in measured("l2", given).items():
        zeros = [] if groups == "tree" else [0]
        assert sorted(set(np.asarray(norms))) == [*zeros, np.float32(2 * 15**0.5)]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_slopes_are_those_of_each_leaf_by_itself(norm):
    def slope(measured):
        def total(g):
            return sum(jnp.sum(x**2) for x in measured(norm, g).values())

        return jax.grad(total)(tree())

    chex.assert_trees_all_close(slope(measured), slope(alone), rtol=1e-5, atol=TINY)


@pytest.mark.parametrize("norm", ["l2", "rms"])
def test_norms_over_a_batch_are_those_of_its_entries(norm):
    scales = jnp.array([1.0, 1e-30, 0.0, 1e25])
    batch = jax.tree.map(lambda x: jax.vmap(lambda s: x * s)(scales), tree())
    found = jax.vmap(lambda g: measured(norm, g))(batch)
    for i in range(len(scales)):
        one, expected = (jax.tree.map(lambda x, i=i: x[i], t) for t in (batch, found))
        assert_close(measured(norm, one), expected)


def test_hundreds_of_leaves_are_clipped_and_compiled_to_few_reductions():
    leaves = [jnp.full(8, 1.0 + i) for i in range(200)]
    clipper = clipax.global_norm(1.0)
    update = jax.jit(clipper.update).lower(leaves, clipper.init(leaves)).compile()
    text = update.as_text()
    assert text is not None and text.count(" reduce(") < 20
    result, _ = update(leaves, clipper.init(leaves))
    assert float(optax.tree.norm(result)) == pytest.approx(1, rel=1e-5)
    by_leaf, _ = jax.jit(clipax.per_leaf(1.0).update)(leaves, clipax.per_leaf(1.0).init(leaves))
    for x in by_leaf:
        np.testing.assert_allclose(x, 8**-0.5, rtol=1e-6)
