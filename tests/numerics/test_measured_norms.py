"""The norms of every tree, group and power in their whole range, against float64 numpy."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from norms import (
    EPS,
    LARGEST,
    MEASURES,
    NORMS,
    TINY,
    check,
    enable_x64,
    every_measure,
    expected_norms,
    flat,
    measure_of,
)
from numpy_groups import double, inexact, norm_of
from rows import sampled
from trees import TREES, mixed

import clipax
from clipax import measures

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]

# Every tree, every measure, every norm.

CASES = [(tree, groups, "l2") for tree in TREES for groups in MEASURES]
CASES += [
    (tree, groups, norm)
    for tree in ("float32", "mixed")
    for groups in MEASURES
    for norm in NORMS
    if norm != "l2"
]


NARROW_OR_SHORT = ("bfloat16", "scalars", "complex", "float0", "only_masked")
DEFAULT = [
    (tree, groups, norm)
    for tree, groups, norm in CASES
    if (tree in ("mixed", "empty") and (norm == "l2" or groups == "tree"))
    or (tree, groups, norm) == ("mixed", "layer", "linf")
    or (norm == "l2" and (groups == "layer" or (groups == "unit" and tree in NARROW_OR_SHORT)))
]


@sampled(
    ("tree", "groups", "norm"),
    {"-".join(case): case for case in CASES},
    ["-".join(case) for case in DEFAULT],
)
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


SIZES = {"1": [1], "5": [5], "100": [100], "all": [1, 5, 100]}


@sampled(
    ("groups", "norm", "sizes"),
    {
        f"{groups}-{norm}-{name}": (groups, norm, sizes)
        for groups in ("tree", "leaf", "unit", "element")
        for norm in NORMS
        for name, sizes in SIZES.items()
    },
    [
        *(f"tree-{norm}-100" for norm in NORMS),
        *(f"unit-{norm}-all" for norm in NORMS),
        "leaf-l2-all",
        "element-l2-all",
    ],
)
def test_norm_spans_the_whole_range_of_float32(groups, norm, sizes):
    entries = []
    for size in sizes:
        rng = np.random.default_rng(size)
        entries += list(rng.uniform(0.5, 1, (2, size)).astype(np.float32))
    found = jitted(groups, norm)
    for exponent in (-126, -100, -64, -63, -33, -31, 0, 33, 62, 63, 64, 100, 118):
        tree = [np.ldexp(x, exponent + 1) for x in entries]
        expected = expected_norms(groups, tree, NORMS[norm][1])
        np.testing.assert_allclose(flat(found(tree), tree), expected, rtol=4 * EPS)


@functools.cache
def jitted(groups, norm="l2"):
    """The norms, with the groups that were seen when they were traced."""
    measure, seen = measure_of(groups, norm), {}

    @jax.jit
    def values(tree):
        norms = measure.norms(tree)
        seen[jax.tree.structure(tree)] = norms.groups
        return norms.values

    def norms(tree):
        found = values(tree)
        return measures.Norms(found, seen[jax.tree.structure(tree)])

    return norms


@pytest.mark.parametrize("norm", list(NORMS))
def test_entries_near_the_largest_number_are_measured(norm):
    for entries in ([3e38], [2e38, 1e38], [0, 2.5e38], [-3.4e38, 0], [1e38] * 3):
        tree = [np.asarray(entries, np.float32)]
        expected = norm_of([double(tree[0])], NORMS[norm][1])
        found = float(jitted("leaf", norm)(tree).values[0])
        assert found == pytest.approx(expected if expected < LARGEST else np.inf, rel=4 * EPS)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float32], ids=lambda d: d.__name__
)
@sampled("groups", {g: g for g in ("tree", "leaf", "unit", "element")}, ["tree", "unit"])
def test_entries_near_the_largest_number_of_each_dtype_are_measured(groups, dtype):
    largest = float(jnp.finfo(dtype).max)
    one = [np.zeros((3, 2), dtype)]
    one[0][1, 1] = -largest
    check(groups, one)
    if dtype == jnp.float16:
        check(groups, [np.full((40, 3), 60000, dtype), np.full(7, -65504, dtype)])


def test_norm_of_hundreds_of_leaves_of_bfloat16_is_right():
    """A sum in bfloat16 gets stuck at 256."""
    tree = [jnp.ones(1, jnp.bfloat16) for _ in range(400)]
    assert float(measures.per_tree().norms(tree).values[0]) == pytest.approx(20, rel=1e-6)


def test_norm_of_many_16_bit_entries_is_right():
    for dtype in (jnp.bfloat16, jnp.float16):
        check("leaf", [jnp.full((1000, 100), 0.125, dtype)])
        check("leaf", [jnp.full((1000, 100), 0.125, dtype)], "l1")


@sampled(
    ("groups", "norm"),
    {
        f"{groups}-{norm}": (groups, norm)
        for groups in ("tree", "leaf", "unit")
        for norm in ("l2", "l1", "rms", "l3")
    },
    ["tree-l2", "tree-l1", "unit-rms", "unit-l3"],
)
def test_subnormal_entries_count_as_zero(groups, norm):
    subnormal = np.array([[1e-40, -1e-39], [1e-45, 0]], np.float32)
    found = flat(jitted(groups, norm)([subnormal]), [subnormal])
    np.testing.assert_array_equal(found, np.zeros_like(found))
    beside = subnormal.copy()
    beside[0] = 2e-38  # 1.4e-38 a norm by rms
    tree = [beside]
    expected = expected_norms(groups, [np.where(abs(beside) < TINY, 0, beside)], NORMS[norm][1])
    np.testing.assert_allclose(flat(jitted(groups, norm)(tree), tree), expected, rtol=4 * EPS)


@sampled(
    ("groups", "norm"),
    {
        f"{groups}-{norm}": (groups, norm)
        for groups in ("tree", "leaf", "unit")
        for norm in ("l2", "l1", "l3")
    },
    ["tree-l2", "leaf-l1", "unit-l3"],
)
def test_norm_that_is_not_representable_is_infinite(groups, norm):
    tree = [np.full((9, 2), 3e38, np.float32), np.ones(3, np.float32)]
    found = flat(jitted(groups, norm)(tree), tree)
    assert found[0] == np.inf
    if groups != "tree":
        usual = expected_norms(groups, [np.ones(3)], NORMS[norm][1])
        np.testing.assert_allclose(found[-1:], usual, rtol=4 * EPS)


@pytest.mark.parametrize("norm", ["linf", "rms"])
def test_norm_of_the_largest_entries_is_representable_where_it_is_no_sum(norm):
    entries = np.random.default_rng(0).uniform(1e38, 3.4e38, (9, 20))
    tree = [np.asarray(entries, np.float32)]
    for groups in ("tree", "leaf", "unit"):
        expected = expected_norms(groups, tree, NORMS[norm][1])
        np.testing.assert_allclose(flat(jitted(groups, norm)(tree), tree), expected, rtol=4 * EPS)


@sampled(
    ("groups", "norm"),
    {f"{groups}-{norm}": (groups, norm) for groups in MEASURES for norm in NORMS},
    [
        *(f"tree-{norm}" for norm in NORMS),
        *(f"{groups}-l2" for groups in ("unit", "layer", "element")),
    ],
)
def test_nan_and_infinity_stay_what_they_are(groups, norm):
    found = jitted(groups, norm)
    for others in (1.0, 1e-30, 3e37, 0.0):
        for bad in (np.nan, np.inf, -np.inf):
            tree = {name: np.full(n, others, np.float32) for name, n in [("a", (3, 2)), ("bb", 2)]}
            tree["a"][1, 0] = bad
            norms = flat(found(tree), tree)
            expected = expected_norms(groups, tree, 1)  # finite in the same places
            np.testing.assert_array_equal(np.isfinite(norms), np.isfinite(expected))
            assert np.isnan(norms).any() == np.isnan(bad)
            assert np.isinf(norms).any() == np.isinf(bad)


@sampled(
    ("dtype", "norm"),
    {f"{dtype.__name__}-{norm}": (dtype, norm) for dtype in DTYPES for norm in NORMS},
    ["float32-l2", "float32-l3", "bfloat16-l2", "float16-l3"],
)
def test_norm_of_one_entry_is_exact_for_every_power_of_two(dtype, norm):
    lowest = -24 if dtype == jnp.float16 else -126
    powers = np.arange(lowest, 16 if dtype == jnp.float16 else 128)
    entries = np.ldexp(np.float32(-1), powers).astype(dtype)
    measure = measure_of("leaf", norm)
    one_by_one = jax.jit(jax.vmap(lambda x: measure.norms([x[None]]).values[0]))(entries)
    columns = jitted("unit", norm)([entries[None, :]]).values[0][0]
    expected = np.ldexp(1.0, powers)
    for found in (one_by_one, columns):
        np.testing.assert_allclose(found, expected, rtol=4 * EPS)


@pytest.mark.parametrize(
    "size", [10**5, pytest.param(10**6, marks=pytest.mark.exhaustive)], ids=str
)
@sampled(
    ("dtype", "held"),
    {
        f"{dtype.__name__}-{held}": (dtype, held)
        for dtype in DTYPES
        for held in ("all", "zeros but one")
    },
    ["float32-all", "float32-zeros but one", "float16-all"],
)
def test_many_entries_of_every_power_of_two_are_measured_and_clipped(dtype, held, size):
    place = np.arange(size)
    full = held == "all"
    held = place == place if full else place == 77_777
    tiniest = 2.0**-24 if dtype == jnp.float16 else TINY

    @jax.jit
    def clipped(entry, threshold):
        return clipax.clip(jnp.where(held, entry, 0), clipax.global_norm(threshold))

    for power in range(-24 if dtype == jnp.float16 else -126, 16 if dtype == jnp.float16 else 128):
        norm = math.ldexp(math.sqrt(held.sum()), power)
        if norm > LARGEST:
            continue
        result, metrics = clipped(np.asarray(math.ldexp(1, power), dtype), norm / 2)
        result = np.asarray(result)
        np.testing.assert_allclose(metrics["norm"], norm, rtol=4 * EPS)
        assert result.dtype == dtype
        ends = np.float64([np.min(result), np.max(result)])
        half = [0 if not full else math.ldexp(0.5, power), math.ldexp(0.5, power)]
        np.testing.assert_allclose(ends, half, rtol=4 * EPS, atol=tiniest)


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


@pytest.mark.parametrize(
    "groups", ["tree", "unit", pytest.param("layer", marks=pytest.mark.exhaustive)]
)
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
    tree = [entries]
    for groups in ("leaf", "unit"):
        expected = expected_norms(groups, tree, NORMS[norm][1])
        found = flat(jitted(groups, norm)(tree), tree)
        usual = expected > 2 * TINY
        np.testing.assert_allclose(found[usual], expected[usual], rtol=4 * EPS)
        assert (found[~usual] <= 3 * TINY).all()


@pytest.mark.parametrize("p", [0.3, 0.5, 1, 1.5, 2, 4, 20, 300, math.inf])
def test_norm_of_any_power_is_that_of_numpy(p):
    entries = np.array([[3, -4, 0], [0.5, 1, -2]], np.float32)
    values = jax.jit(lambda tree: measures.per_tree(measures.lp(p)).norms(tree).values)
    for scale in (1, 1e-30, 1e30):
        tree = [entries * np.float32(scale)]
        (found,) = values(tree)
        assert float(found) == pytest.approx(norm_of([double(tree[0])], p), rel=2e-6, abs=0)


@pytest.mark.parametrize("p", [0, -1, math.nan, "2", None, True])
def test_power_that_is_none_is_refused_by_name(p):
    with pytest.raises((ValueError, TypeError), match="`p` must be"):
        measures.lp(p)


# float64.


@sampled(
    ("groups", "norm"),
    {
        f"{groups}-{norm}": (groups, norm)
        for groups in ("tree", "leaf", "unit", "element")
        for norm in NORMS
    },
    [
        *(f"tree-{norm}" for norm in NORMS),
        "unit-l2",
        "element-l2",
    ],
)
def test_float64_has_norms_of_float64(groups, norm):
    with enable_x64():
        rng = np.random.default_rng(0)
        entries = [rng.normal(size=shape) for shape in ((4, 3), (), (5,))]
        measure = MEASURES[groups](NORMS[norm][0])
        find = jax.jit(lambda tree: measure.norms(tree).values)
        for scale in (1e-300, 1e-200, 1.0, 1e200, 1e300):
            tree = [x * scale for x in entries]
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


@pytest.mark.parametrize("zeros", [np.s_[:, 1], np.s_[:]], ids=["a unit", "all"])
def test_norm_of_constants_is_a_number(zeros):
    """Where all is known, the compiler does the sums, by other means."""
    array = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    array[zeros] = 0
    measure = measures.per_unit()
    (norms,) = jax.jit(lambda: measure.norms([jnp.asarray(array)]).values)()
    np.testing.assert_allclose(norms[0], np.linalg.norm(array, axis=0), rtol=1e-6)
