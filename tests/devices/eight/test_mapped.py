"""Law 12 for mapped axes: inside `shard_map` and `pmap` the norm is that of the whole gradient."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy_groups import label_of
from rows import sampled
from spread import ROW, mapped_update, run, set_mesh

import clipax
from clipax import measures

pytestmark = pytest.mark.devices

MAKE = {
    "global_norm": lambda a: clipax.global_norm(0.5, axis_name=a),
    "global_norm_l1": lambda a: clipax.global_norm(0.5, ord=1, axis_name=a),
    "global_norm_l3": lambda a: clipax.global_norm(0.5, ord=3, axis_name=a),
    "global_norm_max": lambda a: clipax.global_norm(0.5, ord=math.inf, axis_name=a),
    "per_layer": lambda a: clipax.per_layer(0.5, axis_name=a),
    "per_leaf": lambda a: clipax.per_leaf(0.5, axis_name=a),
    "per_group": lambda a: clipax.per_group({"a": 0.5, "b": 0.1}, label_of, axis_name=a),
    "adaptive": lambda a: clipax.adaptive(50.0, window=5, warmup=2, initial=0.5, axis_name=a),
    "decaying": lambda a: clipax.decaying(0.5, 0.9, clip_rate=0.1, axis_name=a),
    "moving_average": lambda a: clipax.moving_average(
        warmup=0, initial=0.5, measure=measures.per_leaf(axis_name=a)
    ),
    "block_rms": lambda a: clipax.clip_by(measures.per_leaf(measures.rms, axis_name=a), 0.1),
}
SPREAD = {name: functools.cache(make) for name, make in MAKE.items()}
EACH = ("global_norm_max", "adaptive")
FLAT = {"dense": {"kernel": P("i", None), "bias": P("i")}, "cell": {"kernel": P(None, "i")}}


def without_scalar(seed=0, scale=1.0):
    return {k: v for k, v in ROW.gradient(seed, scale).items() if k != "scalar"}


@functools.cache
def mapped(clipper, check_vma):
    return mapped_update(clipper, ROW.mesh(), FLAT, check_vma)


CHECKED = {True: "checked", False: "unchecked"}
WAYS = {f"{name}-{CHECKED[v]}": (make, v) for v in CHECKED for name, make in SPREAD.items()}


@sampled("way", WAYS, (*(f"{name}-checked" for name in EACH), "per_group-unchecked"))
@pytest.mark.parametrize("magnitude", [1.0, 1e25], ids=["usual", "fallback"])
def test_shard_map_equals_one_device(way, magnitude):
    make, check_vma = way
    gradients = [without_scalar(i, magnitude) for i in range(2)]
    expected, expected_state = run(make(None), gradients)
    state = make("i").init(gradients[0])  # outside of the mapped function
    update = mapped(make("i"), check_vma)
    for g in gradients:
        result, state = update(g, state, g)
    chex.assert_trees_all_close(result, expected, rtol=1e-6)
    chex.assert_trees_all_close(state, expected_state, rtol=1e-6)


@pytest.mark.parametrize("make", SPREAD.values(), ids=SPREAD)
def test_update_has_a_collective_over_the_axis(make):
    gradient = without_scalar()
    traced = mapped(make("i"), True).trace(gradient, make("i").init(gradient), gradient)
    assert re.search(r"p(?:sum|max)\w*\[[^\]]*axes=\('i',\)", str(traced.jaxpr)), traced.jaxpr


@sampled("make", SPREAD, EACH)
def test_nan_on_one_device_is_one_everywhere(make):
    bad = without_scalar()
    bad["cell"]["kernel"][1, 15] = np.nan
    state = make(None).init(bad)
    found = mapped(make("i"), check_vma=True)(bad, state, bad)
    chex.assert_trees_all_close(found, run(make(None), [bad]), rtol=1e-6)


@pytest.mark.parametrize("check_vma", [True, False])
def test_replicated_leaf_counts_once(check_vma):
    """Known by its type where JAX tracks it, told by `replicated=` where it does not."""
    told = None if check_vma else {"dense": False, "cell": False, "scalar": True}
    measure = measures.per_tree(axis_name="i", replicated=told)
    clipper = clipax.clip_by(measure, 0.5)
    specs = {**FLAT, "scalar": P()}
    g = ROW.gradient(3, 2.0)
    update = jax.shard_map(
        lambda g: clipper.update(g, clipper.init(g)),
        mesh=ROW.mesh(),
        in_specs=(specs,),
        out_specs=(specs, P()),
        check_vma=check_vma,
    )
    result, state = jax.jit(update)(g)
    expected, expected_state = run(clipax.global_norm(0.5), [g])
    chex.assert_trees_all_close(result, expected, rtol=1e-6)
    assert float(state.metrics.norm) == pytest.approx(float(expected_state.metrics.norm), rel=1e-6)


@pytest.mark.parametrize("check_vma", [True, False])
def test_vmap_inside_shard_map(check_vma):
    runs = jax.tree.map(lambda *x: np.stack(x), *[without_scalar(i, 10.0**i) for i in range(3)])
    clipper = clipax.global_norm(0.5, axis_name="i")
    specs = jax.tree.map(lambda s: P(None, *s), FLAT, is_leaf=lambda x: isinstance(x, P))
    state = jax.vmap(clipper.init)(runs)
    update = jax.shard_map(
        jax.vmap(lambda g, s: clipper.update(g, s)),
        mesh=ROW.mesh(),
        in_specs=(specs, P()),
        out_specs=(specs, P()),
        check_vma=check_vma,
    )
    result, _ = jax.jit(update)(runs, state)
    plain = clipax.global_norm(0.5)
    expected = jax.jit(jax.vmap(lambda g: plain.update(g, plain.init(g))[0]))(runs)
    chex.assert_trees_all_close(result, expected, rtol=1e-6)


def test_gradient_that_is_a_sum_yet_to_be_taken_is_refused():
    """Its norm would be that of one part."""
    mesh = ROW.mesh(AxisType.Explicit)

    def clipped(x):
        partial = jnp.einsum("ij,kj->ik", x, x, out_sharding=P(None, None, unreduced={"i"}))
        return clipax.clip(partial, clipax.global_norm(1.0))

    with set_mesh(mesh):
        x = jax.device_put(np.ones((4, 16)), NamedSharding(mesh, P(None, "i")))
        # Of the oldest versions of JAX not even the dtype of such an array can be changed.
        with pytest.raises((ValueError, NotImplementedError), match=r"to be taken over|unreduced"):
            jax.eval_shape(clipped, x)


def test_two_mapped_axes_reduce_over_those_that_a_leaf_is_spread_over():
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    specs = {"both": P("x", "y"), "one": P("y"), "none": P()}
    g = {k: np.random.default_rng(5).normal(size=(8, 4)).astype(np.float32) for k in specs}
    clipper = clipax.global_norm(0.5, axis_name=("x", "y"))
    update = jax.shard_map(
        lambda g: clipper.update(g, clipper.init(g)),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=(specs, P()),
    )
    result, state = jax.jit(update)(g)
    expected, expected_state = run(clipax.global_norm(0.5), [g])
    chex.assert_trees_all_close(result, expected, rtol=1e-6)
    chex.assert_trees_all_close(state, expected_state, rtol=1e-6)


@sampled("make", SPREAD, ("block_rms",))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pmap_over_shards_equals_one_device(make):
    shards = {"kernel": np.random.default_rng(0).normal(size=(8, 4, 3)).astype(np.float32)}
    tree = {"dense": {"kernel": shards["kernel"]}}
    clipper = make("i")
    state = clipper.init(jax.tree.map(lambda x: x[0], tree))
    update = jax.pmap(lambda g, s: clipper.update(g, s), axis_name="i", in_axes=(0, None))
    result, states = update(tree, state)
    whole = jax.tree.map(lambda x: x.reshape(-1, 3), tree)
    expected, expected_state = run(make(None), [whole])
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x.reshape(-1, 3), result), expected, rtol=1e-6
    )
    for device in range(8):
        mine = jax.tree.map(lambda x, d=device: x[d], states)
        chex.assert_trees_all_close(mine, expected_state, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pmap_with_averaged_gradients_needs_no_axis_name():
    shards = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    optimizer = optax.chain(clipax.global_norm(0.1), optax.sgd(1.0))

    def step(g):
        return optimizer.update(jax.lax.pmean(g, "i"), optimizer.init(g))[0]

    result = jax.pmap(step, axis_name="i")(shards)
    mean = shards.mean(0)
    expected = -mean * min(1.0, 0.1 / np.linalg.norm(mean))
    np.testing.assert_allclose(result, np.tile(expected, (8, 1)), rtol=1e-5)
