"""The thresholds alone, against their definitions in numpy over long series of norms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import clipax
from clipax import thresholds

LARGEST = float(np.finfo(np.float32).max)
LAST = np.iinfo(np.int32).max
TOLERANCE = 2e-5


def series(seed, length=2500):
    """Norms with spikes, stretches of zeros, level shifts, NaN and infinity."""
    rng = np.random.default_rng(seed)
    levels = np.repeat(10.0 ** rng.uniform(-3, 3, 10), length // 10)
    norms = levels * rng.lognormal(sigma=0.7, size=length)
    norms[rng.random(length) < 0.02] *= 1e4
    for start in rng.integers(0, length, 6):
        norms[start : start + rng.integers(1, 60)] = 0
    norms[seed % 2 * 400 : seed % 2 * 400 + 40] = 0  # some series begin with zeros
    for bad in (np.nan, np.inf):
        norms[rng.random(length) < 0.01] = bad
    norms[1300:1310] = np.nan
    return norms.astype(np.float32)


def zeros_like(norms):
    return jnp.zeros(norms.shape[1:], norms.dtype)


def _scan(policy, norms, state):
    def step(state, norm_and_step):
        norm, step = norm_and_step
        threshold, new = policy.update(norm, state, step=step, param_norm=None)
        threshold = jnp.broadcast_to(threshold, norm.shape)
        finite = jnp.isfinite(norm)  # a clipper freezes the state of a group that is not
        new = jax.tree.map(
            lambda a, b: jnp.where(jnp.broadcast_to(finite, b.shape), a, b), new, state
        )
        return new, (threshold, new)

    return jax.lax.scan(step, state, (norms, jnp.arange(norms.shape[0])))


_replay = jax.jit(_scan, static_argnums=0)


def replay(policy, norms, state=None):
    """The thresholds at all steps, the states after them and the last state."""
    norms = jnp.asarray(norms)
    state = policy.init(zeros_like(norms)) if state is None else state
    last, (values, states) = _replay(policy, norms, state)
    return np.asarray(values), states, last


@functools.partial(jax.jit, static_argnums=0)
def _clip_series(clipper, norms):
    def step(state, norm):
        gradient = {"w": norm[None]}
        _, state = clipper.update(gradient, state)
        values = clipax.metrics(state)
        return state, (values["threshold"], values["factor"])

    return jax.lax.scan(step, clipper.init({"w": jnp.zeros(1)}), norms)


# Against the definitions.

NAMED = {
    "adaptive": (clipax.adaptive, thresholds.window_percentile, reference.adaptive),
    "moving_average": (clipax.moving_average, thresholds.moving_mean, reference.moving_average),
    "decaying": (clipax.decaying, thresholds.decayed, reference.decaying),
}
DEFAULTS = {  # those of the clippers, which the policies do not share
    "adaptive": {"multiplier": 2.0, "window": 1000, "warmup": 100, "initial": 10.0},
    "moving_average": {"multiplier": 2.0, "window": 100, "warmup": 10, "initial": 10.0},
    "decaying": {},
}
SETTINGS = {
    "adaptive-default": ("adaptive", (), {}),
    "adaptive-least": ("adaptive", (0.0,), {"window": 50, "warmup": 5}),
    "adaptive-median": ("adaptive", (50.0,), {"window": 64, "warmup": 0, "initial": 0.5}),
    "adaptive-far_end": ("adaptive", (99.9,), {"window": 333, "warmup": 20, "multiplier": 1.1}),
    "adaptive-largest": ("adaptive", (100.0,), {"window": 101, "warmup": 1, "multiplier": 0.5}),
    "adaptive-one": ("adaptive", (30.0,), {"window": 1, "warmup": 1, "multiplier": 0.9}),
    "adaptive-late": ("adaptive", (90.0,), {"window": 20, "warmup": 300}),
    "adaptive-never": ("adaptive", (25.0,), {"window": 7, "warmup": 2, "initial": np.inf}),
    "moving_average-default": ("moving_average", (), {}),
    "moving_average-one": ("moving_average", (1.5,), {"window": 1, "warmup": 0, "initial": 3.0}),
    "moving_average-late": ("moving_average", (3.0,), {"window": 20, "warmup": 300}),
    "moving_average-long": ("moving_average", (1.3,), {"window": 1000, "warmup": 1}),
    "moving_average-free": ("moving_average", (5.0,), {"window": 37, "initial": np.inf}),
    "decaying-steps": ("decaying", (50.0,), {}),
    "decaying-every": ("decaying", (50.0, 0.97), {"every": 7, "floor": 0.03}),
    "decaying-never": ("decaying", (5.0, 1.0), {"every": 3}),
    "decaying-rate": ("decaying", (500.0, 0.99), {"clip_rate": 0.3}),
    "decaying-rate_every": (
        "decaying",
        (500.0, 0.9),
        {"clip_rate": 0.1, "window": 30, "every": 4, "floor": 1e-3},
    ),
    "decaying-rate_one": ("decaying", (900.0, 0.99), {"clip_rate": 0.0, "window": 1}),
    "decaying-rate_full": ("decaying", (9.0, 0.5), {"clip_rate": 1.0}),
    "decaying-rate_long": ("decaying", (500.0, 0.999), {"clip_rate": 0.5, "window": 5000}),
}


def policy_of(kind, args, kwargs):
    positional = ["multiplier"] if kind == "moving_average" else []
    named = dict(zip(positional, args, strict=False))
    rest = args[len(named) :]
    return NAMED[kind][1](*rest, **(DEFAULTS[kind] | named | kwargs))


every_setting = pytest.mark.parametrize(
    ("kind", "args", "kwargs"), SETTINGS.values(), ids=list(SETTINGS)
)


@every_setting
def test_threshold_is_that_of_the_definition_at_every_step(kind, args, kwargs):
    definition = NAMED[kind][2]
    policy = policy_of(kind, args, kwargs)
    for seed in (0, 1):
        norms = series(seed)
        values, _, _ = replay(policy, norms)
        assert values.dtype == np.float32
        expected = definition(norms, *args, **kwargs).threshold
        np.testing.assert_allclose(values, expected, rtol=TOLERANCE)


@pytest.mark.parametrize(
    "setting", ["adaptive-default", "adaptive-median", "moving_average-default", "decaying-rate"]
)
def test_clipper_has_the_threshold_of_the_definition_and_clips_above_it(setting):
    kind, args, kwargs = SETTINGS[setting]
    clipper, _, definition = NAMED[kind]
    norms = series(2)
    last, (values, factors) = _clip_series(clipper(*args, **kwargs), jnp.asarray(norms))
    expected = definition(norms, *args, **kwargs)
    np.testing.assert_allclose(values, expected.threshold, rtol=TOLERANCE)
    np.testing.assert_array_equal(np.asarray(factors) < 1, expected.clipped)
    finite = np.isfinite(norms)
    assert np.isnan(np.asarray(factors)[~finite]).all()
    found = clipax.metrics(last)
    assert int(found["nonfinite"]) == np.sum(~finite) and int(last.step) == norms.size
    assert float(found["clip_rate"]) == pytest.approx(expected.clipped.mean())


@pytest.mark.parametrize("kind", list(NAMED))
def test_definition_holds_from_the_first_norm_whatever_it_is(kind):
    definition = NAMED[kind][2]
    settings_of = {"adaptive": {"warmup": 2}, "moving_average": {"warmup": 2}, "decaying": {}}[kind]
    args = (2.0,) if kind == "decaying" else ()
    policy = policy_of(kind, args, settings_of)
    for first in (0.0, np.nan, np.inf, 3.0, LARGEST):
        norms = np.array([first, 1.0, 2.0, 0.0, 3.0, first, 5.0], np.float32)
        expected = definition(norms, *args, **settings_of).threshold
        expected = np.where(expected > LARGEST, np.inf, expected)
        np.testing.assert_allclose(replay(policy, norms)[0], expected, rtol=TOLERANCE)


# The sorted window.

LENGTH = 40
usual = st.floats(0, LARGEST, width=32, allow_subnormal=False)
few = st.sampled_from([0.0, 1.0, 2.0, 2.5, 1e30])  # many duplicates
sequences = hnp.arrays(np.float32, LENGTH, elements=usual) | hnp.arrays(
    np.float32, LENGTH, elements=few
)
any_norm = usual | few | st.sampled_from([np.nan, np.inf])
rough = hnp.arrays(np.float32, LENGTH, elements=any_norm)


@functools.cache
def percentile_policy(percentile, window):
    return thresholds.window_percentile(percentile, window=window)


@pytest.mark.parametrize("window", [1, 2, 7, 40, 60])
@settings(max_examples=40)
@given(norms=sequences)
def test_sorted_window_is_a_sorted_copy_of_the_ring(window, norms):
    _, states, _ = replay(percentile_policy(50.0, window), norms)
    ring = np.asarray(states.history.values)
    np.testing.assert_array_equal(np.sort(ring, axis=1), states.ascending)
    for step in (0, window // 2, LENGTH - 1):
        if step < LENGTH:
            kept = np.sort(norms[max(0, step + 1 - window) : step + 1])
            np.testing.assert_array_equal(np.asarray(states.ascending)[step, : kept.size], kept)
            assert np.isinf(np.asarray(states.ascending)[step, kept.size :]).all()


def test_sorted_window_stays_sorted_over_a_long_series():
    _, states, _ = replay(percentile_policy(50.0, 17), series(3))
    np.testing.assert_array_equal(np.sort(states.history.values, axis=1), states.ascending)


@pytest.mark.parametrize("percentile", [0.0, 12.5, 50.0, 95, 99.9, 100.0])
@pytest.mark.parametrize("window", [1, 7, 60])
@settings(max_examples=15)
@given(norms=sequences)
def test_percentile_is_that_of_numpy_for_windows_partly_and_wholly_filled(
    percentile, window, norms
):
    values, _, _ = replay(percentile_policy(percentile, window), norms)
    held = [norms[max(0, i + 1 - window) : i + 1].astype(np.float64) for i in range(LENGTH)]
    expected = np.array([np.percentile(x, percentile) for x in held])
    expected = np.where(expected == 0, np.inf, expected)
    normal = expected > 1e-37
    np.testing.assert_allclose(values[normal], expected[normal], rtol=4e-7)


# Any sequence of norms.

POLICIES = {
    "constant": thresholds.constant(2.0),
    "scheduled": thresholds.scheduled(optax.linear_schedule(3.0, -1.0, LENGTH)),
    "window_percentile": thresholds.window_percentile(90.0, multiplier=2.0, window=8, warmup=3),
    "least": thresholds.window_percentile(0.0, multiplier=0.1, window=5, initial=1.0),
    "moving_mean": thresholds.moving_mean(2.0, window=8, warmup=3),
    "moving_mean_shrinking": thresholds.moving_mean(0.1, window=8, initial=2.0),
    "decayed": thresholds.decayed(3.0, 0.1),
    "decayed_rate": thresholds.decayed(3.0, 0.1, clip_rate=0.2, window=6, floor=0.5),
}
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))


@every_policy
@settings(max_examples=40)
@given(norms=rough)
def test_any_sequence_of_norms_leaves_a_sound_state_and_threshold(policy, norms):
    values, states, last = replay(policy, norms)
    assert not np.isnan(values).any()
    for leaf in jax.tree.leaves(states):
        assert not np.isnan(np.asarray(leaf)).any()
    if hasattr(last, "ascending"):  # what no norm has filled yet is infinite
        filled = min(int(last.history.seen), last.ascending.shape[0])
        assert np.isfinite(last.ascending[:filled]).all()
        assert np.isinf(last.ascending[filled:]).all()
        assert int(last.history.seen) == np.isfinite(norms).sum()
    else:
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(states))


@functools.cache
def clipper_of(name):
    return clipax.global_norm(POLICIES[name], nonfinite="zero")


@functools.partial(jax.jit, static_argnums=0)
def _norms_after(clipper, norms):
    def step(state, norm):
        result, state = clipper.update([norm[None]], state)
        return state, (result[0][0], clipax.metrics(state)["threshold"])

    return jax.lax.scan(step, clipper.init([jnp.zeros(1)]), norms)


@pytest.mark.parametrize("name", list(POLICIES))
@settings(max_examples=40)
@given(norms=rough)
def test_clipped_norm_is_finite_and_never_above_the_threshold(name, norms):
    last, (after, values) = _norms_after(clipper_of(name), norms)
    assert np.isfinite(after).all() and not np.isnan(values).any()
    assert (np.asarray(values) >= 0).all()
    assert (np.asarray(after) <= np.asarray(values)).all()
    assert not any(np.isnan(np.asarray(x)).any() for x in jax.tree.leaves(last.policy))


def test_norm_that_is_not_finite_leaves_the_policy_as_it_was():
    for policy in POLICIES.values():
        clean = np.array([1.0, 2.0, 0.5, 3.0, 9.0, 0.1], np.float32)
        spoiled = np.insert(clean, [0, 2, 2, 6], [np.nan, np.inf, np.nan, np.inf])
        _, _, expected = replay(policy, clean)
        _, _, found = replay(policy, spoiled.astype(np.float32))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)


# Range.


def test_mean_of_the_largest_norms_does_not_overflow():
    policy = thresholds.moving_mean(1.0, window=1000)
    values, _, last = replay(policy, np.full(1200, 3e38, np.float32))
    np.testing.assert_allclose(values[1:], 3e38, rtol=1e-6)
    assert np.isfinite(last.history.values).all()


def test_mean_of_the_smallest_norms_does_not_vanish():
    tiny = np.float32(1.2e-38)
    values, _, _ = replay(thresholds.moving_mean(1.0, window=1000), np.full(1200, tiny))
    np.testing.assert_allclose(values[1:], tiny, rtol=1e-6)
    values, _, _ = replay(
        thresholds.moving_mean(1.0, window=4), np.array([2e38, 0, 0, 0, 0], np.float32)
    )
    np.testing.assert_allclose(values[1:], [2e38, 1e38, 2e38 / 3, 5e37], rtol=1e-6)


def test_percentile_spans_the_whole_range():
    norms = np.array([1.2e-38, 3e38, 3e38, 1.2e-38], np.float32)
    values, _, _ = replay(percentile_policy(50.0, 7), norms)
    np.testing.assert_allclose(values, [1.2e-38, 1.5e38, 3e38, 1.5e38], rtol=1e-6)


def test_threshold_above_the_largest_number_is_infinite():
    for make in (thresholds.window_percentile, thresholds.moving_mean):
        values, _, _ = replay(make(multiplier=10.0), np.full(3, 3e38, np.float32))
        assert values[2] == np.inf


@pytest.mark.parametrize("initial", [0.25, 7.0, np.inf])
def test_initial_stands_in_where_the_statistic_is_zero(initial):
    norms = np.array([0, 0, 0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 0], np.float32)
    median = thresholds.window_percentile(50.0, window=3, warmup=0, initial=initial)
    values, _, _ = replay(median, norms)
    expected = np.where([0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0], 2.0, initial)
    np.testing.assert_array_equal(values, expected)
    mean = thresholds.moving_mean(1.0, window=3, warmup=0, initial=initial)
    values, _, _ = replay(mean, norms)
    np.testing.assert_array_equal(values[[0, 1, 2, 3, 4, 11, 12]], [initial] * 7)
    assert (values[5:11] > 0).all() and (values[5:11] < 3).all()


def test_initial_stands_in_before_the_first_finite_norm():
    norms = np.full(4, np.nan, np.float32)
    for policy in (
        thresholds.window_percentile(warmup=0, initial=3.0),
        thresholds.moving_mean(warmup=0, initial=3.0),
        thresholds.decayed(3.0, 0.5),
    ):
        np.testing.assert_array_equal(replay(policy, norms)[0], np.full(4, 3.0))


# Conversions.


def value_of(policy, norm: Any = 1.0, step=0):
    norm = jnp.asarray(norm, jnp.float32)
    threshold, _ = policy.update(
        norm, policy.init(jnp.zeros_like(norm)), step=step, param_norm=None
    )
    return threshold


@pytest.mark.parametrize(
    "number", [2, 2.0, np.float32(2), np.int64(2), np.asarray(2.0), jnp.asarray(2), jnp.float16(2)]
)
def test_number_is_a_constant_policy(number):
    policy = thresholds.as_policy("max_norm", number)
    assert isinstance(policy, clipax.ThresholdPolicy)
    for step in (0, 100):
        threshold = value_of(policy, [1.0, 9.0], step)
        assert float(threshold) == 2.0 and threshold.dtype == jnp.float32
    assert policy.init(jnp.zeros(3)) == ()


def test_infinity_and_zero_are_thresholds():
    for number in (0, 0.0, np.inf, float("inf")):
        assert float(value_of(thresholds.as_policy("max_norm", number))) == number


@pytest.mark.parametrize(
    "schedule",
    [
        optax.linear_schedule(4.0, 1.0, 100),
        lambda step: 4.0 - 0.03 * step,
        lambda step: jnp.asarray(4 - 0.03 * step, jnp.bfloat16),
    ],
    ids=["optax", "python", "bfloat16"],
)
def test_schedule_is_followed_by_the_step(schedule):
    policy = thresholds.as_policy("max_norm", schedule)
    threshold = value_of(policy, [1.0, 9.0], 50)
    assert float(threshold) == pytest.approx(2.5) and threshold.dtype == jnp.float32
    norms = np.ones(101, np.float32)
    expected = 4.0 - 0.03 * np.arange(101)
    np.testing.assert_allclose(replay(policy, norms)[0], expected, rtol=1e-2)


def test_policy_is_itself():
    policy = thresholds.moving_mean()
    assert thresholds.as_policy("max_norm", policy) is policy


@pytest.mark.parametrize(
    "wrong",
    ["1.0", None, [1.0], (1.0, 2.0), {"w": 1.0}, True, 1j, optax.adam(1e-3), jnp.ones(2)],
    ids=lambda x: type(x).__name__,
)
def test_wrong_kind_of_threshold_is_refused_by_name(wrong):
    with pytest.raises(TypeError, match=r"`max_norm` must be a number, a schedule .*Policy, got"):
        thresholds.as_policy("max_norm", wrong)


@pytest.mark.parametrize("wrong", [-1, -1e-30, np.nan, -np.inf, np.float32(-1)])
def test_number_that_is_no_threshold_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=r"`max_norm` must be in \[0, inf\], got"):
        thresholds.as_policy("max_norm", wrong)


BAD = [
    (thresholds.window_percentile, {"percentile": 950}, ValueError, "percentile"),
    (thresholds.window_percentile, {"percentile": -1}, ValueError, "percentile"),
    (thresholds.window_percentile, {"percentile": np.nan}, ValueError, "percentile"),
    (thresholds.window_percentile, {"percentile": jnp.asarray(5.0)}, TypeError, "percentile"),
    (thresholds.window_percentile, {"window": 0}, ValueError, "window"),
    (thresholds.window_percentile, {"window": 2.5}, TypeError, "window"),
    (thresholds.window_percentile, {"multiplier": 0}, ValueError, "multiplier"),
    (thresholds.window_percentile, {"warmup": -1}, ValueError, "warmup"),
    (thresholds.window_percentile, {"initial": -1.0}, ValueError, "initial"),
    (thresholds.moving_mean, {"multiplier": -2}, ValueError, "multiplier"),
    (thresholds.moving_mean, {"window": True}, TypeError, "window"),
    (thresholds.moving_mean, {"warmup": np.nan}, ValueError, "warmup"),
    (thresholds.moving_mean, {"initial": "x"}, TypeError, "initial"),
    (thresholds.decayed, {"initial": np.inf}, ValueError, "initial"),
    (thresholds.decayed, {"initial": 1.0, "decay": 0.0}, ValueError, "decay"),
    (thresholds.decayed, {"initial": 1.0, "decay": 1.001}, ValueError, "decay"),
    (thresholds.decayed, {"initial": 1.0, "every": 0}, ValueError, "every"),
    (thresholds.decayed, {"initial": 1.0, "floor": -1}, ValueError, "floor"),
    (thresholds.decayed, {"initial": 1.0, "clip_rate": 1.5}, ValueError, "clip_rate"),
    (thresholds.decayed, {"initial": 1.0, "window": 0}, ValueError, "window"),
    (thresholds.by_group, {"thresholds": [1.0, -1.0]}, ValueError, r"thresholds\[1\]"),
    (thresholds.by_group, {"thresholds": ["x"]}, TypeError, r"thresholds\[0\]"),
    (thresholds.scheduled, {"schedule": 1.0}, TypeError, "schedule"),
]


@pytest.mark.parametrize(
    ("make", "kwargs", "kind", "name"), BAD, ids=lambda x: getattr(x, "__name__", None)
)
def test_bad_argument_is_refused_by_name(make, kwargs, kind, name):
    with pytest.raises(kind, match=f"`{name}` must"):
        make(**kwargs)


# Groups.


def test_each_group_has_the_threshold_of_its_own_policy():
    parts = [2.0, optax.linear_schedule(4.0, 1.0, 100), thresholds.moving_mean(window=5)]
    parts.append(thresholds.window_percentile(50.0, window=5))
    norms = np.stack([series(seed, 200) for seed in range(4)], axis=1)
    values, _, _ = replay(thresholds.by_group(parts), norms)
    for i, part in enumerate(parts):
        single, _, _ = replay(thresholds.as_policy("one", part), norms[:, i])
        np.testing.assert_allclose(values[:, i], single, rtol=1e-6)


def test_number_of_groups_must_be_that_of_the_thresholds():
    policy = thresholds.by_group([1.0, 2.0])
    for shape in ((), (3,), (1,), (2, 2)):
        with pytest.raises(ValueError, match="`thresholds` must have one entry a group"):
            policy.init(jnp.zeros(shape))


def test_no_thresholds_serve_no_groups():
    measure = clipax.measures.per_group(lambda path: path)
    result, _ = clipax.clip({}, clipax.clip_by(measure, thresholds.by_group([])))
    assert result == {}


@every_policy
def test_policy_serves_any_shape_elementwise(policy):
    norms = np.stack([series(seed, 300) for seed in range(6)], axis=1)
    single = [replay(policy, norms[:, i]) for i in range(6)]
    expected = np.stack([values for values, _, _ in single], axis=1)
    lasts = jax.tree.map(lambda *xs: np.stack(xs, -1), *(last for _, _, last in single))
    for shape in ((6,), (2, 3)):
        values, _, last = replay(policy, norms.reshape(-1, *shape))
        np.testing.assert_allclose(values.reshape(-1, 6), expected, rtol=1e-6)
        assert jax.tree.structure(last) == jax.tree.structure(lasts)
        for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(lasts), strict=True):
            assert a.shape[a.ndim - len(shape) :] == shape  # the axes of the norms are last
            np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-6)


def test_no_groups_have_no_thresholds():
    for policy in POLICIES.values():
        values, _, _ = replay(policy, np.zeros((3, 0), np.float32))
        assert values.shape == (3, 0)


# Counters.


@pytest.mark.parametrize("name", [name for name in POLICIES if "m" in name or "percentile" in name])
def test_threshold_stays_right_after_the_counter_of_norms_is_full(name):
    policy, norms = POLICIES[name], series(5, 60)
    _, _, state = replay(policy, norms[:30])
    if not hasattr(state, "history"):
        return
    expected, _, _ = replay(policy, norms[30:], state)
    late = optax.tree_utils.tree_set(state, seen=jnp.asarray(LAST - 5, jnp.int32))
    assert int(late.history.seen) == LAST - 5
    values, _, last = replay(policy, norms[30:], late)
    np.testing.assert_array_equal(values, expected)
    assert int(last.history.seen) == LAST


@pytest.mark.parametrize("every", [1, 2, 5])
def test_decay_goes_on_after_the_counter_of_norms_is_full(every):
    policy = thresholds.decayed(3.0, 0.9, every=every)
    late = (LAST - 15) // every * every
    state = policy.init(jnp.zeros(()))
    state = optax.tree_utils.tree_set(state, steps=jnp.asarray(late, jnp.int32))
    values, _, _ = replay(policy, np.ones(60, np.float32), state)
    np.testing.assert_allclose(values, 3 * 0.9 ** (np.arange(60) // every), rtol=TOLERANCE)


def test_threshold_stays_at_the_floor_after_the_counter_of_decays_is_full():
    policy = thresholds.decayed(3.0, 0.999, floor=0.5, clip_rate=0.0, window=3)
    state = policy.init(jnp.zeros(()))
    full = jnp.asarray(LAST - 5, jnp.int32)
    state = optax.tree_utils.tree_set(state, steps=full, decays=full, seen=full)
    values, _, last = replay(policy, np.ones(20, np.float32), state)
    np.testing.assert_array_equal(values, np.full(20, 0.5, np.float32))
    assert int(last.decays) == LAST and int(last.clipped.seen) == LAST


def test_clipper_goes_on_after_its_counter_of_steps_is_full():
    clipper = clipax.global_norm(lambda step: jnp.where(jnp.asarray(step) > 10, 2.0, 1.0))
    gradient = [jnp.asarray([3.0, 4.0])]
    state: Any = clipper.init(gradient)
    state = state._replace(step=jnp.asarray(LAST - 1, jnp.int32))
    for _ in range(4):
        _, state = clipper.update(gradient, state)
        assert float(clipax.metrics(state)["threshold"]) == 2.0
    assert int(state.step) == LAST


# Arguments that are traced.

TRACED = {
    "window_percentile-multiplier": (
        lambda x: thresholds.window_percentile(50.0, multiplier=x, window=9, initial=2.0),
        [0.5, 1.0, 3.0],
    ),
    "window_percentile-initial": (
        lambda x: thresholds.window_percentile(50.0, window=9, warmup=40, initial=x),
        [0.0, 1.0, np.inf],
    ),
    "window_percentile-warmup": (
        lambda x: thresholds.window_percentile(50.0, window=9, warmup=x, initial=7.0),
        [0, 5, 90],
    ),
    "moving_mean-multiplier": (
        lambda x: thresholds.moving_mean(x, window=9, initial=2.0),
        [0.5, 1.0, 3.0],
    ),
    "moving_mean-initial": (
        lambda x: thresholds.moving_mean(2.0, window=9, warmup=20, initial=x),
        [0.5, 1.0, np.inf],
    ),
    "decayed-initial": (lambda x: thresholds.decayed(x, 0.9), [0.0, 1.0, 30.0]),
    "decayed-decay": (lambda x: thresholds.decayed(30.0, x, every=2), [0.5, 0.75, 1.0]),
    "decayed-floor": (lambda x: thresholds.decayed(30.0, 0.9, floor=x), [0.0, 1.0, 100.0]),
    "decayed-clip_rate": (
        lambda x: thresholds.decayed(3.0, 0.9, clip_rate=x, window=9),
        [0.0, 0.5, 1.0],
    ),
    "constant": (thresholds.constant, [0.0, 1.0, np.inf]),
}


@pytest.mark.parametrize(("make", "numbers"), TRACED.values(), ids=list(TRACED))
def test_traced_argument_gives_what_the_number_gives(make, numbers):
    norms = jnp.asarray(series(6, 100))

    def traced(x):
        policy = make(x)
        return _scan(policy, norms, policy.init(jnp.zeros(())))[1][0]

    expected = [replay(make(x), norms)[0] for x in numbers]
    batch = jnp.asarray(numbers)
    np.testing.assert_allclose(jax.jit(jax.vmap(traced))(batch), expected, rtol=TOLERANCE)
    np.testing.assert_allclose(jax.jit(traced)(batch[1]), expected[1], rtol=TOLERANCE)


def injected(make, **kwargs):
    """The thresholds of an injected clipper at each of 60 steps, and the norms."""
    static = ["percentile", "window", "every", "measure", "ord", "axis_name"]
    names = make.__kwdefaults__.keys() | {"percentile"} if make is clipax.adaptive else set()
    names |= set(make.__kwdefaults__)
    clipper = optax.inject_hyperparams(make, static_args=[n for n in static if n in names])
    norms = np.random.default_rng(0).lognormal(size=60).astype(np.float32)

    @jax.jit
    def run(norms):
        transformation = clipper(**kwargs)

        def step(state, norm):
            _, state = transformation.update([norm[None]], state)
            return state, clipax.metrics(state)["threshold"]

        return jax.lax.scan(step, transformation.init([jnp.zeros(1)]), norms)[1]

    return np.asarray(run(jnp.asarray(norms))), norms


def rising(step):
    return 1.0 + 0.25 * step


RISING = 1 + 0.25 * np.arange(60)


def test_schedule_of_the_multiplier_and_of_initial_is_injected_into_adaptive():
    values, norms = injected(
        clipax.adaptive, percentile=50.0, multiplier=rising, initial=rising, window=9, warmup=20
    )
    plain = reference.adaptive(norms, 50.0, multiplier=1.0, window=9, warmup=20, initial=1.0)
    np.testing.assert_allclose(values, plain.threshold * RISING, rtol=TOLERANCE)


def test_schedule_of_the_multiplier_is_injected_into_moving_average():
    values, norms = injected(clipax.moving_average, multiplier=rising, window=9, warmup=2)
    kept, expected = [], []
    for i, norm in enumerate(norms.astype(np.float64)):
        expected.append(RISING[i] * np.mean(kept[-9:]) if i >= 2 else 10.0)
        kept.append(min(norm, expected[-1]))
    np.testing.assert_allclose(values, expected, rtol=TOLERANCE)


def test_schedule_of_the_decay_and_of_initial_is_injected_into_decaying():
    values, _ = injected(clipax.decaying, initial=rising, decay=0.5, every=3)
    np.testing.assert_allclose(values, RISING * 0.5 ** (np.arange(60) // 3), rtol=TOLERANCE)
    values, _ = injected(clipax.decaying, initial=8.0, decay=lambda step: 0.9 + 0.001 * step)
    decay = 0.9 + 0.001 * np.arange(60)
    np.testing.assert_allclose(values, 8 * decay ** np.arange(60), rtol=1e-4)


def test_defaults_are_injected():
    values, norms = injected(clipax.adaptive)
    np.testing.assert_allclose(values, reference.adaptive(norms).threshold, rtol=TOLERANCE)
    values, norms = injected(clipax.moving_average)
    np.testing.assert_allclose(values, reference.moving_average(norms).threshold, rtol=TOLERANCE)
    values, norms = injected(clipax.decaying, initial=8.0, clip_rate=0.1)
    expected = reference.decaying(norms, 8.0, clip_rate=0.1).threshold
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_traced_threshold_that_turns_negative_acts_as_zero():
    gradient = [jnp.asarray([3.0, 4.0])]

    @jax.jit
    def clipped(threshold):
        (result,) = jax.tree.leaves(clipax.clip(gradient, clipax.global_norm(threshold))[0])
        return result

    np.testing.assert_array_equal(clipped(-1.0), np.zeros(2))
    np.testing.assert_allclose(clipped(2.5), [1.5, 2.0], rtol=1e-6)
