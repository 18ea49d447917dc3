"""Law 12 for sharded `jit`: the norm is that of the whole gradient, and costs one all-reduce.

Every clipper on a mesh of one axis; on one of two axes one for each kind of group and of state.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import optax
import pytest
from catalogue import BY_NAME, INSIDE_LEAVES
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from rows import sampled
from spread import GRID, ROW, jitted, run, set_mesh

import clipax

pytestmark = pytest.mark.devices
# One for each kind of group, norm and state that has collectives of its own.
EACH = ("global_norm", "adaptive_per_layer", "element_mean", "stable_spam", "spectral")
TRACED = (
    "global_norm_max", "per_group_dict", "moving_average_per_leaf", "value", "unit_mean", "agc",
    "clippy",
)  # fmt: skip
every = sampled("row", BY_NAME, EACH)
traced = sampled("row", BY_NAME, (*EACH, *TRACED, "block_rms", "spam"))


def rows(*names, default):
    return sampled("row", {name: BY_NAME[name] for name in names}, default)


on_grid = rows(
    "global_norm", "adaptive_per_layer", "moving_average_per_leaf", "per_group", "block_rms",
    "value", "unit_mean", "spam", "stable_spam", default=("adaptive_per_layer",),
)  # fmt: skip


class Spread(NamedTuple):
    """Updates in a row of gradients on eight devices.

    Attributes:
        collectives: how many of each kind the update is compiled to.
        update: what takes gradients that are laid out in this way.
        result: the last result.
        state: the last state.
    """

    collectives: dict[str, int]
    update: Callable
    result: Any
    state: Any


def gradients(layout):
    return [layout.gradient(i, 3.0**i) for i in range(3)]


@functools.cache
def spread(row, layout, kind):
    mesh, clipper = layout.mesh(kind), row.make()
    with set_mesh(mesh):
        placed = [layout.sharded(g, mesh) for g in gradients(layout)]
        # Where a state lies that is made entry by entry, is what is asked; others are replicated.
        init = clipper.init if row.groups == "element" else jax.jit(clipper.init)
        state = init(placed[0])
        update = compiled(clipper, placed[0], state)

        def placing(g, state):
            return update(g, jax.device_put(state, update.input_shardings[0][1]))

        for g in placed:
            result, state = placing(g, state)
    return Spread(collectives(update), placing, result, state)


def compiled(clipper, tree, state):
    return jax.jit(lambda g, s: clipper.update(g, s)).lower(tree, state).compile()


def collectives(update):
    names = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    return {n: len(re.findall(rf"= .*\b{n}(?:-start)?\(", update.as_text())) for n in names}


@functools.cache
def alone(row, layout):
    """The last result and state on one device."""
    return run(row.make(), gradients(layout))


@every
def test_sharded_jit_equals_one_device(row):
    assert_equals_one_device(row, ROW, AxisType.Auto)


@on_grid
def test_sharded_jit_on_two_axes_equals_one_device(row):
    assert_equals_one_device(row, GRID, AxisType.Auto)


@rows("adaptive_per_layer", "value", "unit_mean", "spectral", default=("value",))
def test_sharded_jit_with_explicit_axes_equals_one_device(row):
    assert_equals_one_device(row, ROW, AxisType.Explicit)


def assert_equals_one_device(row, layout, kind):
    expected, state = alone(row, layout)
    found, placed = spread(row, layout, kind), layout.sharded(layout.gradient(), layout.mesh(kind))
    chex.assert_trees_all_close(found.result, expected, rtol=1e-6, atol=1e-7 + row.error)
    chex.assert_trees_all_close(found.state, state, rtol=1e-6)
    for x, g in zip(jax.tree.leaves(found.result), jax.tree.leaves(placed), strict=True):
        assert x.sharding.is_equivalent_to(g.sharding, g.ndim)
    if row.groups not in INSIDE_LEAVES:
        assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(found.state))
    elif row.groups == "element":
        assert_lies_where_the_gradient_does(row.make(), found.state, placed)


def assert_lies_where_the_gradient_does(clipper, state, gradient):
    """State for each entry; the axes of a window come before those of the leaf."""

    def check(kept, leaf):
        spec = P(*[None] * (kept.ndim - leaf.ndim), *leaf.sharding.spec)
        expected = NamedSharding(leaf.sharding.mesh, spec)
        assert kept.sharding.is_equivalent_to(expected, kept.ndim)
        return kept

    optax.tree_utils.tree_map_params(clipper, check, state, gradient)


@traced
def test_with_explicit_axes_types_have_the_sharding_of_the_gradient(row):
    """What such axes refuse they refuse while an update is traced; the program is the same."""
    mesh, clipper = ROW.mesh(AxisType.Explicit), row.make()
    with set_mesh(mesh):
        placed = ROW.sharded(ROW.gradient(), mesh)
        state = clipper.init(placed)
        result, after = jax.eval_shape(clipper.update, placed, state)
    for x, g in zip(jax.tree.leaves(result), jax.tree.leaves(placed), strict=True):
        assert x.sharding.spec == jax.typeof(g).sharding.spec
    if row.groups not in INSIDE_LEAVES:
        assert all(not any(x.sharding.spec) for x in jax.tree.leaves(after))


@every
def test_measure_costs_one_all_reduce_and_moves_no_leaf(row):
    assert_reduces_as_a_plain_sum(row, ROW)


@on_grid
def test_measure_on_two_axes_costs_what_a_plain_sum_does(row):
    assert_reduces_as_a_plain_sum(row, GRID)


def assert_reduces_as_a_plain_sum(row, layout):
    """One in the usual path, counted by what a plain sum of squares needs, one in the fallback."""
    count = spread(row, layout, AxisType.Auto).collectives
    if row.mixes:
        assert sum(count.values()) > 0
        return
    assert count["all-gather"] == count["all-to-all"] == count["collective-permute"] == 0
    if row.groups == "element":
        assert count["all-reduce"] == 0
    elif row.groups != "unit":
        of_the_norm = 1 if row.ord in (1, math.inf) else 2  # one more in the fallback
        plain = all_reduces_of_optax(layout)
        assert count["all-reduce"] == plain * (row.all_reduces or of_the_norm)


@functools.cache
def all_reduces_of_optax(layout):
    mesh, clipper = layout.mesh(), optax.clip_by_global_norm(1.0)
    with set_mesh(mesh):
        tree = layout.sharded(layout.gradient(), mesh)
        return collectives(compiled(clipper, tree, clipper.init(tree)))["all-reduce"]


@every
def test_nan_on_one_device_is_one_everywhere(row):
    """A maximum over devices may lose it, and what came before it on its way."""
    found, (_, state), clipper = spread(row, ROW, AxisType.Auto), alone(row, ROW), row.make()
    for column in (2, 15):  # on the second and on the last device
        bad = with_nan(column)
        expected = jitted(clipper)(bad, state)
        with set_mesh(ROW.mesh()):
            placed = found.update(ROW.sharded(bad, ROW.mesh()), found.state)
        chex.assert_trees_all_close(placed, expected, rtol=1e-6, atol=1e-7 + row.error)


@rows("global_norm_max", "adaptive", "stable_spam", default=("global_norm_max",))
def test_nan_on_one_device_becomes_zero_on_all(row):
    clipper = row.make(nonfinite="zero")
    bad, mesh = with_nan(15), ROW.mesh()
    result, state = run(clipper, [ROW.sharded(g, mesh) for g in (ROW.gradient(), bad)])
    expected = run(clipper, [ROW.gradient(), bad])
    assert not np.any(result["cell"]["kernel"])
    chex.assert_trees_all_close((result, state), expected, rtol=1e-6)


def test_nonfinite_entry_on_one_device_is_decided_alike_on_all():
    clipper = clipax.adaptive(warmup=1, nonfinite="zero")
    good, bad = (
        {"cell": ROW.sharded(g, ROW.mesh())["cell"]} for g in (ROW.gradient(), with_nan(15))
    )
    # One run, stopped in between: devices add in no fixed order, so a second one may end elsewhere.
    _, before = run(clipper, [good])
    result, after = jitted(clipper)(bad, before)
    assert all(not np.any(x) for x in jax.tree.leaves(result))
    for leaf, expected in zip(*map(jax.tree.leaves, (after.policy, before.policy)), strict=True):
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, expected)


@rows("unit", "unit_mean", "autoclip_per_unit", "agc", default=("agc",))
def test_unit_on_one_device_that_is_not_finite_is_counted(row):
    bad = {"cell": ROW.sharded(with_nan(5), ROW.mesh())["cell"]}
    _, state = run(row.make(), [bad])
    assert int(clipax.metrics(state)["nonfinite"]) == 1


def with_nan(column):
    bad = ROW.gradient(seed=3, scale=27.0)
    bad["cell"]["kernel"][1, column] = np.nan
    return bad


def test_data_parallel_step_equals_one_device_and_needs_no_collective_for_the_norm():
    """The batch is spread and the parameters are not: the gradient is the same everywhere."""
    mesh, params = ROW.mesh(), np.ones((6, 3), np.float32)
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(16, 6)).astype(np.float32)
    clipper = clipax.global_norm(0.1)

    def step(params, batch, state):
        gradient = jax.grad(lambda w: ((batch @ w) ** 2).mean())(params)
        return clipper.update(gradient, state)

    def placed(x, spec):
        return jax.device_put(x, NamedSharding(mesh, spec))

    state = clipper.init(params)
    given = placed(params, P()), placed(batch, P("i")), state
    expected = jax.jit(step)(params, batch, state)
    chex.assert_trees_all_close(jax.jit(step)(*given), expected, rtol=1e-6, atol=1e-7)
    assert collectives(jax.jit(step).lower(*given).compile())["all-reduce"] == 1  # of the gradient


def test_leaf_that_does_not_divide_among_the_devices():
    """A part of an array keeps its layout, with rows on some devices that belong to nobody."""
    mesh, clipper = ROW.mesh(), clipax.per_leaf(0.5)
    whole = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)

    @jax.jit
    def update(whole, state):
        return clipper.update({"w": whole[:11]}, state)

    state = clipper.init({"w": whole[:11]})
    placed = jax.device_put(whole, NamedSharding(mesh, P("i")))
    chex.assert_trees_all_close(update(placed, state), update(whole, state), rtol=1e-6)
