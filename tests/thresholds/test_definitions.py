"""The thresholds against their definitions in numpy, over long series of norms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from norm_series import follow
from replays import LARGEST, TOLERANCE, series
from rows import sampled

import clipax
from clipax import thresholds

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


EACH = (
    "adaptive-default", "adaptive-least", "adaptive-one", "adaptive-late",
    "moving_average-default", "moving_average-free", "decaying-steps", "decaying-every",
    "decaying-rate", "decaying-rate_every",
)  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _clip_series(clipper, norms):
    def step(state, norm):
        gradient = {"w": norm[None]}
        _, state = clipper.update(gradient, state)
        values = clipax.metrics(state)
        return state, (values["threshold"], values["factor"])

    return jax.lax.scan(step, clipper.init({"w": jnp.zeros(1)}), norms)


@sampled("setting", SETTINGS, EACH)
def test_threshold_is_that_of_the_definition_at_every_step(setting):
    kind, args, kwargs = setting
    definition = NAMED[kind][2]
    norms = np.stack([series(0), series(1)], axis=1)
    values, _ = follow(policy_of(kind, args, kwargs), norms)
    assert values.dtype == np.float32
    for i in range(2):
        expected = definition(norms[:, i], *args, **kwargs).threshold
        np.testing.assert_allclose(values[:, i], expected, rtol=TOLERANCE)


OF_CLIPPERS = ("adaptive-default", "adaptive-median", "moving_average-late", "decaying-rate")


@sampled(
    "setting", {name: SETTINGS[name] for name in OF_CLIPPERS}, (OF_CLIPPERS[0], *OF_CLIPPERS[2:])
)
def test_clipper_has_the_threshold_of_the_definition_and_clips_above_it(setting):
    kind, args, kwargs = setting
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
        np.testing.assert_allclose(follow(policy, norms)[0], expected, rtol=TOLERANCE)
