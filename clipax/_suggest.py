"""Which threshold would have suited a run: read from the norms that it left behind."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipax import _validate

_LEAST = 20  # norms that are finite and not zero
_AROUND = 10  # on either side of a step: what a spike and a change of the level are told from
_SPIKE = 5.0  # times the median around it
_CHANGE = 2.0  # times the level before it
_SURE = 5.0  # times the deviation that the difference of two levels has by chance
_GROWTH = 5.0  # of the last tenth over the calmest one
_SUDDEN = 0.1  # of the run: a rise that takes longer is no explosion but the course of the run
_MEANS = (0.5, 1.0, 2.0, 5.0, 10.0)
_PERCENTILES = (10, 50, 90, 95, 99)


class Candidate(NamedTuple):
    """A threshold by one of the methods in use.

    Attributes:
        method: how it is found.
        threshold: the number.
        clip_rate: the share of the finite norms that are above it.
    """

    method: str
    threshold: float
    clip_rate: float


class Suggestion(NamedTuple):
    """What `suggest_threshold` read from a run. Printed, it is a report.

    Attributes:
        threshold: the one to begin with.
        reasons: why, and what else the norms say.
        candidates: thresholds by the methods in use.
        spikes: the steps whose norm is far above those around them, counted from 0.
        changes: the steps at which the norms change to another level.
        nonfinite: the steps whose norm is not finite.
        explosion: the step from which the norms are far above all before and rise until the end.
        diverges: whether the norms grow in the course of the run and to its end, so that clipping
            would only hide a learning rate that is too high.
    """

    threshold: float
    reasons: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    spikes: tuple[int, ...]
    changes: tuple[int, ...]
    nonfinite: tuple[int, ...]
    explosion: int | None
    diverges: bool

    def __str__(self) -> str:
        rows = [
            f"{c.method:<24}{c.threshold:>12.4g}{c.clip_rate:>10.1%}".rstrip()
            for c in self.candidates
        ]
        head = f"{'method':<24}{'threshold':>12}{'clipped':>10}"
        return "\n".join([f"threshold {self.threshold:.4g}", *self.reasons, "", head, *rows])


def suggest_threshold(norms: Sequence[float] | Any) -> Suggestion:
    """Suggest a threshold from the gradient norms of a run.

    It is the 95th percentile of the norms since their last change of level, without spikes and an
    explosion at the end: since then, one calm step in twenty and every spike are clipped.

    A spike is a norm above 5 times the median of the ten norms before it and above 5 times that of
    the ten behind it; of the first and the last ten norms, one side counts. The norms explode where
    the last of them are all above 5 times the median of the run and are lost behind that, or their
    later half is above twice their earlier one. If this takes more than a tenth of the run, it
    diverges; and so it does where the last tenth has the largest median of all, more than 5 times
    that of the calmest, and is above the third from last by more than chance explains.

    The level changes where the geometric means of the ten norms before and the ten behind a step,
    without spikes and zeros, differ by more than a factor of 2, and by more than chance explains.
    It drifts where the medians of its first and its last quarter differ by more than a factor of 2;
    the threshold is then that of the last.

    Args:
        norms: the norms before clipping, one for each step, in order; at least 20 of them finite
            and not zero, an explosion apart. Norms of a run without clipping tell the most.

    Returns:
        A `Suggestion`, with thresholds by the methods in use beside the one suggested: half to ten
        times the mean, as Pascanu et al. advise, percentiles, twice the median, and the mean and
        three standard deviations.

    Raises:
        TypeError: if `norms` is no series of numbers.
        ValueError: if it has another shape than one axis, too few norms, or negative ones.

    Example:
        >>> norms = [1.0 + 0.01 * (step % 7) for step in range(100)]
        >>> norms[60] = 40.0
        >>> found = clipax.suggest_threshold(norms)
        >>> found.threshold, found.spikes, found.diverges
        (1.06, (60,), False)

    References:
        Pascanu, Mikolov, Bengio, *On the difficulty of training recurrent neural networks*, 2013,
        https://arxiv.org/abs/1211.5063
    """
    series = _series(norms)
    finite = np.isfinite(series)
    steps = np.flatnonzero(finite)
    recorded = series[finite]
    end = _explosion(recorded, lost=not finite[-1:].all())
    kept = recorded[:end]
    if np.sum(kept > 0) < _LEAST:
        raise ValueError(
            f"`norms` must have at least {_LEAST} finite norms above 0, got {np.sum(kept > 0)}"
            + (f" before they explode at step {steps[end]}" if end < len(recorded) else "")
        )
    spiked = _spikes(kept)
    calm = ~spiked & (kept > 0)
    changes = _changes(kept[calm])
    level = kept[calm][changes[-1] if changes else 0 :]
    first, *_, last = np.array_split(level, 4)
    drift = (np.median(first), np.median(last))
    drifts = max(drift) > _CHANGE * min(drift)
    level = last if drifts else level
    found = Suggestion(
        threshold=float(np.percentile(level, 95)),
        reasons=(),
        candidates=tuple(_candidates(recorded)),
        spikes=tuple(int(i) for i in steps[:end][spiked]),
        changes=tuple(int(steps[:end][calm][i]) for i in changes),
        nonfinite=tuple(int(i) for i in np.flatnonzero(~finite)),
        explosion=int(steps[end]) if end < len(recorded) else None,
        diverges=len(recorded) - end > _SUDDEN * len(recorded) or _grows(kept[calm]),
    )
    return found._replace(
        reasons=tuple(_reasons(found, recorded, level, drift if drifts else None))
    )


def _series(norms: Any) -> np.ndarray:
    try:
        series = np.asarray(norms, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`norms` must be a series of numbers, got {_validate.shown(norms)}") from (
            error
        )
    if series.ndim != 1:
        raise ValueError(f"`norms` must have one axis, got the shape {series.shape}")
    if np.any(series < 0):
        raise ValueError(f"`norms` must not be negative, got {series[series < 0][0]:g}")
    return series


def _spikes(norms: np.ndarray) -> np.ndarray:
    """Which norms are far above the median of those before and of those behind them.

    Of both: the first norms of a level that lasts are no spikes.
    """
    medians = np.median(_windows(norms), axis=1)
    usual = np.zeros(len(norms))
    usual[_AROUND:] = medians[:-1]
    usual[:-_AROUND] = np.maximum(usual[:-_AROUND], medians[1:])
    return (norms > _SPIKE * usual) & (usual > 0)


def _windows(values: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(values, _AROUND)


def _changes(norms: np.ndarray) -> list[int]:
    """Where the level changes: the largest step first, and no other within ten norms of it."""
    if len(norms) < 2 * _AROUND:
        return []
    windows = _windows(np.log(norms))
    levels = np.mean(windows, axis=1)
    jumps = abs(levels[_AROUND:] - levels[:-_AROUND])
    by_chance = np.median(np.std(windows, axis=1)) * np.sqrt(2 / _AROUND)
    found: list[int] = []
    for i in np.argsort(-jumps, kind="stable"):
        if jumps[i] <= max(np.log(_CHANGE), _SURE * by_chance):
            break
        if all(abs(i + _AROUND - other) > _AROUND for other in found):
            found.append(int(i + _AROUND))
    return sorted(found)


def _explosion(norms: np.ndarray, *, lost: bool) -> int:
    """The place from which the norms are far above all before and rise, or the end."""
    if not np.any(norms > 0):
        return len(norms)
    calm = np.flatnonzero(norms <= _SPIKE * np.median(norms[norms > 0]))
    begin = int(calm[-1]) + 1
    rise = norms[begin:]
    if len(rise) > 2 and not lost:
        lost = np.median(rise[len(rise) // 2 :]) > _CHANGE * np.median(rise[: len(rise) // 2])
    return begin if lost else len(norms)


def _grows(norms: np.ndarray) -> bool:
    """Whether the last tenth is the highest, far above the lowest, and the norms still rise."""
    tenths = np.array_split(np.log(norms), 10)
    medians = [np.median(tenth) for tenth in tenths]
    by_chance = np.median([np.std(tenth) for tenth in tenths]) * np.sqrt(np.pi / len(tenths[-1]))
    rises = medians[-1] - medians[-3] > 3 * by_chance
    return bool(rises and medians[-1] == max(medians) > min(medians) + np.log(_GROWTH))


def _candidates(norms: np.ndarray) -> list[Candidate]:
    mean, median = np.mean(norms), np.median(norms)
    found = {f"{factor:g} times the mean": factor * mean for factor in _MEANS}
    found |= {f"percentile {p}": np.percentile(norms, p) for p in _PERCENTILES}
    found["2 times the median"] = 2 * median
    found["mean and 3 deviations"] = mean + 3 * np.std(norms)
    return [
        Candidate(method, float(value), float(np.mean(norms > value)))
        for method, value in found.items()
    ]


def _reasons(found: Suggestion, norms, level, drift: tuple[float, float] | None) -> list[str]:
    spikes, changes = len(found.spikes), found.changes
    left_out = sum(step >= (changes[-1] if changes else 0) for step in found.spikes)
    since = f" since step {changes[-1]}" if changes else ""
    reasons = [
        f"It is the 95th percentile of {'the last ' if drift else ''}{len(level)} norms{since}"
        + (f", without {_counted(left_out, 'spike')}" if left_out else "")
        + f"; it would have clipped {np.mean(norms > found.threshold):.1%} of the steps."
    ]
    if found.diverges:
        reasons.append(
            "The norms grow until the end: the run seems to diverge. Clipping may only hide a "
            "learning rate that is too high; lower it first."
        )
    elif found.explosion is not None:
        reasons.append(
            f"The norms explode at step {found.explosion}, after which the run does not come back. "
            "The threshold is that of the norms before."
        )
    if changes:
        reasons.append(
            f"The level changes at step {', '.join(map(str, changes[:5]))}"
            + (f" and {len(changes) - 5} others" if len(changes) > 5 else "")
            + ": a threshold that adapts, such as clipax.adaptive(), follows it."
        )
    if drift and not found.diverges:
        reasons.append(
            f"The level drifts from {drift[0]:.3g} to {drift[1]:.3g}: a threshold that adapts, "
            "such as clipax.adaptive(), or a schedule follows it."
        )
    if found.nonfinite:
        reasons.append(
            f"Not finite: {_counted(len(found.nonfinite), 'norm')}, the first at step "
            f"{found.nonfinite[0]}. No threshold acts on that, see the argument `nonfinite`."
        )
    if spikes > 0.05 * len(norms):
        reasons.append(
            f"{spikes / len(norms):.0%} of the steps are spikes: look at the data and the learning "
            "rate before you clip them."
        )
    return reasons


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
