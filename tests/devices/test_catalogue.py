"""Law 12 for sharded `jit`: the norm is that of the whole gradient, and costs one all-reduce."""

import functools
import math
import re
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import optax
import pytest
from catalogue import BY_NAME, CATALOGUE, INSIDE_LEAVES
from jax.sharding import AxisType
from spread import gradient, mesh_of, run, set_mesh, sharded

import clipax

pytestmark = pytest.mark.devices
every = pytest.mark.parametrize("row", CATALOGUE, ids=[row.name for row in CATALOGUE])
GRADIENTS = [gradient(i, 3.0**i) for i in range(3)]


class Spread(NamedTuple):
    """Updates in a row of gradients on eight devices.

    Attributes:
        collectives: how many of each kind the update is compiled to.
        result: the last result.
        state: the last state.
    """

    collectives: dict[str, int]
    result: Any
    state: Any


@functools.cache
def spread(row, kind):
    mesh, clipper = mesh_of(kind), row.make()
    with set_mesh(mesh):
        placed = [sharded(g, mesh) for g in GRADIENTS]
        state = clipper.init(placed[0])
        update = compiled(clipper, placed[0], state)
        for g in placed:
            result, state = update(g, jax.device_put(state, update.input_shardings[0][1]))
    return Spread(collectives(update), result, state)


def compiled(clipper, tree, state):
    return jax.jit(lambda g, s: clipper.update(g, s)).lower(tree, state).compile()


def collectives(update):
    names = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    return {n: len(re.findall(rf"= .*\b{n}(?:-start)?\(", update.as_text())) for n in names}


@functools.cache
def alone(row):
    """The last result and state on one device."""
    return run(row.make(), GRADIENTS)


@every
def test_sharded_jit_equals_one_device(row):
    assert_equals_one_device(row, AxisType.Auto)


@pytest.mark.parametrize("name", ["adaptive_per_layer", "value", "unit_mean", "spectral"])
def test_sharded_jit_with_explicit_axes_equals_one_device(name):
    assert_equals_one_device(BY_NAME[name], AxisType.Explicit)


def assert_equals_one_device(row, kind):
    expected, state = alone(row)
    found, placed = spread(row, kind), sharded(GRADIENTS[0], mesh_of(kind))
    chex.assert_trees_all_close(found.result, expected, rtol=1e-6, atol=1e-7 + row.error)
    chex.assert_trees_all_close(found.state, state, rtol=1e-6)
    for x, g in zip(jax.tree.leaves(found.result), jax.tree.leaves(placed), strict=True):
        assert x.sharding.is_equivalent_to(g.sharding, g.ndim)
    if row.groups not in INSIDE_LEAVES:
        assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(found.state))


@every
def test_with_explicit_axes_types_have_the_sharding_of_the_gradient(row):
    """What such axes refuse they refuse while an update is traced; the program is the same."""
    mesh, clipper = mesh_of(AxisType.Explicit), row.make()
    with set_mesh(mesh):
        placed = sharded(GRADIENTS[0], mesh)
        state = clipper.init(placed)
        result, after = jax.eval_shape(clipper.update, placed, state)
    for x, g in zip(jax.tree.leaves(result), jax.tree.leaves(placed), strict=True):
        assert x.sharding.spec == jax.typeof(g).sharding.spec
    if row.groups not in INSIDE_LEAVES:
        assert all(not any(x.sharding.spec) for x in jax.tree.leaves(after))


@every
def test_measure_costs_one_all_reduce_and_moves_no_leaf(row):
    """One in the usual path, counted by what a plain sum of squares needs, one in the fallback."""
    count = spread(row, AxisType.Auto).collectives
    if row.mixes:
        assert sum(count.values()) > 0
        return
    assert count["all-gather"] == count["all-to-all"] == count["collective-permute"] == 0
    if row.groups == "element":
        assert count["all-reduce"] == 0
    elif row.groups != "unit":
        of_the_norm = 1 if row.ord in (1, math.inf) else 2  # one more in the fallback
        assert count["all-reduce"] == all_reduces_of_optax() * (row.all_reduces or of_the_norm)


@functools.cache
def all_reduces_of_optax():
    mesh, clipper = mesh_of(), optax.clip_by_global_norm(1.0)
    with set_mesh(mesh):
        tree = sharded(gradient(), mesh)
        return collectives(compiled(clipper, tree, clipper.init(tree)))["all-reduce"]


def test_nonfinite_entry_on_one_device_is_decided_alike_on_all():
    mesh = mesh_of()
    bad = gradient()
    bad["dense"]["kernel"][13, 2] = np.nan
    clipper = clipax.adaptive(warmup=1, nonfinite="zero")
    result, state = run(clipper, [sharded(gradient(), mesh), sharded(bad, mesh)])
    assert all(not np.any(x) for x in jax.tree.leaves(result))
    _, expected = run(clipper, [gradient()])
    chex.assert_trees_all_equal(state.policy, expected.policy)
