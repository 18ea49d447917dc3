"""The published thresholds and their clippers against float64 references, over rough series.

Three of them decide: is the norm above tau, its z-score above z, above twice the threshold? What
follows jumps there, and float32 may decide otherwise than float64 where the two sides are nearly
equal. The series are such that none of these decisions is that near, and each test asserts it; the
tolerance is the same for all.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import reference_methods as methods
from norm_series import follow, heavy_tailed
from rows import sampled

import clipax
from clipax import thresholds

TOLERANCE = 1e-5  # of float32 after five hundred steps
MARGIN = 1e-5  # twenty times what float32 makes of the sides of a comparison

SERIES = {
    "zeros-0": heavy_tailed(0),
    "zeros-1": heavy_tailed(1),
    "nonzero": heavy_tailed(2, zeros=False),
}


def both(policy, reference, **settings):
    """A policy and its reference, which have the same settings."""
    return policy(**settings), functools.partial(reference, **settings)


def window(percentile, size, **settings):
    return (
        thresholds.window_percentile(percentile, window=size, **settings),
        functools.partial(methods.percentile_of_window, percentile, size, **settings),
    )


def around(wrap, reference_wrap, inner, *settings):
    policy, reference = inner
    return wrap(policy, *settings), lambda: reference_wrap(reference(), *settings)


MEAN = both(thresholds.exponential_mean, methods.exponential_mean, multiplier=2.0)
SCORE = (thresholds.z_score, methods.z_score)
PUBLISHED = {"outlier": None, "spread": 0.0}

POLICIES = {
    "all-smallest": both(thresholds.history_percentile, methods.percentile_of_all, percentile=0.0),
    "all-largest": both(thresholds.history_percentile, methods.percentile_of_all, percentile=100.0),
    "window-10": window(10.0, 50),
    "window-90": window(90.0, 1000),
    "window-before": window(25.0, 64, include_current=False),
    "median": both(thresholds.periodic_median, methods.periodic_median),
    "median-short": both(
        thresholds.periodic_median, methods.periodic_median, multiplier=1.3, window=7, early=(2, 5)
    ),
    "deviation": both(thresholds.window_deviation, methods.deviation),
    "deviation-short": both(
        thresholds.window_deviation, methods.deviation, sigmas=1.0, window=10, warmup=30
    ),
    "mean-OLMo": MEAN,
    "mean-AdaGC": both(
        thresholds.exponential_mean, methods.exponential_mean, multiplier=1.04, warmup=100
    ),
    "score": both(*SCORE),
    "score-mean": both(*SCORE, mode="mean"),
    "score-percentile": both(*SCORE, mode="percentile", z=1.5),
    "score-factor": both(*SCORE, clip_factor=0.8, decay=0.9, warmup=40),
    "score-skip": both(*SCORE, skip_update_on_spike=True),
    "score-published": both(*SCORE, **PUBLISHED),
    "score-published-percentile": both(*SCORE, mode="percentile", **PUBLISHED),
    "score-spread": both(*SCORE, spread=0.5, outlier=3.0),
    "quantile": both(thresholds.tracked_quantile, methods.quantile),
    "quantile-slow": both(
        thresholds.tracked_quantile, methods.quantile, target=0.9, rate=0.02, initial=3.0
    ),
    "moment": both(thresholds.second_moment, methods.second_moment),
    "moment-busy": both(
        thresholds.second_moment, methods.second_moment, ratio=4.0, every=100, warmup=7
    ),
    "moment-once": both(
        thresholds.second_moment, methods.second_moment, ratio=2.0, every=None, decay=0.9
    ),
    "warmup": around(thresholds.warmup, methods.warmed, MEAN, 10.0, 60),
    "capped": around(thresholds.capped, methods.capped, both(*SCORE), 1.5),
    "scaled": (
        thresholds.scaled(MEAN[0], optax.linear_schedule(2.0, 0.5, 400)),
        lambda: methods.scaled(MEAN[1](), lambda step: 2.0 - 1.5 * min(step / 400, 1.0)),
    ),
    "restarted-score": (
        thresholds.restarted(thresholds.z_score(), 25),
        lambda: methods.restarted(methods.z_score, 25),
    ),
    "restarted-mean": (
        thresholds.restarted(thresholds.exponential_mean(1.04, warmup=30), 10, ratio=1.5),
        lambda: methods.restarted(
            functools.partial(methods.exponential_mean, 1.04, warmup=30), 10, 1.5
        ),
    ),
}
# The others are the same code with other numbers, or the policy of a clipper below.
EACH = (
    "all-smallest", "window-before", "median", "deviation", "mean-OLMo", "score-mean",
    "score-percentile", "score-factor", "quantile", "quantile-slow", "moment-busy", "warmup",
    "capped", "scaled", "restarted-mean",
)  # fmt: skip


@sampled("both", POLICIES, EACH)
def test_threshold_is_that_of_the_reference(both):
    policy, reference = both
    found, _ = follow(policy, np.stack(list(SERIES.values()), axis=1))
    for i, (name, norms) in enumerate(SERIES.items()):
        expected = methods.trace(reference(), norms)
        assert expected.margin > MARGIN, name
        np.testing.assert_allclose(found[:, i], expected.threshold, rtol=TOLERANCE, err_msg=name)


CLIPPERS = {
    "autoclip-smallest": (clipax.autoclip(0.0), lambda: methods.percentile_of_all(0.0)),
    "autoclip-window": (
        clipax.autoclip(10.0, window=100),
        lambda: methods.percentile_of_window(10.0, 100),
    ),
    "autoclip-before": (
        clipax.autoclip(50.0, window=20, include_current=False),
        lambda: methods.percentile_of_window(50.0, 20, include_current=False),
    ),
    "zclip": (clipax.zclip(), methods.zclip),
    "zclip-free": (clipax.zclip(max_norm=None), lambda: methods.zclip(max_norm=None)),
    "zclip-published": (
        clipax.zclip(max_norm=None, restart=None),
        lambda: methods.zclip(max_norm=None, restart=None),
    ),
    "zclip-low": (
        clipax.zclip(decay=0.5, restart=3, warmup=5),
        lambda: methods.zclip(decay=0.5, restart=3, warmup=5),
    ),
    "zclip-eager": (
        clipax.zclip(1.5, mode="percentile", max_norm=20.0, restart=6, warmup=9),
        lambda: methods.zclip(z=1.5, mode="percentile", max_norm=20.0, restart=6, warmup=9),
    ),
    "olmo": (
        clipax.olmo(1.5, decay=0.95),
        lambda: methods.exponential_mean(1.5, decay=0.95),
    ),
    "olmo-warmup": (
        clipax.per_leaf(thresholds.warmup(thresholds.exponential_mean(2.0), 10.0, 100)),
        lambda: methods.warmed(methods.exponential_mean(2.0), 10.0, 100),
    ),
    "quantile": (clipax.quantile(0.8), lambda: methods.quantile(0.8)),
    "median": (clipax.median(1.5), lambda: methods.periodic_median(1.5)),
    "history_sigma": (clipax.history_sigma(2.0), lambda: methods.deviation(2.0)),
}
DIRECTION = np.array([0.6, -0.8], np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _clip_series(clipper, norms):
    def step(state, norm):
        updates, state = clipper.update([norm * DIRECTION], state)
        return state, updates[0]

    return jax.lax.scan(step, clipper.init([jnp.zeros(2)]), norms)[1]


OTHERS = {"autoclip-smallest", "autoclip-window", "zclip-free", "zclip-eager", "olmo-warmup"}


@sampled("both", CLIPPERS, CLIPPERS.keys() - OTHERS)
def test_clipped_gradient_is_that_of_the_reference(both):
    clipper, reference = both
    for name, norms in SERIES.items():
        expected = methods.trace(reference(), norms)
        assert expected.margin > MARGIN, name
        clipped = expected.threshold < norms
        assert clipped.any() and not clipped.all()
        kept = np.minimum(norms, expected.threshold)
        found = _clip_series(clipper, jnp.asarray(norms))
        np.testing.assert_allclose(
            found, kept[:, None] * np.float64(DIRECTION), rtol=TOLERANCE, err_msg=name
        )
