"""The laws of norms: their range, the threshold as their bound, and what is below it."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest
from catalogue import group_norms
from numpy_groups import group_arrays, label_of
from rows import each_structure, rows, sampled
from trees import mixed, plain, with_dtype
from updates import assert_same_bits, series

import clipax


def norms_of(row):
    return functools.partial(group_norms, row)


def groups_of(row):
    return functools.partial(group_arrays, row.groups)


# Law 1: norms in float32, no overflow, no underflow, dtypes kept.


@rows(
    "rescale", "skip", "smooth", "normalize", "stabilized", "at_least", "spectral", "soft_spectral"
)
@pytest.mark.parametrize("magnitude", [1e25, 1e-30, 1.0], ids=["huge", "tiny", "usual"])
def test_norm_neither_overflows_nor_underflows(row, magnitude):
    laws.reported_norm_is_the_largest(row.make(), plain(5, magnitude), norms_of(row))


@rows("rescale", "spectral", fixed=True)
@pytest.mark.parametrize("magnitude", [1e25, 1e36, 1e-30], ids=["huge", "largest", "tiny"])
def test_extreme_gradients_are_clipped_to_their_thresholds(row, magnitude):
    bound = np.float32(3 * magnitude)
    gradient = jax.tree.map(lambda x: np.clip(x, -bound, bound), plain(5, magnitude))
    laws.norms_above_the_threshold_become_the_threshold(
        row.make(), gradient, row.fixed, norms_of(row), row.error
    )


HELD_AS_MIXED = ("moving_average_per_leaf", "unit_mean", "stable_spam", "spectral")


@rows(default=HELD_AS_MIXED)
def test_float16_of_60000_is_not_lost(row):
    gradient = mixed(6)
    gradient["cell"][0] = np.full((2, 3, 2), 60000, np.float16)
    result = laws.finite_gradients_stay_finite(row.make(), gradient)
    if row.rule != "skip":
        assert np.all(np.asarray(result["cell"][0]) > 0)


@each_structure
def test_dtypes_shapes_and_weak_types_are_kept(row):
    gradient = mixed()
    assert gradient["scalar"].weak_type
    laws.dtypes_shapes_and_weak_types_are_kept(row.make(), gradient)


@pytest.mark.parametrize("threshold", [lambda step: jnp.float32(0.1), jnp.float32(0.1)])
@pytest.mark.parametrize("make", [clipax.global_norm, clipax.per_leaf, clipax.value])
def test_dtype_of_the_threshold_does_not_matter(make, threshold):
    laws.dtypes_shapes_and_weak_types_are_kept(make(threshold), mixed())
    if isinstance(threshold, jax.Array):
        return
    injected = optax.inject_hyperparams(make)(threshold)
    laws.dtypes_shapes_and_weak_types_are_kept(injected, with_dtype(plain(), jnp.bfloat16))


# Law 2: the norm afterwards is at most the threshold; the direction is kept.

BOUNDED = ("rescale", "value", "spectral", "soft_spectral")


@rows(*BOUNDED, fixed=True)
def test_norm_never_exceeds_threshold(row):
    gradients = [plain(i, 3.0) for i in range(20)]
    laws.norm_never_exceeds_the_threshold(
        row.make(), gradients, row.fixed, norms_of(row), row.error
    )


SIXTEEN_BITS = pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__
)
NARROW = ("global_norm", "value", "spectral")


@rows(*BOUNDED, fixed=True, default=NARROW)
@SIXTEEN_BITS
def test_norm_never_exceeds_threshold_by_more_than_a_rounding_of_16_bits(row, dtype):
    gradients = [with_dtype(plain(i, 3.0), dtype) for i in range(20)]
    laws.norm_never_exceeds_the_threshold(
        row.make(), gradients, row.fixed, norms_of(row), float(jnp.finfo(dtype).eps)
    )


@sampled("p", {str(p): p for p in (0.5, 1.5, 3, 7)}, ["0.5", "3"])
def test_norm_of_any_power_never_exceeds_the_threshold(p):
    gradients = np.float32(3 * np.random.default_rng(0).normal(size=(5000, 7)))
    clipper = clipax.clip_by(clipax.measures.per_tree(clipax.measures.lp(p)), 0.5)
    results = jax.jit(jax.vmap(lambda g: clipax.clip(g, clipper)[0]))(gradients)
    sums = np.sum(np.abs(np.float64(results)) ** p, axis=1)
    assert (sums ** (1 / p) <= 0.5).all()


@rows("rescale", "spectral", fixed=False)
def test_norm_never_exceeds_a_moving_threshold(row):
    laws.norm_never_exceeds_a_moving_threshold(
        row.make(), series(30), norms_of(row), one_group=row.groups == "tree"
    )


@rows("rescale", "smooth", "normalize", "stabilized", "at_least", default=HELD_AS_MIXED)
def test_direction_is_kept(row):
    laws.direction_is_kept(row.make(), mixed(7, 3.0), groups_of(row))


@rows("rescale", "spectral", fixed=True)
@pytest.mark.parametrize("threshold", [1e-3, 1e-8, 1e-20])
def test_small_threshold_is_reached(row, threshold):
    """Nothing is added to a norm: half of each group is cut off, however small it is."""
    clipper = rescaled_to(row, threshold)
    gradient = {"dense": {"kernel": jnp.full((1, 1), 2 * threshold)}}
    result = clipax.clip(gradient, clipper)[0]
    assert float(result["dense"]["kernel"][0, 0]) == pytest.approx(threshold, rel=1e-6, abs=0)


def rescaled_to(row, threshold):
    if row.groups == "matrix":
        return clipax.spectral(threshold)
    if row.groups == "label":
        return clipax.per_group(threshold, label_of)
    measure = {
        "tree": clipax.measures.per_tree,
        "layer": clipax.measures.per_layer,
        "leaf": clipax.measures.per_leaf,
        "unit": clipax.measures.per_unit,
        "element": clipax.measures.per_element,
    }[row.groups]
    norm = clipax.measures.rms if row.ord == "rms" else clipax.measures.lp(row.ord)
    return clipax.clip_by(measure(norm), threshold)


# Law 3: within the threshold nothing changes, to the bit.

UNCHANGED = ("rescale", "skip", "value", "spectral")


def small(dtype):
    return with_dtype(plain(8, 1e-3), dtype) | {"scalar": jax.device_put(np.zeros((), dtype) * -1)}


@rows(*UNCHANGED, fixed=True)
def test_group_within_threshold_is_unchanged_to_the_bit(row):
    laws.gradient_within_the_threshold_is_unchanged(row.make(), small(jnp.float32))


@rows(*UNCHANGED, fixed=True, default=NARROW)
@SIXTEEN_BITS
def test_group_of_16_bits_within_threshold_is_unchanged_to_the_bit(row, dtype):
    laws.gradient_within_the_threshold_is_unchanged(row.make(), small(dtype))


def test_norm_equal_to_the_threshold_is_unchanged():
    gradient = [jnp.asarray([3.0, 4.0])]
    assert_same_bits(clipax.clip(gradient, clipax.global_norm(5.0))[0], gradient)


MAKE_WITH_THRESHOLD = {
    "global_norm": clipax.global_norm,
    "per_layer": clipax.per_layer,
    "per_leaf": clipax.per_leaf,
    "per_group": lambda t: clipax.per_group(t, lambda path: path[0]),
    "value": clipax.value,
    "spectral": clipax.spectral,
    "spectral_svd": functools.partial(clipax.spectral, method="svd"),
    "spectral_newton_schulz": functools.partial(clipax.spectral, method="newton_schulz"),
    "spectral_soft": functools.partial(clipax.spectral, rule="soft"),
    "spectral_soft_newton_schulz": functools.partial(
        clipax.spectral, rule="soft", method="newton_schulz"
    ),
    "unit": lambda t: clipax.clip_by(clipax.measures.per_unit(), t),
    "element": lambda t: clipax.clip_by(clipax.measures.per_element(), t),
    **{
        rule.__name__: functools.partial(
            lambda rule, t: clipax.clip_by(clipax.measures.per_tree(), t, rule), rule
        )
        for rule in (clipax.rules.normalize, clipax.rules.smooth, clipax.rules.skip)
    },
}
each_with_threshold = sampled(
    "make",
    MAKE_WITH_THRESHOLD,
    ["global_norm", "value", "spectral_soft", "unit", "normalize", "skip"],
)


@each_with_threshold
def test_infinite_threshold_is_the_identity(make):
    for magnitude in (1e30, 1.0, 1e-30):
        gradient = plain(9, magnitude)
        assert_same_bits(clipax.clip(gradient, make(jnp.inf))[0], gradient)


@each_with_threshold
def test_zero_gradient_and_zero_threshold_give_zero(make):
    zeros = jax.tree.map(jnp.zeros_like, plain())
    assert_same_bits(clipax.clip(zeros, make(0.0))[0], zeros)
    assert_same_bits(clipax.clip(zeros, make(1.0))[0], zeros)
    result = clipax.clip(plain(), make(0.0))[0]
    assert all(not np.any(x) for x in jax.tree.leaves(result))


@each_with_threshold
def test_negative_schedule_acts_as_zero(make):
    gradient = plain(10)
    result = clipax.clip(gradient, make(lambda step: jnp.float32(-1.0) - step))[0]
    assert all(not np.any(x) for x in jax.tree.leaves(result))
