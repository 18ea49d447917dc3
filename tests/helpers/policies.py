"""Every threshold policy, with what its laws must be told: see `policy_laws`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from policy_laws import SMALLEST

from clipax import thresholds


class Told(NamedTuple):
    """A policy, and the exceptions that are documented.

    Attributes:
        make: the function that builds it.
        policy: what it built.
        by_step: whether the threshold depends on the number of the step.
        stuck_above: whether larger norms that are past hold it up for hundreds of steps.
        stuck_below: whether smaller ones hold it down.
        least: the smallest norms after which it is still positive.
    """

    make: Callable[..., Any]
    policy: thresholds.ThresholdPolicy
    by_step: bool = False
    stuck_above: bool = False
    stuck_below: bool = False
    least: float = SMALLEST


def told(make, *args, by_step=False, stuck_above=False, stuck_below=False, **options):
    return Told(make, make(*args, **options), by_step, stuck_above, stuck_below)


def score(stuck_above=False, **options):
    """A z-score learns from norms that are clipped to less and less above its mean.

    Its mean has no least value: that of norms at the smallest number is rounded to 0.
    """
    policy = thresholds.z_score(**options)
    return Told(thresholds.z_score, policy, False, stuck_above, stuck_below=True, least=1e-34)


falling = optax.linear_schedule(3.0, 0.5, 400)
MEAN = thresholds.exponential_mean(2.0, decay=0.9)
SCORE = thresholds.z_score(decay=0.9)
PARTS = [2.0, falling, MEAN, thresholds.decayed(9.0, 0.99, floor=1.0)] * 4

EVERY = {
    "constant": told(thresholds.constant, 2.0),
    "scheduled": told(thresholds.scheduled, falling, by_step=True),
    "by_group": told(thresholds.by_group, PARTS, by_step=True),
    "relative": told(thresholds.relative, 0.5),
    "decayed": told(thresholds.decayed, 3.0, 0.99, every=3, floor=0.1),
    "decayed_rate": told(thresholds.decayed, 9.0, 0.9, clip_rate=0.2, window=6, floor=0.5),
    "moving_mean": told(thresholds.moving_mean, 2.0, window=8, warmup=3),
    "exponential_mean": told(thresholds.exponential_mean, 2.0, decay=0.9),
    "second_moment": told(thresholds.second_moment, by_step=True),
    "tracked_quantile": told(thresholds.tracked_quantile, 0.5),
    "tracked_quantile_initial": told(thresholds.tracked_quantile, 0.5, rate=0.3, initial=3.0),
    "window_percentile": told(
        thresholds.window_percentile, 90.0, multiplier=2.0, window=8, warmup=3
    ),
    "window_percentile_before": told(
        thresholds.window_percentile, 0.0, window=5, initial=1.0, include_current=False
    ),
    "window_deviation": told(thresholds.window_deviation, window=10, warmup=5),
    "periodic_median": told(thresholds.periodic_median, window=7, early=(2, 5)),
    "history_percentile": told(thresholds.history_percentile, 50.0),
    "scaled": told(thresholds.scaled, MEAN, optax.linear_schedule(2.0, 0.9, 400), by_step=True),
    "warmup": told(thresholds.warmup, MEAN, 10.0, 60, by_step=True),
    "z_score": score(decay=0.9),
    "z_score_mean": score(decay=0.9, mode="mean", skip_update_on_spike=True),
    "capped": told(thresholds.capped, thresholds.restarted(SCORE, 25), 1.5),
    "restarted": told(thresholds.restarted, MEAN, 10, ratio=1.5),
}
# Other settings of the same code.
VARIANTS = {
    "moving_mean_shrinking": told(
        thresholds.moving_mean, 0.9, window=8, initial=2.0, stuck_below=True
    ),
    "adagc_published": told(
        thresholds.exponential_mean, 1.04, warmup=100, stuck_above=True, stuck_below=True
    ),
    "second_moment_once": told(thresholds.second_moment, 4.0, decay=0.9, every=None, by_step=True),
    "z_score_percentile": score(decay=0.9, mode="percentile"),
    "z_score_published": score(outlier=None, spread=0.0, stuck_above=True),
    "history_percentile_largest": told(thresholds.history_percentile, 100.0, stuck_above=True),
    "restarted_adagc": told(
        thresholds.restarted,
        thresholds.exponential_mean(1.04, decay=0.9, warmup=30),
        10,
        ratio=1.5,
    ),
}
