"""What decides each claim of the literature: from the runs of its study to an answer.

A judge gets the grid of its study and returns None where runs that decide are missing.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import hypergeom

from experiments.results import Runs, Square, best
from experiments.standings import decades

HOLDS, PARTLY, FAILS = "holds", "holds in part", "does not hold"
_SURE = 0.05
_NEAR = 1.05
# Test scores in nats a step by Bai, Kolter and Koltun 2018, Table 1.
_PUBLISHED = {"tanh": 8.91, "gru": 8.43, "lstm": 8.45, "temporal convolutional net": 8.10}


class Answer(NamedTuple):
    """What the runs say of a claim.

    Attributes:
        columns: names of the columns of a table.
        rows: its rows; a number may be infinite or NaN.
        verdict: `holds`, `holds in part` or `does not hold`.
        reason: the numbers that decide, in words.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str | float, ...]]
    verdict: str
    reason: str


def clipped_gd(runs: Runs) -> Answer | None:
    """Do iterations grow with the start's gradient without clipping, and not with it?"""
    starts = sorted((_start(runs, place), place) for place in _places(runs, "none", "global_norm"))
    if len({start for start, _ in starts}) < 2:
        return None
    plain, clipped = (
        [_iterations(runs.at(place).where(method=method)) for _, place in starts]
        for method in ("none", "global_norm")
    )
    scale = np.log10([start for start, _ in starts])
    growths = [float(np.polyfit(scale, np.log10(counts), 1)[0]) for counts in (plain, clipped)]
    arrives = all(best(runs.at(place).where(method="global_norm")).usable for _, place in starts)
    return Answer(
        ("gradient at the start", "iterations, gradient descent", "iterations, clipped"),
        [(start, *counts) for (start, _), *counts in zip(starts, plain, clipped, strict=True)],
        _growth_verdict(*growths) if arrives else FAILS,
        f"Iterations grow like the start's gradient to the power {growths[0]:.2f} without "
        f"clipping and {growths[1]:.2f} with it"
        + ("." if arrives else "; from some starts clipped descent does not arrive."),
    )


def _start(runs: Runs, place: str) -> float:
    """Gradient at the start, the median over seeds."""
    plain = runs.at(place).where(method="none", learning_rate=runs.at(place).rates[0])
    return float(np.median([runs.curve(run, "norm")[0] for run in plain]))


def _iterations(runs: Runs) -> float:
    """Iterations at the best setting; where it does not arrive, those it was given."""
    square = best(runs)
    given = len(runs.curve(square.runs[0], "norm"))
    return max(round(min(10 ** square.median("test") - 1, given)), 1)


def _growth_verdict(plain: float, clipped: float) -> str:
    if plain < 0.1 or clipped > plain / 2:
        return FAILS
    return HOLDS if plain >= 0.5 and clipped <= plain / 4 else PARTLY


def memory(runs: Runs) -> Answer | None:
    """Does clipping help more seeds to learn, above all the longest sequences?"""
    places = _places(runs, "none", "global_norm")
    lengths = sorted((place for place in places if "," not in place), key=_length)
    if not lengths:
        return None
    most = {
        (place, method): _most_successful(runs.at(place).where(method=method))
        for place in runs.places
        for method in runs.at(place).distinct("method")
    }
    pairs = [(most[place, "none"], most[place, "global_norm"]) for place in lengths]
    ahead = [plain.failures > clipped.failures for plain, clipped in pairs]
    behind = any(plain.failures < clipped.failures for plain, clipped in pairs)
    chance = _chance(*pairs[-1])
    return Answer(
        ("task", "method", "learning rate", "seeds that learn", "seeds"),
        [
            (place, method, _rate(square), *_successes(square))
            for (place, method), square in most.items()
        ],
        _verdict([any(ahead), ahead[-1] and chance < _SURE and not behind]),
        f"At the longest sequences {_share(pairs[-1][1])} seeds learn with clipping and "
        f"{_share(pairs[-1][0])} without (Fisher's exact test, one-sided: p = {chance:.2g}).",
    )


def _length(place: str) -> int:
    return int(place.rsplit(" ", 1)[1])


def _most_successful(runs: Runs) -> Square:
    squares = [runs.square(learning_rate=rate) for rate in runs.rates]
    return min(squares, key=lambda square: (square.failures, square.median("valid")))


def _successes(square: Square) -> tuple[int, int]:
    return len(square.runs) - square.failures, len(square.runs)


def _share(square: Square) -> str:
    return "{} of {}".format(*_successes(square))


def _chance(plain: Square, clipped: Square) -> float:
    """Probability of so many more successes with clipping if it made no difference."""
    learnt, seeds = _successes(clipped)
    all_learnt, all_seeds = (
        sum(pair) for pair in zip(*map(_successes, (plain, clipped)), strict=True)
    )
    return float(hypergeom.sf(learnt - 1, all_seeds, all_learnt, seeds))


def autoclip(runs: Runs) -> Answer | None:
    """Is the percentile 1 or 10 best, and off worst?"""
    squares = {
        place: {value: best(runs.at(place).where(value=value)) for value in _values(runs, place)}
        for place in _places(runs, "autoclip")
        if {1, 10, 100} <= set(_values(runs, place))
    }
    if not squares:
        return None
    judged = {place: _sweep(by_percentile) for place, by_percentile in squares.items()}
    return Answer(
        ("task", "percentile", "learning rate", "median test score", "lowest", "highest"),
        [
            (place, percentile, _rate(square), square.median("test"), *square.extent("test"))
            for place, by_percentile in squares.items()
            for percentile, square in by_percentile.items()
        ],
        _verdict([part for parts, _ in judged.values() for part in parts]),
        " ".join(f"{place}: {reason}" for place, (_, reason) in judged.items()),
    )


def _values(runs: Runs, place: str) -> list[float]:
    return sorted(runs.at(place).distinct("value"))


def _sweep(squares: dict[float, Square]) -> tuple[list[bool], str]:
    """Whether off is the worst percentile and 1 or 10 the best, and the numbers."""
    order = sorted(squares, key=lambda percentile: squares[percentile].median("test"))
    best, worst = order[0], order[-1]
    apart = _below(squares[best], squares[100], "test")
    reason = (
        f"{best:g} is the best percentile and {worst:g} the worst; the seeds of {best:g} and of "
        f"100 (off) {'do not overlap' if apart else 'overlap'}."
    )
    return [apart and worst == 100, apart and best in (1, 10)], reason


def zclip(runs: Runs) -> Answer | None:
    """Does ZClip train over more learning rates than a fixed threshold, and better at the top?"""
    places = _places(runs, "none", "global_norm", "zclip")
    if not places:
        return None
    runs = runs.at(places[0])
    parts = {method: runs.where(method=method) for method in runs.distinct("method")}
    widths = {method: decades(part) for method, part in parts.items()}
    wider = widths["zclip"] > max(widths["none"], widths["global_norm"])
    highest = _highest_usable(parts)
    plain, fixed, adaptive = (
        parts[name].square(learning_rate=highest) for name in ("none", "global_norm", "zclip")
    )
    better = _below(adaptive, plain, "test") and _below(adaptive, fixed, "test")
    return Answer(
        ("method", "learning rate", "median test score", "seeds that failed", "usable decades"),
        [
            (method, rate, square.median("test"), square.failures, widths[method])
            for method, part in parts.items()
            for rate, square in ((rate, part.square(learning_rate=rate)) for rate in part.rates)
        ],
        _verdict([wider, better]),
        f"No seed fails over {widths['zclip']:.1f} decades with zclip, "
        f"{widths['global_norm']:.1f} with global_norm and {widths['none']:.1f} without clipping; "
        f"at {highest:g}, the highest learning rate that trains, the seeds of zclip "
        f"{'are' if better else 'are not'} all better than those of both others.",
    )


def _highest_usable(parts: dict[str, Runs]) -> float:
    """The highest learning rate at which no seed of one of the methods fails."""
    usable = [
        rate
        for part in parts.values()
        for rate in part.rates
        if part.square(learning_rate=rate).usable
    ]
    return max(usable or parts["zclip"].rates)


def adagc(runs: Runs) -> Answer | None:
    """Has AdaGC fewer spikes of the loss than the others?"""
    others = ("global_norm", "value", "zclip")
    places = _places(runs, "adagc", *others)
    if not places:
        return None
    runs = runs.at(places[0])
    squares = {method: best(runs.where(method=method)) for method in ("adagc", *others)}
    means = {method: _mean(square, "spike_score") for method, square in squares.items()}
    lowest = all(means["adagc"] < means[name] for name in others)
    clear = [_below(squares["adagc"], squares[name], "spike_score") for name in others]
    return Answer(
        ("method", "learning rate", "mean spike score", "lowest", "highest"),
        [
            (method, _rate(square), means[method], *square.extent("spike_score"))
            for method, square in squares.items()
        ],
        _verdict([lowest and all(clear), lowest or any(clear)]),
        f"Share of steps at which the loss jumps: {means['adagc']:.3%} with adagc, "
        + ", ".join(f"{means[name]:.3%} with {name}" for name in others)
        + f"; the seeds of adagc lie below all seeds of {sum(clear)} of the {len(clear)} others.",
    )


def _mean(square: Square, column: str) -> float:
    return float(np.mean([run[column] for run in square.runs]))


def learning_rates(runs: Runs) -> Answer | None:
    """Does clipping widen the usable range of learning rates?"""
    places = _places(runs, "none", "global_norm")
    if not places:
        return None
    plain = [decades(runs.at(place).where(method="none")) for place in places]
    clipped = [_widest(runs.at(place).where(method="global_norm")) for place in places]
    gains = [width - without for without, (width, _) in zip(plain, clipped, strict=True)]
    return Answer(
        ("task", "decades without clipping", "decades with it", "at the threshold", "gain"),
        [
            (place, without, width, threshold, gain)
            for place, without, (width, threshold), gain in zip(
                places, plain, clipped, gains, strict=True
            )
        ],
        _verdict([gain > 0 for gain in gains]),
        " ".join(
            f"{place}: {abs(gain):.1f} decades {'lost' if gain < 0 else 'gained'}."
            for place, gain in zip(places, gains, strict=True)
        ),
    )


def _widest(clipped: Runs) -> tuple[float, float]:
    """Decades of the threshold with the widest range, and the threshold."""
    return max((decades(clipped.where(value=value)), value) for value in clipped.distinct("value"))


def likelihood(runs: Runs) -> Answer | None:
    """Do nets trained with clipping come near the published scores, the gated ones first?"""
    squares = {
        cell: runs.at(f"chorales/reference {cell}").square(method="global_norm")
        for cell in ("tanh", "gru", "lstm")
    }
    if not all(square.runs for square in squares.values()):
        return None
    medians = {cell: square.median("test") for cell, square in squares.items()}
    ratios = {cell: medians[cell] / _PUBLISHED[cell] for cell in squares}
    near = all(ratio <= _NEAR for ratio in ratios.values())
    lines = [
        (cell, _PUBLISHED[cell], medians[cell], *square.extent("test"), square.failures)
        for cell, square in squares.items()
    ]
    others = [
        (name, score, *[math.nan] * 4) for name, score in _PUBLISHED.items() if name not in squares
    ]
    return Answer(
        ("net", "published", "median test score here", "lowest", "highest", "seeds that failed"),
        lines + others,
        _verdict([near, max(medians["gru"], medians["lstm"]) < medians["tanh"]]),
        "In nats a step, relative to the published score: "
        + ", ".join(f"{cell} {ratio - 1:+.1%}" for cell, ratio in ratios.items())
        + ".",
    )


def _places(runs: Runs, *methods: str) -> list[str]:
    """Variants, `TASK/VARIANT`, on which all of the methods were run."""
    wanted = set(methods)
    return [place for place in runs.places if wanted <= set(runs.at(place).distinct("method"))]


def _rate(square: Square) -> float:
    return square.runs[0]["learning_rate"]


def _below(one: Square, other: Square, column: str) -> bool:
    """Whether every seed of one lies below every seed of the other."""
    return one.extent(column)[1] < other.extent(column)[0]


def _verdict(parts: Sequence[bool]) -> str:
    return HOLDS if all(parts) else PARTLY if any(parts) else FAILS
