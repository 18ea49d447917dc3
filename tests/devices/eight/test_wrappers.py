"""What wraps an optimizer decides alike on all devices, and leaves every array where it lies."""

import functools

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from rows import sampled
from spread import ROW, run, set_mesh

import clipax

pytestmark = pytest.mark.devices
SIZES = (1.0, 1.0, 1.0, 1e4, 1.0, np.nan, 1.0)  # the fourth and the sixth are skipped


KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


def gradients():
    return [ROW.gradient(0, size) for size in SIZES]


@functools.cache
def guarded(**options):
    inner = optax.chain(clipax.global_norm(0.5, **options), optax.sgd(0.1, momentum=0.9))
    return clipax.skip_spikes(inner, warmup=3, window=8, **options)


def assert_same(found, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, expected)
    assert int(clipax.metrics(found[1])["skip_spikes/steps_skipped"]) == 2


@sampled("kind", KINDS, ())
def test_sharded_skips_are_those_of_one_device(kind):
    expected = run(guarded(), gradients())
    mesh = ROW.mesh(kind)
    with set_mesh(mesh):
        placed = [ROW.sharded(g, mesh) for g in gradients()]
        found = run(guarded(), placed)
    assert_same(found, expected)
    for x, g in zip(jax.tree.leaves(found[0]), jax.tree.leaves(placed[0]), strict=True):
        assert x.sharding.is_equivalent_to(g.sharding, g.ndim)


@sampled("kind", KINDS, ("auto",))
def test_what_is_fed_back_lies_where_the_gradient_does(kind):
    clipper = clipax.error_feedback(clipax.global_norm(0.5))
    expected = run(clipper, gradients())
    mesh = ROW.mesh(kind)
    with set_mesh(mesh):
        placed = [ROW.sharded(g, mesh) for g in gradients()]
        found = run(clipper, placed)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, expected)
    leaves = (jax.tree.leaves(tree) for tree in (found[0], found[1].buffer, placed[0]))
    for x, e, g in zip(*leaves, strict=True):
        assert x.sharding.is_equivalent_to(g.sharding, g.ndim)
        assert e.sharding.is_equivalent_to(g.sharding, g.ndim)


@sampled("check_vma", {"checked": True, "unchecked": False}, ("checked",))
def test_skips_in_shard_map_are_those_of_one_device(check_vma):
    specs = {key: ROW.specs[key] for key in ("dense", "cell")}
    parts = [{key: g[key] for key in specs} for g in gradients()]
    expected = run(guarded(), parts)
    optimizer = guarded(axis_name="i")
    state = optimizer.init(parts[0])
    layout = optax.tree_utils.tree_map_params(
        optimizer, lambda _, spec: spec, state, specs, transform_non_params=lambda _: P(),
        is_leaf=lambda x: isinstance(x, P),
    )  # fmt: skip
    update = jax.jit(
        jax.shard_map(
            lambda g, s: optimizer.update(g, s),
            mesh=ROW.mesh(),
            in_specs=(specs, layout),
            out_specs=(specs, layout),
            check_vma=check_vma,
        )
    )
    for g in parts:
        result, state = update(g, state)
    assert_same((result, state), expected)
