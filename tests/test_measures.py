"""The measures alone: every tree, every group, every norm, against float64 numpy."""

import functools
import math
from typing import Any, NamedTuple

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.experimental as jax_experimental
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import TREES, double, group_arrays, inexact, mixed, norm_of, plain
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.flatten_util import ravel_pytree

import clipax
from clipax import measures

_holder: Any = jax if hasattr(jax, "enable_x64") else jax_experimental
enable_x64 = _holder.enable_x64
EPS = float(np.finfo(np.float32).eps)
TINY, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def label_of(path: str) -> str:
    """A label for the leaves of any tree."""
    return "even" if len(path) % 2 == 0 else "odd"


MEASURES = {
    "tree": measures.per_tree,
    "layer": measures.per_layer,
    "leaf": measures.per_leaf,
    "label": functools.partial(measures.per_group, label_of),
    "unit": measures.per_unit,
    "element": measures.per_element,
}
NORMS = {  # with the order that the reference calls them by
    "l2": (measures.l2, 2),
    "l1": (measures.l1, 1),
    "linf": (measures.linf, math.inf),
    "rms": (measures.rms, "rms"),
    "l3": (measures.lp(3), 3),
}
every_measure = pytest.mark.parametrize("groups", list(MEASURES))


@functools.cache
def measure_of(groups, norm="l2"):
    return MEASURES[groups](NORMS[norm][0])


def arrays_of(groups, tree):
    if groups != "label":
        return group_arrays(groups, tree)
    members: dict[str, list[np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if inexact(leaf):
            label = label_of(jax.tree_util.keystr(path, simple=True, separator="/"))
            members.setdefault(label, []).append(double(leaf))
    return list(members.values())


def expected_norms(groups, tree, ord):
    if groups == "tree" and not arrays_of(groups, tree):
        return np.zeros(1)  # one group, with nothing in it
    return np.array([norm_of(arrays, ord) for arrays in arrays_of(groups, tree)])


def flat(norms, tree):
    """The norms of all groups as one vector."""
    if norms.groups is not None:
        return np.asarray(norms.values)
    leaves = zip(jax.tree.leaves(norms.values), jax.tree.leaves(tree), strict=True)
    found = [np.ravel(values) for values, leaf in leaves if inexact(leaf)]
    return np.concatenate([np.zeros(0, np.float32), *found])


def check(groups, tree, norm="l2", rtol=4 * EPS):
    """Compares with the reference; returns the norms."""
    norms = measure_of(groups, norm).norms(tree)
    expected = expected_norms(groups, tree, NORMS[norm][1])
    np.testing.assert_allclose(flat(norms, tree), expected, rtol=rtol)
    return norms


# Every tree, every measure, every norm.

CASES = [(tree, groups, "l2") for tree in TREES for groups in MEASURES]
CASES += [
    (tree, groups, norm)
    for tree in ("float32", "mixed")
    for groups in MEASURES
    for norm in NORMS
    if norm != "l2"
]


@pytest.mark.parametrize(("tree", "groups", "norm"), CASES, ids=["-".join(c) for c in CASES])
def test_norm_is_that_of_numpy(tree, groups, norm):
    tree = TREES[tree]
    norms = check(groups, tree, norm)
    start = measure_of(groups, norm).init(tree)
    chex.assert_trees_all_equal_structs(start.values, norms.values)
    chex.assert_trees_all_equal_shapes_and_dtypes(start.values, norms.values)
    assert not any(np.any(x) for x in jax.tree.leaves(start.values))
    assert start.groups == norms.groups
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(norms.values))


@every_measure
def test_leaves_in_no_group_are_told_apart(groups):
    norms = measure_of(groups).norms(mixed())
    leaves = jax.tree.leaves(mixed())
    if norms.groups is None:
        pairs = zip(leaves, jax.tree.leaves(norms.values), strict=True)
        assert all(n.shape == () and n == 0 for x, n in pairs if not inexact(x))
    else:
        assert [g is not None for g in norms.groups] == [inexact(x) for x in leaves]


# Range.


@pytest.mark.parametrize("size", [1, 5, 100])
@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("groups", ["tree", "leaf", "unit", "element"])
def test_norm_spans_the_whole_range_of_float32(groups, norm, size):
    rng = np.random.default_rng(size)
    entries = rng.uniform(0.5, 1, (2, size)).astype(np.float32)
    found = jitted(groups, norm)
    for exponent in (-126, -100, -64, -63, -33, -31, 0, 33, 62, 63, 64, 100, 118):
        tree = [jnp.asarray(np.ldexp(x, exponent + 1)) for x in entries]
        expected = expected_norms(groups, tree, NORMS[norm][1])
        np.testing.assert_allclose(flat(found(tree), tree), expected, rtol=4 * EPS)


@functools.cache
def jitted(groups, norm="l2"):
    measure = measure_of(groups, norm)
    return lambda tree: measure.norms(tree)._replace(values=_values(measure)(tree))


@functools.cache
def _values(measure):
    return jax.jit(lambda tree: measure.norms(tree).values)


@pytest.mark.parametrize("norm", list(NORMS))
def test_entries_near_the_largest_number_are_measured(norm):
    for entries in ([3e38], [2e38, 1e38], [0, 2.5e38], [-3.4e38, 0], [1e38] * 3):
        tree = [jnp.asarray(entries, jnp.float32)]
        expected = norm_of([double(tree[0])], NORMS[norm][1])
        found = float(jitted("leaf", norm)(tree).values[0])
        assert found == pytest.approx(expected if expected < LARGEST else np.inf, rel=4 * EPS)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float32], ids=lambda d: d.__name__
)
@pytest.mark.parametrize("groups", ["tree", "leaf", "unit", "element"])
def test_entries_near_the_largest_number_of_each_dtype_are_measured(groups, dtype):
    largest = float(jnp.finfo(dtype).max)
    one = [jnp.zeros((3, 2), dtype).at[1, 1].set(-largest)]
    check(groups, one)
    if dtype == jnp.float16:
        check(groups, [jnp.full((40, 3), 60000, dtype), jnp.full(7, -65504, dtype)])


def test_norm_of_a_thousand_leaves_of_bfloat16_is_right():
    tree = [jnp.ones(1, jnp.bfloat16) for _ in range(1000)]
    assert float(measures.per_tree().norms(tree).values[0]) == pytest.approx(31.6228, rel=1e-6)


def test_norm_of_many_16_bit_entries_is_right():
    for dtype in (jnp.bfloat16, jnp.float16):
        check("leaf", [jnp.full((1000, 100), 0.125, dtype)])
        check("leaf", [jnp.full((1000, 100), 0.125, dtype)], "l1")


@pytest.mark.parametrize("norm", ["l2", "l1", "rms", "l3"])
@pytest.mark.parametrize("groups", ["tree", "leaf", "unit"])
def test_subnormal_entries_count_as_zero(groups, norm):
    subnormal = np.array([[1e-40, -1e-39], [1e-45, 0]], np.float32)
    found = flat(jitted(groups, norm)([jnp.asarray(subnormal)]), [jnp.asarray(subnormal)])
    np.testing.assert_array_equal(found, np.zeros_like(found))
    beside = subnormal.copy()
    beside[0] = 2e-38  # 1.4e-38 a norm by rms
    tree = [jnp.asarray(beside)]
    expected = expected_norms(groups, [np.where(abs(beside) < TINY, 0, beside)], NORMS[norm][1])
    np.testing.assert_allclose(flat(jitted(groups, norm)(tree), tree), expected, rtol=4 * EPS)


@pytest.mark.parametrize("norm", ["l2", "l1", "l3"])
@pytest.mark.parametrize("groups", ["tree", "leaf", "unit"])
def test_norm_that_is_not_representable_is_infinite(groups, norm):
    big = jnp.full((9, 2), 3e38)
    tree = [big, jnp.ones(3)]
    found = flat(jitted(groups, norm)(tree), tree)
    assert found[0] == np.inf
    if groups != "tree":
        usual = expected_norms(groups, [jnp.ones(3)], NORMS[norm][1])
        np.testing.assert_allclose(found[-1:], usual, rtol=4 * EPS)


@pytest.mark.parametrize("norm", ["linf", "rms"])
def test_norm_of_the_largest_entries_is_representable_where_it_is_no_sum(norm):
    entries = np.random.default_rng(0).uniform(1e38, 3.4e38, (9, 20))
    tree = [jnp.asarray(entries, jnp.float32)]
    for groups in ("tree", "leaf", "unit"):
        expected = expected_norms(groups, tree, NORMS[norm][1])
        np.testing.assert_allclose(flat(jitted(groups, norm)(tree), tree), expected, rtol=4 * EPS)


@pytest.mark.parametrize("norm", list(NORMS))
@every_measure
def test_nan_and_infinity_stay_what_they_are(groups, norm):
    found = jitted(groups, norm)
    for others in (1.0, 1e-30, 3e37, 0.0):
        for bad in (np.nan, np.inf, -np.inf):
            tree = {"a": jnp.full((3, 2), others).at[1, 0].set(bad), "bb": jnp.full(2, others)}
            norms = flat(found(tree), tree)
            expected = expected_norms(groups, tree, 1)  # finite in the same places
            np.testing.assert_array_equal(np.isfinite(norms), np.isfinite(expected))
            assert np.isnan(norms).any() == np.isnan(bad)
            assert np.isinf(norms).any() == np.isinf(bad)


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__
)
def test_norm_of_one_entry_is_exact_for_every_power_of_two(dtype, norm):
    lowest = -24 if dtype == jnp.float16 else -126
    powers = np.arange(lowest, 16 if dtype == jnp.float16 else 128)
    entries = jnp.asarray(np.ldexp(np.float32(-1), powers), dtype)
    measure = measure_of("leaf", norm)
    one_by_one = jax.jit(jax.vmap(lambda x: measure.norms([x[None]]).values[0]))(entries)
    columns = measure_of("unit", norm).norms([entries[None, :]]).values[0][0]
    expected = np.ldexp(1.0, powers)
    for found in (one_by_one, columns):
        np.testing.assert_allclose(found, expected, rtol=4 * EPS)


@st.composite
def trees(draw):
    """A tree of one or two kinds of leaf of any shape, dtype and magnitude."""
    leaves = []
    for _ in range(draw(st.integers(1, 2))):
        dtype = draw(st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64]))
        shapes = hnp.array_shapes(min_dims=0, max_dims=4, max_side=3)
        shape = draw(shapes | st.just((0, 2)) | st.just((0,)))
        exponents = (-20, 10) if dtype == jnp.float16 else (-120, 118)
        scale = 2.0 ** draw(st.integers(*exponents))
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        entries = rng.uniform(0.5, 1, shape) * rng.choice([-1, 1, 1], shape)
        leaf = jnp.asarray(entries.astype(np.float32) * np.float32(scale), dtype)
        leaves.append(leaf * 1j if dtype == jnp.complex64 else leaf)
    return leaves if draw(st.booleans()) else {"a": {"b": leaves}, "c": leaves[0]}


@pytest.mark.parametrize("groups", ["tree", "layer", "unit"])
@settings(max_examples=10)
@given(tree=trees())
def test_norm_of_any_tree_is_that_of_numpy(groups, tree):
    check(groups, tree)


@settings(max_examples=60)
@given(
    entries=hnp.arrays(
        np.float32,
        (4, 3),
        elements=st.floats(-(2.0**123), 2.0**123, width=32, allow_subnormal=False),
    )
)
@pytest.mark.parametrize("norm", list(NORMS))
def test_norm_of_any_entries_is_that_of_numpy(norm, entries):
    tree = [jnp.asarray(entries)]
    for groups in ("leaf", "unit"):
        expected = expected_norms(groups, tree, NORMS[norm][1])
        found = flat(jitted(groups, norm)(tree), tree)
        usual = expected > 2 * TINY
        np.testing.assert_allclose(found[usual], expected[usual], rtol=4 * EPS)
        assert (found[~usual] <= 3 * TINY).all()


@pytest.mark.parametrize("p", [0.3, 0.5, 1, 1.5, 2, 4, 20, 300, math.inf])
def test_norm_of_any_power_is_that_of_numpy(p):
    entries = np.array([[3, -4, 0], [0.5, 1, -2]], np.float32)
    for scale in (1, 1e-30, 1e30):
        tree = [jnp.asarray(entries * np.float32(scale))]
        found = measures.per_tree(measures.lp(p)).norms(tree).values[0]
        assert float(found) == pytest.approx(norm_of([double(tree[0])], p), rel=2e-6)


@pytest.mark.parametrize("p", [0, -1, math.nan, "2", None, True])
def test_power_that_is_none_is_refused_by_name(p):
    with pytest.raises((ValueError, TypeError), match="`p` must be"):
        measures.lp(p)


# float64.


@pytest.mark.parametrize("norm", list(NORMS))
def test_float64_has_norms_of_float64(norm):
    with enable_x64():
        rng = np.random.default_rng(0)
        entries = [rng.normal(size=shape) for shape in ((4, 3), (), (5,))]
        for groups in ("tree", "leaf", "unit", "element"):
            measure = MEASURES[groups](NORMS[norm][0])
            find = jax.jit(lambda tree, measure=measure: measure.norms(tree).values)
            for scale in (1e-300, 1e-200, 1.0, 1e200, 1e300):
                tree = [jnp.asarray(x * scale) for x in entries]
                norms = measures.Norms(find(tree), None if groups in ("unit", "element") else ())
                assert all(x.dtype == jnp.float64 for x in jax.tree.leaves(norms.values))
                expected = expected_norms(groups, tree, NORMS[norm][1])
                np.testing.assert_allclose(flat(norms, tree), expected, rtol=2e-15)
                start = measure.init(tree)
                chex.assert_trees_all_equal_shapes_and_dtypes(start.values, norms.values)


def test_float32_beside_float64_is_measured_in_float64():
    with enable_x64():
        tree = {"a": jnp.asarray([1e-200]), "b": jnp.ones(2, jnp.float32), "c": jnp.zeros(3)}
        together = measures.per_leaf().norms(tree).values
        assert together.dtype == jnp.float64
        np.testing.assert_allclose(together, [1e-200, 2**0.5, 0], rtol=1e-15)
        apart = measures.per_unit().norms(tree).values
        assert apart["a"].dtype == jnp.float64 and apart["b"].dtype == jnp.float32


# Derivatives.

SMOOTH = {**NORMS, "l1.5": (measures.lp(1.5), 1.5)}


@pytest.mark.parametrize("norm", list(SMOOTH))
@pytest.mark.parametrize("groups", list(MEASURES))
def test_derivative_is_that_of_the_formula_and_finite_at_zero(groups, norm):
    with enable_x64():
        measure = MEASURES[groups](SMOOTH[norm][0])
        rng = np.random.default_rng(1)
        tree = {"a": {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}, "cc": np.float64(0.7)}
        entries, unravel = ravel_pytree(tree)

        @jax.jit
        def total(x):
            values = ravel_pytree(measure.norms(unravel(x)).values)[0]
            return jnp.arange(1.0, values.size + 1) @ values

        slope = jax.jit(jax.value_and_grad(total))
        points = entries + 1e-6 * np.concatenate([np.eye(entries.size), -np.eye(entries.size)])
        above, below = np.split(np.asarray(jax.jit(jax.vmap(total))(points)), 2)
        np.testing.assert_allclose(slope(entries)[1], (above - below) / 2e-6, rtol=1e-5, atol=1e-8)
        value, at_zero = slope(jnp.zeros_like(entries))
        assert value == 0 and np.isfinite(at_zero).all()
        for scale in (1e-150, 1e150):  # the slope of a norm does not depend on the scale
            np.testing.assert_allclose(slope(entries * scale)[1], slope(entries)[1], rtol=1e-9)


@pytest.mark.parametrize("norm", list(SMOOTH))
@pytest.mark.parametrize("size", [3, 100])
def test_derivative_does_not_depend_on_the_scale(norm, size):
    measure = measures.per_leaf(SMOOTH[norm][0])
    slope = jax.jit(jax.grad(lambda x: measure.norms([x]).values[0]))
    entries = jnp.asarray(np.random.default_rng(0).normal(size=size), jnp.float32).at[0].set(0)
    entries = entries / jnp.max(abs(entries))
    usual = slope(entries)
    assert np.any(usual)
    for scale in (1e-35, 1e-30, 1e-12, 1e12, 1e30, 1e36, 2.0**120):
        found = slope(entries * scale)
        np.testing.assert_allclose(found, usual, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", list(SMOOTH))
def test_derivative_near_the_largest_number_is_right(norm):
    """A quotient by a number above 2^126 must not be formed with its reciprocal."""
    measure = measures.per_unit(SMOOTH[norm][0])
    for shape in ((2, 1), (2, 300)):
        base = jnp.broadcast_to(jnp.asarray([[1.0], [0.5]]), shape)
        values, slope = (
            jax.jit(lambda x: measure.norms([x]).values[0]),
            jax.jit(jax.grad(lambda x: measure.norms([x]).values[0].sum())),
        )
        np.testing.assert_allclose(values(base * 2e38), values(base) * 2e38, rtol=8 * EPS)
        np.testing.assert_allclose(slope(base * 2e38), slope(base), rtol=1e-5)


@pytest.mark.parametrize("norm", list(SMOOTH))
def test_derivative_forward_equals_backward(norm):
    measure = measures.per_layer(SMOOTH[norm][0])
    gradient, direction = plain(1), plain(2)

    def values(tree):
        return measure.norms(tree).values

    forward = jax.jit(lambda: jax.jvp(values, (gradient,), (direction,))[1])()
    jacobian = jax.jit(lambda: jax.jacrev(values)(gradient))()
    products = jax.tree.map(lambda j, d: j.reshape(j.shape[0], -1) @ d.ravel(), jacobian, direction)
    np.testing.assert_allclose(forward, sum(jax.tree.leaves(products)), rtol=1e-5)


def test_derivative_of_a_complex_leaf_is_that_of_its_modulus():
    tree = [jnp.asarray([3 + 4j, 0, 12j], jnp.complex64)]
    slope = jax.grad(lambda x: measures.per_leaf().norms(x).values[0])(tree)[0]
    np.testing.assert_allclose(slope, np.conj(tree[0]) / 13, rtol=1e-6)
    zero = jax.grad(lambda x: measures.per_leaf().norms(x).values[0])([tree[0] * 0])[0]
    assert np.isfinite(zero).all()


# Under vmap the second look stays one scalar condition.


class _Program(NamedTuple):
    conditions: list[Any]  # the shapes of the predicates
    reductions: int  # of arrays with entries, outside of conditions


def _jaxprs(value):
    if hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield value.jaxpr
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _jaxprs(entry)


def program(function, *args):
    """What a traced function computes unconditionally, and what conditionally."""
    conditions, reductions = [], 0

    def walk(jaxpr):
        nonlocal reductions
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            if name == "cond":
                conditions.append(equation.invars[0].aval.shape)
                continue
            if name in ("reduce_sum", "dot_general"):
                reductions += equation.invars[0].aval.size >= ENTRIES
            for key, value in equation.params.items():
                if "jvp" not in key and "vmap" not in key and key not in ("fwd", "bwd", "rule"):
                    for inner in _jaxprs(value):
                        walk(inner)

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return _Program(conditions, reductions)


ENTRIES = 400
BATCHES = [(), (3,), (2, 3)]


def batched(function, depth):
    for _ in range(depth):
        function = jax.vmap(function)
    return function


@pytest.mark.parametrize("norm", ["l2", "rms"])
@pytest.mark.parametrize("groups", ["tree", "leaf", "unit"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_second_look_is_one_scalar_condition(batch, groups, norm):
    measure = measure_of(groups, norm)
    x = jnp.ones((*batch, 20, 20))

    def values(x):
        return measure.norms([x]).values

    found = program(batched(values, len(batch)), x)
    assert found == _Program([()], 1)


@pytest.mark.parametrize("groups", ["tree", "leaf", "unit"])
@pytest.mark.parametrize("batch", BATCHES[1:], ids=str)
def test_second_look_is_one_scalar_condition_under_grad(batch, groups):
    measure = measure_of(groups)

    def total(x):
        return jax.tree.leaves(measure.norms([x]).values)[0].sum()

    x = jnp.ones((20, 20))
    single = program(jax.grad(total), x)
    xs = jnp.ones((*batch, 20, 20))
    inside = program(batched(jax.grad(total), len(batch)), xs)
    outside = program(jax.grad(lambda xs: batched(total, len(batch))(xs).sum()), xs)
    assert single.conditions == inside.conditions == outside.conditions == [()]
    assert inside.reductions == outside.reductions == single.reductions


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_compiled_second_look_is_a_conditional(batch):
    def values(x):
        return measures.per_tree().norms([x]).values

    function = jax.jit(batched(values, len(batch)))
    text = function.lower(jnp.ones((*batch, 20, 20))).compile().as_text()
    assert text is not None
    conditionals = [line for line in text.splitlines() if " conditional(" in line]
    assert len(conditionals) == 1
    assert "[" not in conditionals[0].split(" conditional(")[1].split(")")[0].replace("pred[]", "")


def test_batched_norms_are_those_of_each_entry_where_some_look_twice():
    rng = np.random.default_rng(0)
    scale = np.array([1, 1e-30, 1e30, 0, 1e-38, 3e37], np.float32).reshape(2, 3, 1, 1)
    xs = jnp.asarray(rng.uniform(0.5, 1, (2, 3, 4, 5)).astype(np.float32) * scale)
    for groups in ("tree", "leaf", "unit"):
        for norm in NORMS:
            measure = measure_of(groups, norm)

            def values(x, measure=measure):
                return jax.tree.leaves(measure.norms([x]).values)[0]

            found = jax.jit(batched(values, 2))(xs)
            expected = [[values(x) for x in row] for row in xs]
            np.testing.assert_allclose(found, np.array(expected), rtol=4 * EPS)


def test_batch_of_one_leaf_beside_one_that_is_the_same_for_all():
    xs, same = jnp.asarray([[3.0], [1e30]]), jnp.asarray([4.0, 0.0])
    found = jax.jit(jax.vmap(lambda x: measures.per_tree().norms([x, same]).values[0]))(xs)
    np.testing.assert_allclose(found, [5.0, 1e30], rtol=4 * EPS)


# Layers.


def layers(tree):
    """The paths of the leaves of each layer."""
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    norms = measures.per_layer().norms(tree)
    assert norms.groups is not None and norms.values.shape == (len(set(norms.groups)),)
    found: dict[Any, list[str]] = {}
    for group, path in zip(norms.groups, paths, strict=True):
        found.setdefault(group, []).append(path)
    assert list(found) == sorted(found)
    return list(found.values())


def together(tree, *parents):
    """Asserts that the layers of a tree are the leaves below each of these paths."""
    found = layers(tree)
    assert len(found) == len(parents), found
    for layer, parent in zip(sorted(found), sorted(parents), strict=True):
        assert all(path.startswith(parent) for path in layer), (parent, layer)


ONE = jnp.ones(1)


def test_flat_dict_is_one_layer():
    assert layers({"w": ONE, "b": ONE}) == [["['b']", "['w']"]]


def test_nested_dict_has_a_layer_for_every_parent():
    tree = {"cell": {"w": ONE, "b": ONE}, "out": {"w": ONE}, "scale": ONE, "bias": ONE}
    assert len(layers(tree)) == 3
    assert ["['bias']", "['scale']"] in layers(tree)


def test_list_of_pairs_has_a_layer_for_every_pair():
    together([(ONE, ONE), (ONE, ONE)], "[0]", "[1]")
    together({"net": [(ONE, ONE), (ONE,)]}, "['net'][0]", "['net'][1]")
    assert len(layers({"net": [ONE, ONE]})) == 1


@pytest.mark.parametrize("make", [list, tuple])
def test_leaves_directly_in_a_root_list_are_layers_of_their_own(make):
    assert len(layers(make([ONE, ONE, ONE]))) == 3
    assert len(layers(make([ONE, (ONE, ONE), ONE]))) == 3
    assert len(layers(ONE)) == 1


def test_dict_key_called_value_is_no_box():
    tree = {"key": {"value": ONE}, "query": {"value": ONE}}
    together(tree, "['key']", "['query']")


def test_layers_of_linen_params_are_its_modules():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.RNN(nn.LSTMCell(4))(nn.Dense(3)(x)))

    params = Model().init(jax.random.key(0), jnp.ones((1, 5, 2)))["params"]
    gates = [
        f"['LSTMCell_0']['{gate}']" for gate in ["hf", "hg", "hi", "ho", "if", "ig", "ii", "io"]
    ]
    together(params, "['Dense_0']", "['Dense_1']", *gates)
    pairs = [layer for layer in layers(params) if len(layer) == 2]
    assert len(pairs) == 6  # kernel and bias of the dense ones and of the hidden gates


@pytest.mark.parametrize("bias", [True, False], ids=["all", "kernels"])
def test_linen_metadata_boxes_are_no_parents(bias):
    def boxed(init, *names):
        return nn.with_partitioning(init, names)

    init = nn.initializers.ones_init()
    bias_init = boxed(init, "model") if bias else init

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.Dense(3, kernel_init=boxed(init, None, "model"), bias_init=bias_init)(x)
            return x

    params = Model().init(jax.random.key(0), jnp.ones((1, 2)))["params"]
    assert any(isinstance(x, nn.Partitioned) for x in params["Dense_0"].values())
    together(params, "['Dense_0']", "['Dense_1']")


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.LSTMCell(3, 4, rngs=rngs))
        self.out = nnx.Linear(4, 2, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(2))


def test_layers_of_nnx_state_are_its_modules():
    state = nnx.state(Recurrent(nnx.Rngs(0)), nnx.Param)
    gates = ["hf", "hg", "hi", "ho", "if_", "ig", "ii", "io"]
    gates = [f"['rnn']['cell']['{gate}']" for gate in gates]
    together(state, "['out']", "['scale']", *gates)
    assert len([layer for layer in layers(state) if len(layer) == 2]) == 5


def test_layers_of_an_nnx_gradient_are_those_of_its_state():
    model = Recurrent(nnx.Rngs(0))

    def loss(model):
        return (model.out(model.rnn(jnp.ones((1, 5, 3)))) * model.scale[...]).sum()

    gradient = nnx.grad(loss)(model)
    assert layers(gradient) == layers(nnx.state(model, nnx.Param))
    result, _ = clipax.clip(gradient, clipax.per_layer(1e-3))
    after = measures.per_layer().norms(result).values
    assert (np.asarray(after) <= 1e-3).all()
    chex.assert_trees_all_equal_structs(result, gradient)


class Attention(eqx.Module):
    query: jax.Array
    key: jax.Array
    value: jax.Array


class Net(eqx.Module):
    attention: Attention
    linear: eqx.nn.Linear
    mlp: eqx.nn.MLP
    scale: jax.Array


def equinox_net():
    key = jax.random.key(0)
    attention = Attention(jnp.ones(2), jnp.ones(2), jnp.ones(2))
    net = Net(
        attention,
        eqx.nn.Linear(2, 3, key=key),
        eqx.nn.MLP(2, 2, 3, 1, key=key),
        jnp.ones(2),
    )
    return eqx.filter(net, eqx.is_inexact_array)


def test_layers_of_equinox_are_its_modules():
    net = equinox_net()
    parents = [".attention", ".linear", ".mlp.layers[0]", ".mlp.layers[1]", ".scale"]
    together(net, *parents)


def test_attribute_called_value_beside_others_is_no_box():
    attention = Attention(jnp.ones(2), jnp.ones(2), jnp.ones(2))
    assert layers(attention) == [[".query", ".key", ".value"]]
    together([attention, attention], "[0]", "[1]")
    together({"a": attention, "b": {"c": attention}}, "['a']", "['b']['c']")
    check("leaf", attention)


def test_layers_of_a_named_tuple_are_its_own():
    class Pair(NamedTuple):
        w: Any
        b: Any

    assert len(layers(Pair(ONE, ONE))) == 1
    together([Pair(ONE, ONE), Pair(ONE, ONE)], "[0]", "[1]")


def test_integer_leaves_and_missing_ones_do_not_change_the_layers():
    tree = {"a": {"n": jnp.arange(2), "w": ONE, "x": None}, "b": {"n": jnp.arange(2)}}
    norms = measures.per_layer().norms(tree)
    assert norms.groups == (None, 0, None) and norms.values.shape == (1,)


# Units.


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), ()),
        ((5,), (1,)),
        ((4, 3), (1, 3)),
        ((2, 4, 3), (1, 4, 3)),
        ((2, 4, 3, 5), (1, 1, 1, 5)),
        ((2, 2, 2, 3, 4), (1, 1, 1, 1, 4)),
        ((0, 3), (1, 3)),
        ((3, 0), (1, 0)),
    ],
    ids=str,
)
def test_unit_spans_the_axes_of_the_table(shape, expected):
    leaf = jnp.ones(shape)
    (norms,) = measures.per_unit().norms([leaf]).values
    assert norms.shape == expected == measures.per_unit().init([leaf]).values[0].shape
    assert np.broadcast_shapes(norms.shape, shape) == shape


@pytest.mark.parametrize(
    ("axis", "expected"),
    [(0, (1, 4, 3)), (-1, (2, 4, 1)), ((0, 2), (1, 4, 1)), ([1, -3], (1, 1, 3)), ((), (2, 4, 3))],
    ids=str,
)
def test_unit_spans_the_axes_that_are_asked_for(axis, expected):
    leaf = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    for norm, ord in NORMS.values():
        if axis == () and norm == measures.rms:
            continue
        measure = measures.per_unit(norm, axis=axis)
        (norms,) = measure.norms([jnp.asarray(leaf)]).values
        assert norms.shape == expected == measure.init([leaf]).values[0].shape
        axes = (axis,) if isinstance(axis, int) else tuple(a % 3 for a in axis)
        rest = [a for a in range(3) if a not in [a % 3 for a in axes]]
        units = np.moveaxis(leaf, rest, range(len(rest))).reshape(*np.array(leaf.shape)[rest], -1)
        flat_units = units.reshape(-1, units.shape[-1])
        reference = [norm_of([unit], ord) for unit in flat_units]
        np.testing.assert_allclose(norms.ravel(), reference, rtol=4 * EPS)


def test_leaf_with_fewer_than_two_axes_is_one_unit_whatever_the_axis():
    tree = [jnp.ones(4), jnp.asarray(-3.0), jnp.ones((4, 2))]
    values = measures.per_unit(axis=1).norms(tree).values
    assert [x.shape for x in values] == [(1,), (), (4, 1)]
    assert [x.item() for x in values[:2]] == [2, 3]


@pytest.mark.parametrize("axis", [2, -3, (0, 5)], ids=str)
def test_axis_that_a_leaf_does_not_have_is_refused_by_name(axis):
    measure = measures.per_unit(axis=axis)
    for use in (measure.init, measure.norms):
        with pytest.raises(ValueError, match=r"`axis` must be axes of every leaf, got .*\(4, 2\)"):
            use([jnp.ones((4, 2))])


# Labels.


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"a": "x", "b": "x", "c": "y"}, [5, 2]),
        ({"a": 1, "b": 2, "c": 1}, [math.hypot(3, 2), 4]),
        (lambda path: path[0], [3, 4, 2]),
        (lambda path: path == "c/w", [5, 2]),
        ("same", [math.sqrt(29)]),
    ],
    ids=["prefix", "numbers", "path", "booleans", "one"],
)
def test_leaves_with_the_same_label_are_one_group(labels, expected):
    tree = {"a": jnp.asarray(3.0), "b": [jnp.asarray(4.0)], "c": {"w": jnp.asarray(2.0)}}
    norms = measures.per_group(labels).norms(tree)
    np.testing.assert_allclose(norms.values, expected, rtol=4 * EPS)


def test_label_function_sees_the_path_of_every_leaf():
    seen = []
    tree = {"encoder": {"dense": [jnp.ones(1), jnp.ones(1)]}, "head": ONE}
    measures.per_group(lambda path: seen.append(path) or "x").norms(tree)
    assert seen == ["encoder/dense/0", "encoder/dense/1", "head"]


def test_names_give_the_order_and_may_have_no_leaf():
    tree = {"a": jnp.asarray(3.0), "b": jnp.asarray(4.0)}
    measure = measures.per_group({"a": "x", "b": "y"}, names=["z", "y", "x"])
    np.testing.assert_array_equal(measure.norms(tree).values, [0, 4, 3])
    assert measure.init(tree).values.shape == (3,)


def test_unknown_label_is_refused_with_those_that_are_accepted():
    tree = {"a": ONE, "b": ONE}
    measure = measures.per_group(lambda path: path, names=["a", "c"])
    for use in (measure.init, measure.norms):
        with pytest.raises(ValueError, match=r"`labels` gave 'b'; accepted are \['a', 'c'\]"):
            use(tree)


@pytest.mark.parametrize(
    "labels",
    [{"a": "x"}, {"a": "x", "c": "y"}, ["x", "y"], {"a": ["x"], "b": "y"}, {"a": "x", "b": None}],
    ids=str,
)
def test_labels_that_do_not_fit_the_tree_are_refused_by_name(labels):
    measure = measures.per_group(labels)
    for use in (measure.init, measure.norms):
        with pytest.raises(ValueError, match="`labels` must be a prefix of the gradient's tree"):
            use({"a": ONE, "b": ONE})


@pytest.mark.parametrize(
    "labels", [lambda path: None if path == "b" else "x", lambda path: ["x"]], ids=["none", "list"]
)
def test_label_function_that_gives_no_label_is_refused_by_name(labels):
    measure = measures.per_group(labels)
    for use in (measure.init, measure.norms):
        with pytest.raises((TypeError, ValueError), match="`labels`"):
            use({"a": ONE, "b": ONE})


def test_labels_of_leaves_without_a_norm_do_not_matter():
    tree = {"a": ONE, "n": jnp.arange(2), "none": None, "masked": optax.MaskedNode()}
    measure = measures.per_group(lambda path: path, names=["a"])
    assert measure.norms(tree).groups == (0, None)
