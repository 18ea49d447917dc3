"""The arguments of the thresholds: converted, refused, traced and injected."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from replays import TOLERANCE, replay, scan, series
from rows import sampled

import clipax
from clipax import thresholds

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


# Arguments that are traced.

ALL_TRACED = {
    "window_percentile": (
        lambda x, y, z: thresholds.window_percentile(
            50.0, window=9, multiplier=x, initial=y, warmup=z
        ),
        [(0.5, 0.0, 5), (1.0, np.inf, 0), (3.0, 1.0, 90)],
    ),
    "moving_mean": (
        lambda x, y: thresholds.moving_mean(x, window=9, warmup=20, initial=y),
        [(0.5, 1.0), (1.0, 0.5), (3.0, np.inf)],
    ),
    "decayed": (
        lambda x, y, z: thresholds.decayed(x, y, floor=z, every=2),
        [(0.0, 0.5, 1.0), (30.0, 0.75, 0.0), (1.0, 1.0, 100.0)],
    ),
    "decayed-clip_rate": (
        lambda x: thresholds.decayed(3.0, 0.9, clip_rate=x, window=9),
        [(0.0,), (0.5,), (1.0,)],
    ),
    "constant": (thresholds.constant, [(0.0,), (1.0,), (np.inf,)]),
}


@pytest.mark.parametrize(("make", "numbers"), ALL_TRACED.values(), ids=list(ALL_TRACED))
def test_traced_arguments_give_what_the_numbers_give(make, numbers):
    norms = series(6, 100)

    def traced(*arguments):
        policy = make(*arguments)
        return scan(policy, norms, policy.init(jnp.zeros(())))[1][0]

    expected = [replay(make(*each), norms)[0] for each in numbers]
    columns = [np.float32(column) for column in zip(*numbers, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(traced))(*columns), expected, rtol=TOLERANCE)


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


# `constant` here also without vmap, which the others get alike.
@sampled("made", TRACED, ["constant"])
def test_traced_argument_gives_what_the_number_gives(made):
    make, numbers = made
    norms = jnp.asarray(series(6, 100))

    def traced(x):
        policy = make(x)
        return scan(policy, norms, policy.init(jnp.zeros(())))[1][0]

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
