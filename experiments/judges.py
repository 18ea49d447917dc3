"""What decides each claim of the literature: from the runs of its study to an answer.

A judge gets the grid of its study, complete; `claims.Claim.decides` says in words what it asks.
"""

import numpy as np

from experiments.answers import (
    FAILS,
    HOLDS,
    PARTLY,
    UNDECIDED,
    Answer,
    Mark,
    Picture,
    fewer_failures,
    lower,
    mark,
    verdict,
)
from experiments.results import Runs, Square, best
from experiments.standings import decades

_NEAR = 1.05
# Test scores in nats a step by Bai, Kolter and Koltun 2018, Table 1.
_PUBLISHED = {"tanh": 8.91, "gru": 8.43, "lstm": 8.45, "temporal convolutional net": 8.10}


def clipped_gd(runs: Runs) -> Answer:
    """Do iterations grow with the start's gradient without clipping, and not with it?"""
    starts = sorted((_start(runs, place), place) for place in runs.places)
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
        Picture(
            "gradient at the start",
            "iterations",
            [
                Mark(method, start, count)
                for method, counts in (("none", plain), ("global_norm", clipped))
                for (start, _), count in zip(starts, counts, strict=True)
            ],
            logarithmic=True,
        ),
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


def memory(runs: Runs) -> Answer:
    """Does clipping help more seeds to learn, above all the longest sequences?"""
    lengths = sorted((place for place in runs.places if "," not in place), key=_length)
    most = {
        (place, method): _most_successful(runs.at(place).where(method=method))
        for place in runs.places
        for method in runs.at(place).distinct("method")
    }
    pairs = [(most[place, "none"], most[place, "global_norm"]) for place in lengths]
    ahead, chances = zip(*(fewer_failures(clipped, plain) for plain, clipped in pairs), strict=True)
    gaps = [plain.failures - clipped.failures for plain, clipped in pairs]
    return Answer(
        ("task", "method", "learning rate", "seeds that learn", "seeds"),
        [
            (place, method, _rate(square), *_successes(square))
            for (place, method), square in most.items()
        ],
        verdict([any(ahead), ahead[-1] and gaps[-1] > gaps[0] and min(gaps) >= 0]),
        "Seeds that learn with clipping and without: "
        + "; ".join(
            f"length {_length(place)}, {_share(clipped)} and {_share(plain)} (p = {chance:.2g})"
            for place, (plain, clipped), chance in zip(lengths, pairs, chances, strict=True)
        )
        + ".",
        Picture(
            "task",
            "seeds that learn",
            [
                Mark(method, place.partition("/")[2], _successes(square)[0])
                for (place, method), square in most.items()
            ],
        ),
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


def autoclip(runs: Runs) -> Answer:
    """Is the percentile 1 or 10 best, and off worst?"""
    squares = {
        place: {value: best(runs.at(place).where(value=value)) for value in _values(runs, place)}
        for place in runs.places
    }
    judged = {place: _sweep(by_percentile) for place, by_percentile in squares.items()}
    return Answer(
        ("task", "percentile", "learning rate", "median test score", "lowest", "highest"),
        [
            (place, percentile, _rate(square), square.median("test"), *square.extent("test"))
            for place, by_percentile in squares.items()
            for percentile, square in by_percentile.items()
        ],
        verdict([part for parts, _ in judged.values() for part in parts]),
        " ".join(f"{place}: {reason}" for place, (_, reason) in judged.items()),
        Picture(
            "percentile",
            "test score",
            [
                mark("autoclip", f"{percentile:g}", square, "test", place)
                for place, by_percentile in squares.items()
                for percentile, square in by_percentile.items()
            ],
        ),
    )


def _values(runs: Runs, place: str) -> list[float]:
    return sorted(runs.at(place).distinct("value"))


def _sweep(squares: dict[float, Square]) -> tuple[list[bool], str]:
    """Whether off is the worst percentile and 1 or 10 the best, and the numbers."""
    order = sorted(squares, key=lambda percentile: squares[percentile].median("test"))
    first, last = order[0], order[-1]
    apart = lower(squares[first], squares[100], "test")
    reason = (
        f"{first:g} is the best percentile and {last:g} the worst; {first:g} is "
        f"{'better' if apart else 'not surely better'} than 100 (off)."
    )
    return [apart and last == 100, apart and first in (1, 10)], reason


def zclip(runs: Runs) -> Answer:
    """Does ZClip train over more learning rates than a fixed threshold, and better at the top?"""
    parts = {method: runs.where(method=method) for method in runs.distinct("method")}
    widths = {method: decades(part) for method, part in parts.items()}
    wider = widths["zclip"] > max(widths["none"], widths["global_norm"])
    highest = _highest_usable(parts)
    plain, fixed, adaptive = (
        parts[name].square(learning_rate=highest) for name in ("none", "global_norm", "zclip")
    )
    better = lower(adaptive, plain, "test") and lower(adaptive, fixed, "test")
    tried = any(run["failed"] for run in runs)
    return Answer(
        ("method", "learning rate", "median test score", "seeds that failed", "usable decades"),
        [
            (method, rate, square.median("test"), square.failures, widths[method])
            for method, part in parts.items()
            for rate, square in ((rate, part.square(learning_rate=rate)) for rate in part.rates)
        ],
        verdict([wider, better]) if tried or better else UNDECIDED,
        f"No seed fails over {widths['zclip']:.1f} decades with zclip, "
        f"{widths['global_norm']:.1f} with global_norm and {widths['none']:.1f} without clipping; "
        f"at {highest:g}, the highest learning rate that trains, zclip is "
        f"{'better' if better else 'not surely better'} than both others."
        + ("" if tried else " No run fails with any method: no range was tried out."),
        Picture(
            "learning rate",
            "test score",
            [
                mark(method, rate, part.square(learning_rate=rate), "test")
                for method, part in parts.items()
                for rate in part.rates
                if part.square(learning_rate=rate).usable
            ],
            note="Where a seed failed there is no point.",
        ),
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


def adagc(runs: Runs) -> Answer:
    """Has AdaGC fewer spikes of the loss than the others?"""
    others = ("global_norm", "value", "zclip")
    squares = {method: best(runs.where(method=method)) for method in ("adagc", *others)}
    means = {method: _mean(square, "spike_score") for method, square in squares.items()}
    clear = [lower(squares["adagc"], squares[name], "spike_score") for name in others]
    alike = len({tuple(square.values("spike_score")) for square in squares.values()}) == 1
    return Answer(
        ("method", "learning rate", "mean spike score", "lowest", "highest"),
        [
            (method, _rate(square), means[method], *square.extent("spike_score"))
            for method, square in squares.items()
        ],
        UNDECIDED if alike else verdict(clear),
        f"Share of steps at which the loss jumps: {means['adagc']:.3%} with adagc, "
        + ", ".join(f"{means[name]:.3%} with {name}" for name in others)
        + f"; adagc has surely fewer than {sum(clear)} of the {len(clear)} others."
        + (" No method changes when the loss jumps." if alike else ""),
        Picture(
            "method",
            "spike score",
            [
                Mark(method, method, means[method], *square.extent("spike_score"))
                for method, square in squares.items()
            ],
        ),
    )


def _mean(square: Square, column: str) -> float:
    return float(np.mean([run[column] for run in square.runs]))


def learning_rates(runs: Runs) -> Answer:
    """Does clipping widen the usable range of learning rates?"""
    places = runs.places
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
        verdict([gain > 0 for gain in gains]),
        " ".join(
            f"{place}: {abs(gain):.1f} decades {'lost' if gain < 0 else 'gained'}."
            for place, gain in zip(places, gains, strict=True)
        ),
        Picture(
            "task",
            "usable decades",
            [
                Mark(method, place, width)
                for place, without, (best_width, _) in zip(places, plain, clipped, strict=True)
                for method, width in (("none", without), ("global_norm", best_width))
            ],
        ),
    )


def _widest(clipped: Runs) -> tuple[float, float]:
    """Decades of the threshold with the widest range, and the threshold."""
    return max((decades(clipped.where(value=value)), value) for value in clipped.distinct("value"))


def likelihood(runs: Runs) -> Answer:
    """Do nets trained with clipping come near the published scores, the gated ones first?"""
    squares = {
        cell: runs.at(f"chorales/reference {cell}").square(method="global_norm")
        for cell in ("tanh", "gru", "lstm")
    }
    medians = {cell: square.median("test") for cell, square in squares.items()}
    ratios = {cell: medians[cell] / _PUBLISHED[cell] for cell in squares}
    near = all(ratio <= _NEAR for ratio in ratios.values())
    ahead = all(lower(squares[cell], squares["tanh"], "test") for cell in ("gru", "lstm"))
    lines = [
        (cell, _PUBLISHED[cell], medians[cell], *square.extent("test"), square.failures)
        for cell, square in squares.items()
    ]
    others = [
        (name, score, *["–"] * 4) for name, score in _PUBLISHED.items() if name not in squares
    ]
    return Answer(
        ("net", "published", "median test score here", "lowest", "highest", "seeds that failed"),
        lines + others,
        verdict([near, near and ahead]),
        "In nats a step, relative to the published score: "
        + ", ".join(f"{cell} {ratio - 1:+.1%}" for cell, ratio in ratios.items())
        + ".",
        Picture(
            "net",
            "nats a step",
            [Mark("published", cell, _PUBLISHED[cell]) for cell in squares]
            + [mark("global_norm", cell, square, "test") for cell, square in squares.items()],
        ),
    )


def _rate(square: Square) -> float:
    return square.runs[0]["learning_rate"]
