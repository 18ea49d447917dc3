"""Thresholds: how large may a group of the gradient be now?

A threshold is a number, a schedule of the step, or a `ThresholdPolicy`: two pure functions that
learn from the norms that pass by.

| policy               | tau                                              | state of a group     |
|----------------------|--------------------------------------------------|----------------------|
| `constant`           | a number                                         | none                 |
| `scheduled`          | a function of the step                           | none                 |
| `by_group`           | one of these for each group                      | that of each         |
| `relative`           | ratio x norm of the parameters                   | none                 |
| `decayed`            | initial x decay^k, k by steps                    | 2 numbers            |
| with `clip_rate`     | the same, k only while much is cut               | window + 4 numbers   |
| `moving_mean`        | multiplier x mean of the last clipped norms      | window + 2 numbers   |
| `exponential_mean`   | multiplier x exponential mean of clipped norms   | 2 numbers            |
| `second_moment`      | root of ratio x mean square of clipped norms     | 1 number             |
| `z_score`            | mean and deviation, where the z-score is large   | warm-up + 3 numbers  |
| `tracked_quantile`   | a quantile, by geometric steps                   | 3 numbers            |
| `window_percentile`  | multiplier x percentile of the last norms        | 2 window + 2 numbers |
| `window_deviation`   | mean + sigmas x deviation of the last norms      | window + 2 numbers   |
| `periodic_median`    | multiplier x median of the last norms, now and then | window + 3 numbers |
| `history_percentile` | percentile of all norms                          | 16,258 numbers       |

Around any of them:

| policy               | tau                                              | state of a group     |
|----------------------|--------------------------------------------------|----------------------|
| `scaled`             | tau x a schedule                                 | that of the policy   |
| `warmup`             | tau x a factor in the first steps                | that of the policy   |
| `capped`             | no more than a number                            | that of the policy   |
| `restarted`          | anew, at a level that lasts                      | twice that, 1 number |

A policy is written elementwise over the norms of its groups and never asks how many there are.
"""

from clipax.thresholds._decay import DecayedState, decayed
from clipax.thresholds._history import HistoryPercentileState, history_percentile
from clipax.thresholds._policy import (
    Threshold,
    ThresholdPolicy,
    as_policy,
    by_group,
    constant,
    scheduled,
)
from clipax.thresholds._relative import SecondMomentState, relative, second_moment
from clipax.thresholds._running import (
    ExponentialMeanState,
    TrackedQuantileState,
    ZScoreState,
    exponential_mean,
    tracked_quantile,
    z_score,
)
from clipax.thresholds._window import (
    MovingMeanState,
    PeriodicMedianState,
    WindowDeviationState,
    WindowPercentileState,
    moving_mean,
    periodic_median,
    window_deviation,
    window_percentile,
)
from clipax.thresholds._wrap import RestartedState, capped, restarted, scaled, warmup

__all__ = [
    "DecayedState",
    "ExponentialMeanState",
    "HistoryPercentileState",
    "MovingMeanState",
    "PeriodicMedianState",
    "RestartedState",
    "SecondMomentState",
    "Threshold",
    "ThresholdPolicy",
    "TrackedQuantileState",
    "WindowDeviationState",
    "WindowPercentileState",
    "ZScoreState",
    "as_policy",
    "by_group",
    "capped",
    "constant",
    "decayed",
    "exponential_mean",
    "history_percentile",
    "moving_mean",
    "periodic_median",
    "relative",
    "restarted",
    "scaled",
    "scheduled",
    "second_moment",
    "tracked_quantile",
    "warmup",
    "window_deviation",
    "window_percentile",
    "z_score",
]
