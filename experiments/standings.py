"""The statistics of a leaderboard: interquartile means, ranks and profiles with their intervals.

Scores of tasks are put on one scale: 1 is the best median of all methods, 0 a model that has
learnt nothing, and so is a run that failed. Intervals are those of the bootstrap with 95 %, which
draws seeds anew within each task, as in Agarwal, Schwarzer, Castro, Courville, Bellemare, *Deep
reinforcement learning at the edge of the statistical precipice*, NeurIPS 2021,
https://arxiv.org/abs/2108.13264.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from statistics import mean, median
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, rankdata, trim_mean

from experiments.results import Run, Runs, Square

Scores = Mapping[str, np.ndarray]
Statistic = Callable[..., np.ndarray]
BETTER, WORSE, SAME, ALONE = "better", "worse", "no difference seen", "not compared"
_BASELINE = "none"
_DRAWS, _BATCH, _LEVEL = 2000, 250, 0.95
_TAUS = np.linspace(0, 1, 101)


class Estimate(NamedTuple):
    """A number and its interval; the ends are NaN where a task has fewer than two seeds."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What a difference says: better where it is surely above 0, worse where below."""
        return BETTER if self.low > 0 else WORSE if self.high < 0 else SAME


class Profile(NamedTuple):
    """Share of the runs that score above `taus`, and its interval, arrays of one length."""

    taus: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Standing(NamedTuple):
    """A line of the leaderboard.

    Attributes:
        method: name of the method.
        tuned: interquartile mean of its scores with the argument chosen on the grid.
        default: the same with its default arguments.
        rank: rank by the median, a mean over tasks; 1 is best.
        failed: share of the runs of the grid that failed.
        decades: width of the usable learning rates at the chosen argument, a median over tasks.
        spikes: share of steps at which the loss jumped, a mean over the chosen runs.
        overhead: time an update relative to `none`, a median over tasks; NaN without `none`.
        verdict: on the difference of `tuned` from `none`, with the same seeds on both sides.
    """

    method: str
    tuned: Estimate
    default: Estimate
    rank: Estimate
    failed: float
    decades: float
    spikes: float
    overhead: float
    verdict: str


def interquartile_mean(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of the middle half of all seeds of all tasks, over the last axis."""
    return trim_mean(np.concatenate(scores, axis=-1), 0.25, axis=-1)


def estimate(scores_by_task: Scores) -> Estimate:
    """Interquartile mean of scores `[seed]` by task."""
    scores = list(scores_by_task.values())
    return Estimate(*map(float, _interval(lambda *drawn: interquartile_mean(drawn), scores)))


def difference(first: Scores, second: Scores) -> Estimate:
    """Interquartile mean of `first` less that of `second`, which have tasks and seeds in common."""
    pairs = [np.stack([first[task], second[task]]) for task in first]

    def gap(*drawn: np.ndarray) -> np.ndarray:
        one, other = interquartile_mean(drawn)
        return np.asarray(one - other)

    return Estimate(*map(float, _interval(gap, pairs)))


def gain(first: Square, second: Square) -> Estimate:
    """Median test score of `second` less that of `first`, on the seeds that both have."""
    tests = [{run["seed"]: _test(run) for run in square.runs} for square in (first, second)]
    common = sorted(tests[0].keys() & tests[1].keys())
    pair = np.array([[each[seed] for seed in common] for each in tests])

    def statistic(drawn: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # both failed: infinity less infinity
            return np.diff(np.median(drawn, axis=-1), axis=0)[0]

    return Estimate(*map(float, _interval(statistic, [pair])))


def _interval(statistic: Statistic, scores: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """A statistic of scores `[..., seed]`, one array a task, and the ends of its interval.

    `statistic` gets arrays `[..., draw, seed]` and returns `[..., draw]`.
    """
    # Numbers of seeds are drawn, not scores: all methods of a task then share their seeds.
    seeds = [np.arange(each.shape[-1]) for each in scores]

    def on_seeds(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(*(each[..., i] for each, i in zip(scores, drawn, strict=True)))

    value = on_seeds(*seeds)
    if min(map(len, seeds)) < 2:
        unknown = np.full_like(value, math.nan)
        return value, unknown, unknown
    found = bootstrap(
        seeds, on_seeds, n_resamples=_DRAWS, batch=_BATCH, vectorized=True, paired=False, axis=-1,
        confidence_level=_LEVEL, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return value, found.low, found.high


def normalised(tests: np.ndarray, trivial: float, best: float) -> np.ndarray:
    """Test scores, infinite for failed runs, on the scale from 0 (`trivial`) to 1 (`best`)."""
    if not best < trivial:
        return np.zeros_like(tests)
    return np.maximum((trivial - tests) / (trivial - best), 0)


def decades(runs: Runs) -> float:
    """Width of the longest unbroken range of learning rates at which no seed failed."""
    widest, start = 0.0, None
    for rate in runs.rates:
        start = (start or rate) if runs.square(learning_rate=rate).usable else None
        widest = max(widest, round(math.log10(rate / start), 9)) if start else widest
    return widest


class Leaderboard:
    """What the runs of one part of a table say of its methods.

    Args:
        runs: runs with the stages `grid`, `chosen` and `default`; each run once.
    """

    def __init__(self, runs: Runs):
        self._runs = runs
        self.methods: list[str] = runs.distinct("method")

    @cached_property
    def tasks(self) -> list[str]:
        """Variants, `TASK/VARIANT`, that all methods have finished."""
        return [place for place in self._runs.places if self._is_complete(place)]

    def _is_complete(self, place: str) -> bool:
        runs = self._runs.at(place)
        found = [
            set(runs.where(method=method, stage=stage).distinct("seed"))
            for method in self.methods
            for stage in ("chosen", "default")
        ]
        return bool(found[0]) and all(seeds == found[0] for seeds in found)

    def scores(self, method: str, stage: str = "chosen") -> dict[str, np.ndarray]:
        """Scores `[seed]` of a method by task; 1 is the best median, 0 has learnt nothing."""
        row = self.methods.index(method)
        return {task: scores[row] for task, scores in self._scores[stage].items()}

    @cached_property
    def _scores(self) -> dict[str, dict[str, np.ndarray]]:
        return {
            stage: {task: self._on_scale(task, stage) for task in self.tasks}
            for stage in ("chosen", "default")
        }

    def _on_scale(self, task: str, stage: str) -> np.ndarray:
        """Scores `[method, seed]`."""
        trivial = next(iter(self._runs.at(task)))["trivial"]
        best = np.median(self._tests(task, "chosen"), axis=1).min()
        return normalised(self._tests(task, stage), trivial, float(best))

    def _tests(self, task: str, stage: str) -> np.ndarray:
        """Test scores `[method, seed]`, infinite for failed runs."""
        runs = self._runs.at(task).where(stage=stage)
        rows = [
            sorted(runs.where(method=method), key=lambda run: run["seed"])
            for method in self.methods
        ]
        return np.array([[_test(run) for run in row] for row in rows])

    def standings(self) -> list[Standing]:
        """All methods, from the best interquartile mean to the worst."""
        if not self.tasks:
            return []
        tuned, default = (self._estimates(stage, _means) for stage in ("chosen", "default"))
        ranks = self._estimates("chosen", _ranks)
        lines = [
            Standing(
                method,
                tuned[row],
                default[row],
                ranks[row],
                self._failed(method),
                median(decades(self._at_chosen(task, method)) for task in self.tasks),
                self._spikes(method),
                median(self._overhead(task, method) for task in self.tasks),
                self._verdict(method),
            )
            for row, method in enumerate(self.methods)
        ]
        return sorted(lines, key=lambda line: (-line.tuned.value, line.rank.value))

    def _estimates(self, stage: str, statistic: Statistic) -> list[Estimate]:
        scores = list(self._scores[stage].values())
        rows = np.transpose(_interval(statistic, scores)).tolist()
        return [Estimate(*row) for row in rows]

    def _verdict(self, method: str) -> str:
        if method == _BASELINE or _BASELINE not in self.methods:
            return ALONE
        return difference(self.scores(method), self.scores(_BASELINE)).verdict

    def _failed(self, method: str) -> float:
        runs = [self._runs.at(task).where(method=method, stage="grid") for task in self.tasks]
        return mean(run["failed"] for part in runs for run in part)

    def _at_chosen(self, task: str, method: str) -> Runs:
        runs = self._runs.at(task).where(method=method)
        arguments = next(iter(runs.where(stage="chosen")))["arguments"]
        return runs.where(stage="grid", arguments=arguments)

    def _spikes(self, method: str) -> float:
        runs = [self._runs.at(task).where(method=method, stage="chosen") for task in self.tasks]
        return mean(run["spike_score"] for part in runs for run in part)

    def _overhead(self, task: str, method: str) -> float:
        if _BASELINE not in self.methods:
            return math.nan
        one, other = (
            self._runs.at(task).square(method=name).median("step_seconds")
            for name in (method, _BASELINE)
        )
        return one / other

    def profile(self, method: str) -> Profile:
        """Share of the chosen runs of a method that score above each of a grid of scores."""
        scores = list(self.scores(method).values())
        return Profile(_TAUS, *_interval(_shares, scores))


def _test(run: Run) -> float:
    return math.inf if run["failed"] or not math.isfinite(run["test"]) else run["test"]


def _means(*scores: np.ndarray) -> np.ndarray:
    return interquartile_mean(scores)


def _ranks(*scores: np.ndarray) -> np.ndarray:
    """Ranks by the median of scores `[method, ..., seed]`, equal ones shared, a mean over tasks."""
    return np.mean([rankdata(-np.median(task, axis=-1), axis=0) for task in scores], axis=0)


def _shares(*scores: np.ndarray) -> np.ndarray:
    together = np.concatenate(scores, axis=-1)
    return np.array([(together > tau).mean(-1) for tau in _TAUS])
