"""Stacked layers on several devices: one norm for each layer, of the whole of it."""

import contextlib
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from rows import sampled
from spread import Layout, mapped_update, run, set_mesh

import clipax
from clipax import measures

pytestmark = pytest.mark.devices
STACKED = {"blocks": True, "head": False}
SHAPES = {"blocks": {"kernel": (8, 16, 6), "bias": (8, 16)}, "head": (6, 8)}
ALONG_FEATURES = Layout(
    {"i": 8},
    SHAPES,
    {"blocks": {"kernel": P(None, "i"), "bias": P(None, "i")}, "head": P(None, "i")},
)
ALONG_LAYERS = Layout(
    {"i": 8}, SHAPES, {"blocks": {"kernel": P("i"), "bias": P("i")}, "head": P(None, "i")}
)
KERNEL_ALONG_LAYERS = Layout(
    {"i": 8}, SHAPES, {"blocks": {"kernel": P("i"), "bias": P()}, "head": P(None, "i")}
)
LAYOUTS = {
    "features": ALONG_FEATURES,
    "layers": ALONG_LAYERS,
    "layers, not of the bias": KERNEL_ALONG_LAYERS,
}
MAKE = {
    "per_layer": clipax.per_layer(20.0, stacked=STACKED),
    "per_leaf": clipax.per_leaf(20.0, stacked=STACKED),
    "unit": clipax.clip_by(measures.per_unit(stacked=STACKED), 20.0),
    "adaptive": clipax.adaptive(
        50.0, window=3, warmup=1, multiplier=1.0, measure=measures.per_layer(stacked=STACKED)
    ),
}
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
TOLD = {"set_mesh": True, "mesh of the arrays": False}
CASES = {
    "-".join((name, where, kind, told)): (MAKE[name], LAYOUTS[where], KINDS[kind], TOLD[told])
    for name, where, kind, told in itertools.product(MAKE, LAYOUTS, KINDS, TOLD)
}


@sampled("case", CASES, (
    "per_layer-layers-explicit-set_mesh",
    "per_leaf-layers, not of the bias-auto-mesh of the arrays",
))  # fmt: skip
def test_sharded_jit_equals_one_device(case):
    clipper, layout, kind, told = case
    gradients = [layout.gradient(i, 3.0**i) for i in range(3)]
    mesh = layout.mesh(kind)
    with set_mesh(mesh) if told else contextlib.nullcontext():
        placed = [layout.sharded(g, mesh) for g in gradients]
        result, state = run(clipper, placed)
    chex.assert_trees_all_close((result, state), run(clipper, gradients), rtol=1e-6)
    for x, g in zip(jax.tree.leaves(result), jax.tree.leaves(placed[0]), strict=True):
        assert x.sharding.is_equivalent_to(g.sharding, g.ndim)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state))


def test_norms_of_runs_that_are_spread_over_an_explicit_mesh():
    runs = jax.tree.map(lambda *x: jnp.stack(x), *(ALONG_LAYERS.gradient(i) for i in range(8)))
    placed = jax.device_put(runs, NamedSharding(ALONG_LAYERS.mesh(AxisType.Explicit), P("i")))

    def norms(g):
        return measures.per_layer(stacked=STACKED).norms(g).values

    chex.assert_trees_all_close(jax.vmap(norms)(placed), jax.vmap(norms)(runs), rtol=1e-6)


ALONG_COLUMNS = Layout(
    {"i": 8},
    {"blocks": {"kernel": (8, 6, 16), "bias": (8, 16)}, "head": (6, 8)},
    {"blocks": {"kernel": P(None, None, "i"), "bias": P(None, "i")}, "head": P(None, "i")},
)
KERNEL_ALONG_COLUMNS = Layout(
    {"i": 8},
    {"blocks": {"kernel": (8, 6, 16)}, "head": (6, 8)},
    {"blocks": {"kernel": P(None, None, "i")}, "head": P(None, "i")},
)
MAPPED = {
    "per_layer": (functools.partial(clipax.per_layer, 20.0), ALONG_FEATURES),
    # The axis that is spread is the one that a unit spans.
    "unit": (
        lambda **options: clipax.clip_by(measures.per_unit(axis=-1, **options), 20.0),
        KERNEL_ALONG_COLUMNS,
    ),
    "agc": (functools.partial(clipax.agc, 0.2, axis=-1), ALONG_COLUMNS),
    "clippy": (clipax.clippy, ALONG_FEATURES),
    "stable_spam": (clipax.stable_spam, ALONG_FEATURES),
}


CHECKED = {True: "checked", False: "unchecked"}
WAYS = {f"{name}-{CHECKED[v]}": (*what, v) for v in CHECKED for name, what in MAPPED.items()}


@sampled("way", WAYS, ("unit-checked", "stable_spam-unchecked"))
def test_shard_map_equals_one_device(way):
    make, layout, check_vma = way
    gradients, params = [layout.gradient(i, 3.0**i) for i in range(3)], layout.gradient(7)
    clipper, alone = make(stacked=STACKED, axis_name="i"), make(stacked=STACKED)
    update = mapped_update(clipper, layout.mesh(), layout.specs, check_vma)
    state, expected_state = clipper.init(params), alone.init(params)
    for g in gradients:
        result, state = update(g, state, params)
        expected, expected_state = jax.jit(alone.update)(g, expected_state, params)
    chex.assert_trees_all_close((result, state), (expected, expected_state), rtol=1e-6)
