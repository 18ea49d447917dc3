"""The legend of the experiments: every method of the library, with arguments that can be traced."""

import dataclasses
import inspect
import math
import re
from functools import partial

import flax.linen
import jax
import jax.numpy as jnp
import methods_page
import numpy as np
import optax
import pytest
from contract import CLIPPERS, WRAPPERS
from flax import nnx
from rows import sampled

import clipax
from experiments import clippers
from experiments.clippers import LEGEND, ROWS
from experiments.config import Variant
from experiments.errors import UserError
from experiments.families import FAMILIES, LINKS

NOT_IN_THE_LEGEND = {
    "clip": "clips once, without an optimizer",
    "clip_by": "is what clippers are made of",
    "clip_cotangent": "belongs into the model",
    "metrics": "reads a state",
    "monitor": "changes nothing",
    "per_example": "belongs around the loss",
    "suggest_threshold": "reads norms",
}
MARKERS = ("circle", "square", "cross", "diamond", "arrow", "wedge", "stroke")
TRIANGLES = ("triangle-up", "triangle-down", "triangle-right", "triangle-left")
VARIANT = Variant(None, "sgd", (0.1,), 30, scale=2.0, parameters=25, seconds=0.0)
OPTIMIZERS = {
    "sgd": optax.sgd(0.01),
    "momentum": optax.sgd(0.01, momentum=0.9),
    "adam": optax.adam(0.01),
}
PARAMS = {
    "hidden": {"bias": np.zeros(3), "kernel": np.linspace(-1, 1, 12).reshape(4, 3)},
    "readout": {"bias": np.ones(1), "kernel": np.linspace(1, 2, 9).reshape(3, 3)},
}
PARAMS = jax.tree.map(np.float32, PARAMS)
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
each_tuned = pytest.mark.parametrize(
    "row", [row for row in ROWS if row.argument], ids=lambda row: row.name
)

# The rows


def test_every_function_that_transforms_gradients_has_a_row():
    functions = {name for name in clipax.__all__ if inspect.isfunction(getattr(clipax, name))}
    assert functions - set(NOT_IN_THE_LEGEND) == set(LEGEND) - {"none"}
    assert set(NOT_IN_THE_LEGEND) <= functions and len(ROWS) == len(LEGEND) == 29


@each_tuned
def test_a_row_has_four_values_and_its_default_is_one_of_them(row):
    assert len(row.values) == 4 and sorted(row.values) == list(row.values)
    assert row.default in row.values
    first, *others = row.arguments(VARIANT, tune=True)
    assert (first,) == row.arguments(VARIANT, tune=False) and len(others) == 3
    assert row.tuned(first, VARIANT) == row.default
    assert sorted(row.tuned(each, VARIANT) for each in (first, *others)) == list(row.values)


@pytest.mark.parametrize("name", ["none", "stable_spam"])
def test_a_row_without_an_argument_has_nothing_to_tune(name):
    row = LEGEND[name]
    assert row.arguments(VARIANT, tune=True, values=(1.0,)) == ({},)
    assert math.isnan(row.tuned({}, VARIANT)) and row.values == ()


@each_row
def test_arguments_follow_the_scale_of_the_variant(row):
    larger = dataclasses.replace(VARIANT, scale=3 * VARIANT.scale)
    pairs = zip(row.arguments(VARIANT, True), row.arguments(larger, True), strict=True)
    scaled = {row.argument} if row.unit in ("norm", "entry") else set()
    for small, large in pairs:
        for name, value in small.items():
            times = 3 if name in scaled | set(row.in_norms) else 1
            assert large[name] == pytest.approx(times * value)
        assert row.tuned(small, VARIANT) == row.tuned(large, larger) or not row.argument


def test_the_unit_of_one_entry_is_the_norm_over_the_root_of_their_number():
    (arguments,) = LEGEND["value"].arguments(VARIANT, tune=False)
    assert arguments == {"limit": pytest.approx(3 * 2.0 / 5)}


def test_values_that_are_asked_for_come_after_the_default():
    row = LEGEND["zclip"]
    found = row.arguments(VARIANT, tune=False, values=(9.0, 2.5, 7.0))
    assert [each["z"] for each in found] == [2.5, 9.0, 7.0]
    assert all(each["max_norm"] == 6.0 for each in found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("global_norm", -1),
        ("per_group", -1),
        ("adaptive", 0),
        ("autoclip", 101),
        ("quantile", 1),
        ("momentum_reset", 5),
        ("error_feedback", -1),
    ],
)
def test_a_value_that_a_method_does_not_take_is_refused(name, value):
    with pytest.raises(UserError, match=rf"{name} does not take the value {value}: `\w+` must be"):
        LEGEND[name].arguments(VARIANT, tune=False, values=(value,))


# Training


def _gradient(params, size):
    return jax.tree.map(lambda leaf: size * (leaf - 0.5), params)


def _trained(row, arguments, optimizers=OPTIMIZERS):
    """Parameters after 30 steps, the last ones with spikes, with each optimizer."""
    sizes = np.random.default_rng(0).lognormal(0, 0.2, 30).astype(np.float32)
    sizes[-5:] *= (1.5, 2, 4, 8, 16)

    def last(optimizer):
        parts = row.parts(arguments, optimizer)

        def step(carry, size):
            params, states = carry
            update, kept = _gradient(params, size), []
            for part, state in zip(parts, states, strict=True):
                update, state = part.update(update, state, params)
                kept.append(state)
            return (optax.apply_updates(params, update), tuple(kept)), None

        start = (PARAMS, tuple(part.init(PARAMS) for part in parts))
        return jax.lax.scan(step, start, jnp.array(sizes))[0][0]

    return {name: last(optimizer) for name, optimizer in optimizers.items()}


def _columns(row):
    several = row.arguments(VARIANT, tune=True)
    count = np.zeros(len(several), np.float32)
    return {
        name: np.array([each[name] for each in several], np.float32) for name in several[0]
    }, count


@each_row
def test_a_row_takes_traced_arguments_under_vmap_and_uses_them(row):
    trained = jax.vmap(lambda arguments, _: _trained(row, arguments, {"sgd": OPTIMIZERS["sgd"]}))
    columns, count = _columns(row)
    names = sorted(columns)  # in the order of a dict's leaves
    jaxpr = jax.make_jaxpr(trained)(columns, count).jaxpr
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
    assert [name for name, x in zip(names, jaxpr.invars, strict=False) if id(x) not in read] == []


# One of each way in which a row is written: a function of clipax, one with `build`, a wrapper.
WRITTEN = (
    "global_norm", "adaptive", "per_group", "agc", "skip_spikes", "momentum_reset",
)  # fmt: skip
# By where they stand: on the gradient with and without a state, on the update, on the optimizer.
TRAINED = ("none", "skip_spikes")


@sampled("row", {row.name: row for row in ROWS}, TRAINED)
def test_a_row_trains_with_traced_arguments_under_vmap(row):
    columns, count = _columns(row)
    trained = jax.vmap(lambda arguments, _: _trained(row, arguments))
    # Nearly all the time goes into compilation, and nothing here is worth optimizing.
    trained = jax.jit(trained, compiler_options={"xla_backend_optimization_level": 0})
    found = trained(columns, count)
    leaves = jax.tree.leaves(found)
    assert all(np.isfinite(leaf).all() and len(leaf) == len(count) for leaf in leaves)
    if row.argument:  # what is tuned makes a difference
        assert len(np.unique(np.asarray(found["sgd"]["readout"]["kernel"])[:, 0, 0])) > 1


@pytest.mark.parametrize("bad", [1e30, jnp.inf, jnp.nan])
def test_none_never_changes_anything(bad):
    clipper, _ = LEGEND["none"].parts({}, optax.sgd(0.1))
    gradient = {"w": jnp.array([bad, 1.0])}
    np.testing.assert_array_equal(
        clipper.update(gradient, clipper.init(gradient))[0]["w"], gradient["w"]
    )


class _Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        return flax.linen.LayerNorm()(flax.linen.Dense(3)(x))


def _trees():
    cell = nnx.eval_shape(lambda: nnx.OptimizedLSTMCell(2, 3, rngs=nnx.Rngs(0)))
    linen = jax.eval_shape(_Linen().init, jax.random.key(0), jnp.ones((1, 2)))
    return {"nnx": nnx.split(cell)[1], "linen": linen["params"]}


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_per_group_takes_matrices_together_and_the_rest_together(kind):
    gradient = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), _trees()[kind])
    clipper, _ = LEGEND["per_group"].parts({"max_norm": 1.0}, optax.sgd(0.1))
    clipped, state = jax.jit(lambda tree: clipper.update(tree, clipper.init(tree)))(gradient)
    for matrices in (True, False):
        some = [leaf for leaf in jax.tree.leaves(clipped) if (leaf.ndim > 1) == matrices]
        assert np.sqrt(sum(np.square(leaf).sum() for leaf in some)) == pytest.approx(1)
    assert clipax.metrics(state)["clipped"] == 1


@pytest.mark.parametrize("place", ["gradient", "update", "optimizer"])
def test_the_parts_of_a_row_stand_where_its_place_says(place):
    optimizer = optax.sgd(0.1)
    for row in (row for row in ROWS if row.place == place):
        (arguments,) = row.arguments(VARIANT, tune=False)
        parts = row.parts(arguments, optimizer)
        found = [part is optimizer for part in parts]
        assert found == {"gradient": [False, True], "update": [True, False]}.get(place, [False])


# How rows are shown


@sampled("row", {row.name: row for row in ROWS if row.name != "none"}, WRITTEN)
def test_what_is_written_is_what_is_built(row):
    (arguments,) = row.arguments(VARIANT, tune=False)
    names = {"jax": jax, "params": PARAMS, "optimizer": optax.sgd(0.1), **vars(clipax)}
    written = eval(row.written(arguments), names)
    built = row.parts(arguments, optax.sgd(0.1))[1 if row.place == "update" else 0]
    gradient = _gradient(PARAMS, 9.0)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def results():
        return [part.update(gradient, part.init(PARAMS), PARAMS)[0] for part in (written, built)]

    jax.tree.map(np.testing.assert_array_equal, *results())


def test_examples_of_what_is_written():
    def written(name):
        (arguments,) = LEGEND[name].arguments(VARIANT, tune=False)
        return LEGEND[name].written(arguments)

    assert written("none") == "none"
    assert written("zclip") == "zclip(z=2.5, max_norm=6)"
    assert written("adaptive").startswith("adaptive(multiplier=2, initial=2, percentile=90, ")
    assert written("momentum_reset") == "momentum_reset(optimizer, every=100, warmup=10)"
    assert written("error_feedback") == "error_feedback(global_norm(max_norm=2))"


@each_row
def test_the_signature_is_that_of_the_library(row):
    contract = CLIPPERS | WRAPPERS
    assert row.signature == (f"{row.name}{contract[row.name]}" if row.name in contract else "")


def test_marks_can_be_told_apart_and_read_on_light_and_dark_paper():
    assert {row.marker for row in ROWS} <= {*MARKERS, *TRIANGLES}
    assert len({(row.family, row.marker) for row in ROWS}) == len(ROWS)
    assert {row.family for row in ROWS} == set(FAMILIES)
    assert len({row.color for row in ROWS}) == len(FAMILIES)
    for row in ROWS:
        assert min(_contrast(row.color, paper) for paper in ("#ffffff", "#1e2126")) >= 3


def _contrast(one, other):
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def test_sources_have_the_links_of_the_pages_on_methods():
    page = methods_page.TEXT
    assert {row.source for row in ROWS} - set(LINKS) == {"", "folklore", "this project"}
    assert set(LINKS) <= {row.source for row in ROWS}
    assert all(re.search(rf"{re.escape(row.link)}(\s|$)", page) for row in ROWS if row.link)


# Choosing rows


def test_select_gives_rows_in_the_order_of_the_legend():
    assert [row.name for row in clippers.select(["zclip", "none"])] == ["none", "zclip"]
    assert clippers.select(clippers.NAMES) == list(ROWS)
    assert [row.name for row in clippers.select(clippers.ASKED)] == list(clippers.ASKED)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["none", "clipping"], "unknown method clipping; there are none, global_norm"),
        ([], r"unknown method \(nothing\)"),
        (["none", "agc", "none"], "each method may be named once, not twice: none"),
    ],
)
def test_select_refuses_unknown_names_and_the_same_twice(names, message):
    with pytest.raises(UserError, match=message):
        clippers.select(names)
