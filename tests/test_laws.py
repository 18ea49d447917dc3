"""The laws of the core, each over every clipper of the catalogue."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized
from catalogue import (
    CATALOGUE,
    INSIDE_LEAVES,
    group_arrays,
    group_norms,
    inexact,
    label_of,
    mixed,
    norm_of,
    plain,
    with_dtype,
)

import clipax

enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
every = pytest.mark.parametrize("row", CATALOGUE, ids=[row.name for row in CATALOGUE])
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


def rows(*rules, fixed=None):
    """The rows with one of these rules, and with (or without) one fixed threshold."""
    found = [r for r in CATALOGUE if r.rule in rules and fixed in (None, r.fixed is not None)]
    return pytest.mark.parametrize("row", found, ids=[row.name for row in found])


def run(clipper, gradients, state=None, **extra_args):
    """Updates in a row under `jit`; the list of results and the last state."""
    state = clipper.init(gradients[0]) if state is None else state
    update = jitted(clipper)
    results = []
    for gradient in gradients:
        result, state = update(gradient, state, **extra_args)
        results.append(result)
    return results, state


@functools.cache
def jitted(clipper):
    return jax.jit(clipper.update)


def assert_same_bits(a, b):
    chex.assert_trees_all_equal_structs(a, b)
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), (x, y)


def series(length=8, seed=0):
    """Float32 gradients of very different sizes."""
    sizes = np.random.default_rng(seed).lognormal(sigma=2.0, size=length)
    return [plain(seed + i, float(size)) for i, size in enumerate(sizes)]


# Law 1: norms in float32, no overflow, no underflow, dtypes kept.


@rows("rescale", "skip", "smooth", "normalize", "spectral", "soft_spectral")
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
    gradient = with_dtype(plain(6), jnp.float16)
    gradient["dense"]["kernel"] = jnp.full((4, 3), 60000, jnp.float16)
    (result,), _ = run(row.make(), [gradient])
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(result))
    if row.rule != "skip":
        assert np.all(np.asarray(result["dense"]["kernel"]) > 0)


@every
def test_dtypes_shapes_and_weak_types_are_kept(row):
    gradient = {**mixed(), "scalar": jnp.asarray(3.0)}
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
    clipper = row.make()
    state, update = clipper.init(plain()), jitted(clipper)
    for gradient in series(30):
        result, state = update(gradient, state)
        values = clipax.metrics(state)
        if row.groups == "tree":
            allowed = max(
                float(values["threshold"]), float(values["norm"]) * (values["factor"] == 1)
            )
            assert group_norms(row, result).max() <= allowed * (1 + 1e-7 * (values["factor"] == 1))
        assert np.all(group_norms(row, result) <= group_norms(row, gradient))


@rows("rescale", "smooth", "normalize")
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


# Law 5: a norm that is not finite enters nothing.


def poisoned(bad):
    gradient = plain(11)
    gradient["dense"]["kernel"] = gradient["dense"]["kernel"].at[1, 2].set(bad)
    return gradient


@every
@pytest.mark.parametrize("nonfinite", ["propagate", "zero", "sanitize"])
@pytest.mark.parametrize("at", [0, 1, 6])
def test_nonfinite_step_leaves_the_state_as_if_it_had_not_been(row, nonfinite, at):
    """Of the groups that were hit; a schedule counts the step all the same."""
    clipper = row.make(nonfinite=nonfinite)
    good = series(9)
    bad = jax.tree.map(lambda x: x * jnp.nan, plain())
    _, expected = run(clipper, good)
    _, state = run(clipper, [*good[:at], bad, *good[at:]])
    assert_same_bits(state.policy, expected.policy)
    if state.metrics.nonfinite is not None:
        assert int(state.metrics.nonfinite) == 1
    assert int(state.step) == int(expected.step) + 1


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_group_becomes_nan_by_default(row, bad):
    gradient = poisoned(bad)
    (result,), _ = run(row.make(), [gradient])
    for before, after in zip(
        group_arrays(row.groups, gradient), group_arrays(row.groups, result), strict=True
    ):
        lost = not all(np.isfinite(x).all() for x in before)
        assert all(np.isnan(x).all() if lost else np.isfinite(x).all() for x in after)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_group_becomes_zero_where_asked(row, bad):
    gradient = poisoned(bad)
    (result,), _ = run(row.make(nonfinite="zero"), [gradient])
    for before, after in zip(
        group_arrays(row.groups, gradient), group_arrays(row.groups, result), strict=True
    ):
        if not all(np.isfinite(x).all() for x in before):
            assert all(not np.any(x) for x in after)
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(result))


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_sanitized_gradient_is_that_without_its_nonfinite_entries(row, bad):
    history = series(6)
    _, state = run(row.make(), history)
    (result,), _ = run(row.make(nonfinite="sanitize"), [poisoned(bad)], state)
    assert row.mixes or float(result["dense"]["kernel"][1, 2]) == 0
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(result))
    clean = poisoned(0.0)
    if row.fixed is not None:
        (expected,), _ = run(row.make(), [clean], state)
        chex.assert_trees_all_close(result, expected, rtol=1e-6)
    else:
        norms = group_norms(row, result) / np.maximum(group_norms(row, clean), 1e-30)
        assert np.all(norms <= 1 + 1e-6)


@every
def test_only_the_group_that_is_hit_is_frozen(row):
    """Its state stays to the bit, that of every other group moves as if nothing had happened."""
    clipper, history, bad = row.make(), series(4), poisoned(np.nan)
    _, before = run(clipper, history)
    _, hit = run(clipper, [bad], before)
    _, clean = run(clipper, [poisoned(0.0)], before)
    frozen = frozen_groups(row, bad)
    states = (jax.tree.leaves(s.policy) for s in (before, hit, clean))
    for i, (old, new, other) in enumerate(zip(*states, strict=True)):
        mask = np.broadcast_to(frozen[i % len(frozen)], new.shape)
        np.testing.assert_array_equal(new, np.where(mask, old, other))


def frozen_groups(row, gradient):
    """For every array of norms which of its groups are not finite."""
    if row.groups not in INSIDE_LEAVES:
        groups = group_arrays(row.groups, gradient)
        return [np.array([not all(np.isfinite(x).all() for x in arrays) for arrays in groups])]
    leaves = [~np.isfinite(np.asarray(x)) for x in jax.tree.leaves(gradient)]
    if row.groups == "element":
        return leaves
    spanned = 0 if row.groups == "unit" else (-2, -1)
    return [x.any(axis=spanned if x.ndim > 1 else None, keepdims=True) for x in leaves]


# Law 6: no state is absorbing.


@every
def test_clipping_comes_back_to_life_after_zeros(row):
    zeros = jax.tree.map(jnp.zeros_like, plain())
    calm = [plain(i, 0.01) for i in range(row.reset)]
    spike = plain(3, 1e4)
    results, _ = run(row.make(), [zeros] * 10 + calm + [spike])
    assert all(np.isfinite(np.asarray(x)).all() for r in results for x in jax.tree.leaves(r))
    if row.rule != "skip":  # calm gradients come through, and a spike does not
        assert all(np.any(x) for x in jax.tree.leaves(results[-2]))
    assert group_norms(row, results[-1]).max() < 0.9 * group_norms(row, spike).max()


# Law 7: state is a stable pytree of arrays.


@every
def test_state_keeps_structure_shapes_and_dtypes(row):
    clipper = row.make(name="clip")
    for gradient in (plain(), mixed()):
        before = clipper.init(gradient)
        _, after = clipper.update(gradient, before)
        chex.assert_trees_all_equal_structs(before, after)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(before))
        assert not any(x.weak_type for x in jax.tree.leaves((before, after)))


@every
def test_scan_equals_a_loop(row):
    clipper, gradients = row.make(), series()
    results, state = run(clipper, gradients)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)

    @jax.jit
    def scan(state):
        return jax.lax.scan(lambda s, g: clipper.update(g, s)[::-1], state, stacked)

    last, outputs = scan(clipper.init(gradients[0]))
    chex.assert_trees_all_close(last, state, rtol=1e-6, atol=row.error)
    chex.assert_trees_all_close(
        outputs, jax.tree.map(lambda *xs: jnp.stack(xs), *results), rtol=1e-6, atol=row.error
    )


@every
def test_vmap_equals_a_loop_over_runs(row):
    clipper = row.make()
    batch = [series(6, seed) for seed in (0, 50, 100)]
    single = [run(clipper, gradients) for gradients in batch]
    stacked = [jax.tree.map(lambda *xs: jnp.stack(xs), *gs) for gs in zip(*batch, strict=True)]
    state = jax.vmap(clipper.init)(stacked[0])
    update = jax.jit(jax.vmap(clipper.update))
    for gradient in stacked:
        result, state = update(gradient, state)
    expected = jax.tree.map(lambda *xs: jnp.stack(xs), *[results[-1] for results, _ in single])
    chex.assert_trees_all_close(result, expected, rtol=1e-6, atol=row.error)
    states = jax.tree.map(lambda *xs: jnp.stack(xs), *[s for _, s in single])
    chex.assert_trees_all_close(state, states, rtol=1e-6, atol=row.error)


@every
def test_resumed_equals_uninterrupted_to_the_bit(row):
    clipper, gradients = row.make(name="clip"), series(8)
    results, whole = run(clipper, gradients)
    _, half = run(clipper, gradients[:4])
    stored = pickle.dumps(jax.tree.map(np.asarray, half))
    restored = jax.tree.map(jnp.asarray, pickle.loads(stored))
    rest, end = run(clipper, gradients[4:], restored)
    assert_same_bits(rest, results[4:])
    assert_same_bits(end, whole)


@every
@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_donated_buffers_give_the_same_result(row):
    clipper = row.make()
    expected, _ = run(clipper, series(3))
    update = jax.jit(lambda g, s: clipper.update(g, s), donate_argnums=(0, 1))
    state = clipper.init(plain())
    for gradient, right in zip(series(3), expected, strict=True):
        result, state = update(jax.tree.map(jnp.copy, gradient), state)
        chex.assert_trees_all_close(result, right, rtol=1e-6)


@every
def test_leaf_shaped_state_is_found_by_tree_map_params(row):
    clipper, params = row.make(), plain()
    policy = optax.tree_utils.tree_map_params(
        clipper, lambda state, param: jnp.full(param.shape, jnp.nan), clipper.init(params), params
    ).policy
    leaves = jax.tree.leaves(policy)
    found = [np.isnan(np.asarray(x, np.float32)).all() and x.size > 0 for x in leaves]
    assert all(f == (row.groups in INSIDE_LEAVES) for f in found)


@rows("rescale")
def test_tracked_statistics_are_read_and_set_by_name(row):
    state = row.make().init(plain())
    for field in getattr(state.policy, "_fields", ()):
        if field in ("steps", "decays"):
            value = optax.tree_utils.tree_get(state, field)
            state = optax.tree_utils.tree_set(state, **{field: value + 3})
            assert np.all(np.asarray(optax.tree_utils.tree_get(state, field)) == 3)


# Law 8: eager equals jit, nothing compiles twice, unknown arguments pass.


class VariantsTest(chex.TestCase):
    """With and without jit and device: the same numbers."""

    @chex.all_variants(with_pmap=False)
    @parameterized.named_parameters((row.name, row) for row in CATALOGUE)
    def test_variant_equals_jit(self, row):
        clipper, gradients = row.make(), series(3)
        expected, end = run(clipper, gradients)
        update = self.variant(clipper.update)
        state = clipper.init(gradients[0])
        for gradient, right in zip(gradients, expected, strict=True):
            result, state = update(gradient, state)
            chex.assert_trees_all_close(result, right, rtol=1e-6)
        chex.assert_trees_all_close(state, end, rtol=1e-6)


@every
def test_update_is_traced_once(row):
    chex.clear_trace_counter()
    clipper = row.make()
    update = jax.jit(chex.assert_max_traces(lambda g, s: clipper.update(g, s), n=1))
    state = clipper.init(plain())
    for gradient in series(4):
        _, state = update(gradient, state)


@every
def test_repeated_eager_updates_compile_nothing(row):
    clipper = row.make()
    state = clipper.init(mixed())
    for seed in range(2):
        _, state = clipper.update(mixed(seed), state)
    COMPILED.clear()
    for seed in range(3):
        _, state = clipper.update(mixed(seed), state)
    assert COMPILED == []


def test_compilations_are_seen():
    COMPILED.clear()
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(7)).block_until_ready()
    assert COMPILED


COMPILED: list[str] = []


def _note_compilation(event, *_, **__):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(event)


# Old jax cannot unregister a listener, so there is one for all tests.
jax.monitoring.register_event_duration_secs_listener(_note_compilation)


@every
def test_unknown_extra_arguments_are_accepted(row):
    gradient = plain()
    clipper = row.make()
    result, _ = clipper.update(
        gradient, clipper.init(gradient), gradient, value=1.0, step=7, fn=lambda x: x
    )
    chex.assert_trees_all_close(result, run(clipper, [gradient])[0][0], rtol=1e-6)


def test_extra_arguments_reach_the_policy():
    seen = {}

    def update(norm, state, *, step, param_norm, loss, **extra_args):
        seen.update(step=step, loss=loss, params=param_norm())
        return jnp.asarray(1.0), state

    policy = clipax.ThresholdPolicy(lambda norm: (), update)
    clipper = clipax.global_norm(policy)
    gradient = [jnp.ones(4)]
    clipper.update(gradient, clipper.init(gradient), [jnp.full(4, 3.0)], loss=0.25, epoch=2)
    assert seen["loss"] == 0.25 and int(seen["step"]) == 0
    assert float(seen["params"][0]) == 6.0


# Law 10: derivatives are finite wherever the true one is.


@every
def test_derivatives_are_finite(row):
    clipper, direction = row.make(), plain(14)
    state = clipper.init(direction)

    def clipped(gradient):
        return clipper.update(gradient, state)[0]

    @jax.jit
    def derivatives(gradient):
        forward = jax.jvp(clipped, (gradient,), (direction,))[1]
        return forward, jax.vjp(clipped, gradient)[1](direction)[0]

    tiny = 1e-15 if row.rule == "normalize" else 1e-30  # see its docstring
    for magnitude in (0.0, 1.0, 1e25, tiny):
        for x in jax.tree.leaves(derivatives(plain(12, magnitude))):
            assert np.isfinite(np.asarray(x)).all(), magnitude


@rows("rescale", "normalize", "smooth", "spectral", "soft_spectral", fixed=True)
def test_derivative_far_above_the_threshold_scales_like_one_over_the_norm(row):
    if row.groups == "element":
        return  # an entry beyond its threshold does not depend on the gradient at all
    clipper, direction = row.make(), plain(14)
    state = clipper.init(direction)

    @jax.jit
    def derivative(gradient):
        return jax.vjp(lambda g: clipper.update(g, state)[0], gradient)[1](direction)[0]

    near, far = derivative(plain(12, 1e5)), derivative(plain(12, 1e25))
    near = jax.tree.map(lambda x: x * 1e-20, near)
    largest = max(float(jnp.max(abs(x))) for x in jax.tree.leaves(near))
    chex.assert_trees_all_close(far, near, rtol=1e-3, atol=1e-4 * largest)


@rows("rescale", "smooth", "normalize", "spectral", "soft_spectral", fixed=True)
def test_derivative_is_that_of_the_formula(row):
    """Against finite differences, at a gradient that is clipped and one that is not."""
    with enable_x64():
        clipper = row.make()
        gradient = jax.tree.map(lambda x: x.astype(jnp.float64), plain(13))
        state = clipper.init(gradient)
        flat, unravel = jax.flatten_util.ravel_pytree(gradient)
        weights = jnp.asarray(np.random.default_rng(0).normal(size=flat.size))

        @jax.jit
        def f(x):
            result = clipper.update(unravel(x), state)[0]
            return weights @ jax.flatten_util.ravel_pytree(result)[0]

        slope = jax.jit(jax.grad(f))
        for magnitude in (3.0, 0.01):
            x, steps = magnitude * flat, 1e-6 * magnitude * np.eye(flat.size)
            numeric = [(f(x + d) - f(x - d)) / (2e-6 * magnitude) for d in steps]
            np.testing.assert_allclose(slope(x), numeric, rtol=1e-5, atol=1e-6)


# Law 11: params are needed only where the threshold needs them.


def test_missing_params_are_named():
    def update(norm, state, *, step, param_norm, **extra_args):
        return 0.01 * param_norm(), state

    clipper = clipax.clip_by(
        clipax.measures.per_leaf(), clipax.ThresholdPolicy(lambda norm: (), update), name="mine"
    )
    gradient = [jnp.ones(3)]
    state = clipper.init(gradient)
    with pytest.raises(ValueError, match=r"mine.*update\(updates, state, params\)"):
        clipper.update(gradient, state)
    result, _ = clipper.update(gradient, state, [jnp.full(3, 2.0)])
    assert norm_of([np.asarray(result[0], np.float64)], 2) == pytest.approx(0.02 * 3**0.5)


@every
def test_clippers_of_the_gradient_alone_need_no_params(row):
    clipper = row.make()
    clipper.update(plain(), clipper.init(plain()))
