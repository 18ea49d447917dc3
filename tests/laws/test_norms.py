"""The laws of norms: their range, the threshold as their bound, and what is below it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import group_arrays, group_norms, inexact, label_of, mixed, plain, with_dtype
from laws import assert_same_bits, every, rows, run, series

import clipax

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


# Law 1: norms in float32, no overflow, no underflow, dtypes kept.


@rows(
    "rescale", "skip", "smooth", "normalize", "stabilized", "at_least", "spectral", "soft_spectral"
)
@pytest.mark.parametrize("magnitude", [1e25, 1e-30, 1.0], ids=["huge", "tiny", "usual"])
def test_norm_neither_overflows_nor_underflows(row, magnitude):
    gradient = plain(5, magnitude)
    (_,), state = run(row.make(), [gradient])
    if "norm" in clipax.metrics(state):
        norm = float(clipax.metrics(state)["norm"])
        assert norm == pytest.approx(group_norms(row, gradient).max(), rel=1e-6)


@rows("rescale", "spectral", fixed=True)
@pytest.mark.parametrize("magnitude", [1e25, 1e36, 1e-30], ids=["huge", "largest", "tiny"])
def test_extreme_gradients_are_clipped_to_their_thresholds(row, magnitude):
    gradient = plain(5, magnitude)
    gradient = jax.tree.map(lambda x: jnp.clip(x, -3 * magnitude, 3 * magnitude), gradient)
    (result,), _ = run(row.make(), [gradient])
    before, after = group_norms(row, gradient), group_norms(row, result)
    kept = before <= row.fixed
    np.testing.assert_array_equal(after[kept], before[kept])
    np.testing.assert_allclose(after[~kept], row.fixed, rtol=1e-6 + row.error)


@every
def test_float16_of_60000_is_not_lost(row):
    gradient = mixed(6)
    gradient["cell"][0] = jnp.full((2, 3, 2), 60000, jnp.float16)
    (result,), _ = run_mixed(row.make(), [gradient])
    finite = [np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(result) if inexact(x)]
    assert all(finite)
    if row.rule != "skip":
        assert np.all(np.asarray(result["cell"][0]) > 0)


@every
def test_dtypes_shapes_and_weak_types_are_kept(row):
    gradient = mixed()
    assert gradient["scalar"].weak_type
    assert_kept(row.make(), gradient)


@pytest.mark.parametrize("threshold", [lambda step: jnp.float32(0.1), jnp.float32(0.1)])
@pytest.mark.parametrize("make", [clipax.global_norm, clipax.per_leaf, clipax.value])
def test_dtype_of_the_threshold_does_not_matter(make, threshold):
    assert_kept(make(threshold), mixed())
    if isinstance(threshold, jax.Array):
        return
    injected = optax.inject_hyperparams(make)(threshold)
    assert_kept(injected, with_dtype(plain(), jnp.bfloat16))


def assert_kept(clipper, gradient):
    result, _ = clipper.update(gradient, clipper.init(gradient))
    chex.assert_trees_all_equal_structs(result, gradient)
    for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(gradient), strict=True):
        if inexact(y):
            assert x.shape == y.shape and x.dtype == y.dtype and x.weak_type == y.weak_type
        else:
            assert x is y


# Law 2: the norm afterwards is at most the threshold; the direction is kept.


@rows("rescale", "value", "spectral", "soft_spectral", fixed=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_norm_never_exceeds_threshold(row, dtype):
    allowed = row.fixed * (1 + (row.error if dtype == jnp.float32 else float(jnp.finfo(dtype).eps)))
    gradients = [with_dtype(plain(i, 3.0), dtype) for i in range(20)]
    for result in run(row.make(), gradients)[0]:
        assert group_norms(row, result).max() <= allowed


@rows("rescale", "spectral", fixed=False)
def test_norm_never_exceeds_a_moving_threshold(row):
    clipper, state = row.make(), None
    for gradient in series(30):
        (result,), state = run(clipper, [gradient], state)
        values = clipax.metrics(state)
        if row.groups == "tree":
            allowed = max(
                float(values["threshold"]), float(values["norm"]) * (values["factor"] == 1)
            )
            assert group_norms(row, result).max() <= allowed * (1 + 1e-7 * (values["factor"] == 1))
        assert np.all(group_norms(row, result) <= group_norms(row, gradient))


@rows("rescale", "smooth", "normalize", "stabilized", "at_least")
def test_direction_is_kept(row):
    gradient = mixed(7, 3.0)
    (result,), _ = run_mixed(row.make(), [gradient])
    pairs = zip(group_arrays(row.groups, gradient), group_arrays(row.groups, result), strict=True)
    for before, after in pairs:
        a, b = (np.concatenate([np.ravel(x) for x in arrays]) for arrays in (before, after))
        if np.any(a):
            cosine = np.real(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b))
            assert cosine == pytest.approx(1, abs=1e-4)


def run_mixed(clipper, gradients, state=None):
    """Updates in a row of trees that hold float0 leaves, which cannot pass through `jit`."""
    state = clipper.init(gradients[0]) if state is None else state
    results = []
    for gradient in gradients:
        result, state = clipper.update(gradient, state)
        results.append(result)
    return results, state


@rows("rescale", "spectral", fixed=True)
@pytest.mark.parametrize("threshold", [1e-3, 1e-8, 1e-20])
def test_small_threshold_is_reached(row, threshold):
    """Nothing is added to a norm: half of each group is cut off, however small it is."""
    clipper = rescaled_to(row, threshold)
    gradient = {"dense": {"kernel": jnp.full((1, 1), 2 * threshold)}}
    result = clipax.clip(gradient, clipper)[0]
    assert float(result["dense"]["kernel"][0, 0]) == pytest.approx(threshold, rel=1e-6)


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


@rows("rescale", "skip", "value", "spectral", fixed=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_group_within_threshold_is_unchanged_to_the_bit(row, dtype):
    gradient = with_dtype(plain(8, 1e-3), dtype)
    gradient["scalar"] = jnp.asarray(-0.0, dtype)
    assert_same_bits(run(row.make(), [gradient])[0][0], gradient)


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
each_with_threshold = pytest.mark.parametrize(
    "make", MAKE_WITH_THRESHOLD.values(), ids=MAKE_WITH_THRESHOLD
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
