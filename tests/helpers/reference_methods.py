"""The published thresholds in plain float64 numpy, written from their papers and sources.

A *step* takes the norm of one step and returns the threshold for it, and how near a decision came
to falling the other way: the least relative distance between the two sides of a comparison at which
what follows jumps. Thresholds that are continuous in the norms have no such comparison, and `inf`.

Nothing here is shared with the package that it checks.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Step = Callable[[float], tuple[float, float]]

NO_DECISION = np.inf


class Trace(NamedTuple):
    """The threshold of each step, and the nearest decision of all."""

    threshold: np.ndarray
    margin: float


def trace(step: Step, norms) -> Trace:
    """Follow a series of norms.

    >>> trace(deviation(sigmas=1.0, warmup=2), [1.0, 3.0, 5.0]).threshold
    array([inf, inf,  3.])
    """
    pairs = np.array([step(float(norm)) for norm in np.asarray(norms, np.float64)])
    return Trace(pairs[:, 0], float(pairs[:, 1].min()))


def distance(left: float, right: float) -> float:
    """How far apart two sides of a comparison are, as a share of the larger."""
    if not (np.isfinite(left) and np.isfinite(right)):
        return NO_DECISION
    return abs(left - right) / max(abs(left), abs(right), 1e-300)


# Percentiles and medians.


def percentile_of_all(percentile: float = 10.0) -> Step:
    """AutoClip: the percentile of all norms, the current one included; zeros do not enter."""
    seen: list[float] = []

    def step(norm):
        if norm > 0:
            seen.append(norm)
        return (float(np.percentile(seen, percentile)) if seen else np.inf), NO_DECISION

    return step


def percentile_of_window(percentile: float, window: int, *, include_current: bool = True) -> Step:
    """The percentile of the last norms, zeros too; `inf` where it is 0 or there are none."""
    seen: list[float] = []

    def step(norm):
        known = [*seen, norm] if include_current else list(seen)
        seen.append(norm)
        found = float(np.percentile(known[-window:], percentile)) if known else 0.0
        return found or np.inf, NO_DECISION

    return step


def periodic_median(multiplier: float = 2.0, window: int = 100, early=(10, 20, 40)) -> Step:
    """ScaledAdam: a multiple of the median of each period, doubled at the early steps.

    >>> trace(periodic_median(2.0, window=4, early=(2,)), [5.0, 3.0, 1.0, 4.0]).threshold
    array([inf, 12., 12.,  8.])
    """
    seen: list[float] = []
    threshold = np.inf

    def median(norms):
        return sorted(norms)[min(len(norms) - 1, 2 * (len(norms) // 4))]

    def step(norm):
        nonlocal threshold
        seen.append(norm)
        count = len(seen)
        if count % window == 0:
            threshold = multiplier * median(seen[-window:]) or np.inf
        elif count < window and count in early:
            threshold = 2 * multiplier * median(seen) or np.inf
        return threshold, NO_DECISION

    return step


def deviation(
    sigmas: float = 3.0, window: int = 128, warmup: int = 64, min_sigma: float = 1e-6
) -> Step:
    """Levanter: mean and population deviation of the norms before the current one."""
    seen: list[float] = []

    def step(norm):
        known = seen[-window:]
        count = len(seen)
        seen.append(norm)
        if count < warmup or not np.mean(known):
            return np.inf, NO_DECISION
        return float(np.mean(known) + sigmas * max(np.std(known), min_sigma)), NO_DECISION

    return step


# Running numbers.


def exponential_mean(multiplier: float, decay: float = 0.99, warmup: int = 1) -> Step:
    """OLMo, and AdaGC after its warm-up: the average of what was left of the norms.

    It starts as the smallest of the first `warmup` norms, which are not clipped; zeros do not
    enter.
    """
    mean, seen = np.inf, 0

    def step(norm):
        nonlocal mean, seen
        threshold = multiplier * mean if seen >= warmup else np.inf
        if norm > 0:
            kept = min(norm, threshold)
            mean = decay * mean + (1 - decay) * kept if seen >= warmup else min(mean, kept)
            seen += 1
        return threshold, NO_DECISION

    return step


def z_score(
    z: float = 2.5,
    decay: float = 0.97,
    warmup: int = 25,
    eps: float = 1e-6,
    mode: str = "adaptive",
    clip_factor: float = 1.0,
    skip_update_on_spike: bool = False,
    outlier: float | None = 10.0,
    spread: float = 0.01,
) -> Step:
    """ZClip. Published: `outlier=None, spread=0.0`; here zeros do not enter in any case."""
    first: list[float] = []
    mean = variance = 0.0

    def begin():
        nonlocal mean, variance
        limit = np.inf if outlier is None else outlier * np.median(first)
        usual = [norm for norm in first if norm <= limit]
        mean, variance = float(np.mean(usual)), float(np.var(usual))

    def clipped_to(norm):
        sigma = variance**0.5
        if mode == "percentile":
            return mean + z * max(sigma, spread * mean)
        score = (norm - mean) / (max(sigma, spread * mean) + eps)
        return mean if mode == "mean" else clip_factor * (mean + z * z * sigma / score)

    def step(norm):
        nonlocal mean, variance
        if norm == 0:
            return np.inf, NO_DECISION
        if len(first) < warmup:
            first.append(norm)
            if len(first) == warmup:
                begin()
            return np.inf, NO_DECISION
        least = max(variance**0.5, spread * mean)
        edge = mean + z * (least if mode == "percentile" else least + eps)
        stands_out = norm > edge
        threshold = clipped_to(norm) if stands_out else np.inf
        if not (stands_out and skip_update_on_spike):
            entering = threshold if stands_out else norm
            mean = decay * mean + (1 - decay) * entering
            variance = decay * variance + (1 - decay) * (entering - mean) ** 2
        return threshold, distance(norm, edge)

    return step


def zclip(max_norm: float | None = 1.0, restart: int | None = 25, **settings) -> Step:
    """The clipper ZClip: published with `restart=None`, else with the repairs."""

    def make():
        return z_score(**settings)

    if restart is None:
        settings |= {"outlier": None, "spread": 0.0}
        inner = make()
    else:
        inner = restarted(make, restart, 1.0)
    return inner if max_norm is None else capped(inner, max_norm)


def quantile(target: float = 0.5, rate: float = 0.2, initial: float | None = None) -> Step:
    """Andrew et al.: geometric steps towards a quantile; zeros do not enter.

    >>> trace(quantile(0.5, 2.0, 1.0), [9.0, 9.0, 2.0]).threshold.round(4)
    array([1.    , 2.7183, 7.3891])
    """
    threshold = initial

    def step(norm):
        nonlocal threshold
        if norm == 0:
            return (np.inf if threshold is None else threshold), NO_DECISION
        first = threshold is None
        current = norm if first else threshold
        below = norm <= current
        threshold = current * np.exp(-rate * (below - target))
        # The first norm is its own threshold: that comparison is exact.
        return current, NO_DECISION if first else distance(norm, current)

    return step


def second_moment(
    ratio: float = 5000.0, decay: float = 0.999, every: int | None = 500, warmup: int = 20
) -> Step:
    """SPAM: the second moment before the current step, without correction of the bias.

    With t = 1 at the first step, the moment begins anew at each multiple of `every`, before that
    step's norm enters, and nothing is clipped while t or its remainder is below `warmup`.
    """
    moment, count = 0.0, 0

    def step(norm):
        nonlocal moment, count
        count += 1
        phase = count if every is None else count % every
        if every is not None and phase == 0:
            moment = 0.0
        active = count >= warmup and phase >= warmup and moment > 0
        threshold = float(np.sqrt(ratio * moment)) if active else np.inf
        moment = decay * moment + (1 - decay) * min(norm, threshold) ** 2
        return threshold, NO_DECISION

    return step


# Around any of them.


def restarted(make: Callable[[], Step], patience: int = 25, ratio: float = 1.0) -> Step:
    """After `patience` norms in a row above `ratio` thresholds these are all that counts."""
    current, candidate, run = make(), make(), 0

    def step(norm):
        nonlocal current, candidate, run
        threshold, margin = current(norm)
        if norm == 0:
            return threshold, margin
        margin = min(margin, distance(norm, ratio * threshold))
        if not norm > ratio * threshold:
            run = 0
            return threshold, margin
        candidate = make() if run == 0 else candidate
        candidate(norm)
        run += 1
        if run == patience:
            current, run = candidate, 0
        return threshold, margin

    return step


def capped(inner: Step, maximum: float) -> Step:
    """No more than a number, which `inner` does not learn of."""

    def step(norm):
        threshold, margin = inner(norm)
        return min(threshold, maximum), margin

    return step


def scaled(inner: Step, schedule: Callable[[int], float]) -> Step:
    """A multiple by the step from 0, which `inner` does not learn of."""
    count = 0

    def step(norm):
        nonlocal count
        threshold, margin = inner(norm)
        count += 1
        return schedule(count - 1) * threshold, margin

    return step


def warmed(inner: Step, factor: float = 10.0, steps: int = 1000) -> Step:
    """OLMo's warm-up: `factor` times as much in the first steps."""
    return scaled(inner, lambda count: factor if count < steps else 1.0)


def constant(threshold: float) -> Step:
    """A number."""
    return lambda norm: (threshold, NO_DECISION)
