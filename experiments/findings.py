"""What a reader may conclude, computed from the runs: a question, the numbers, a verdict."""

import itertools
import math
from statistics import median
from typing import NamedTuple

from experiments.clippers import LEGEND
from experiments.figures import NAMES
from experiments.results import Cell, Run, Study

_MOVING = ("adaptive", "moving_average")
_ALWAYS_CLIPPED, _RARELY_CLIPPED = 0.9, 0.1


class Finding(NamedTuple):
    """One line of the table."""

    question: str
    numbers: str
    verdict: str


def findings(study: Study) -> list[Finding]:
    """All findings that the runs at hand allow."""
    by_cell = (width_of_range, best_score, rescue, shift, single_rate)
    made = [question(study, cell) for question in by_cell for cell in study.cells]
    return [line for line in [*made, chase(study), noise(study), reach(study)] if line]


def _clipped(study: Study) -> list[str]:
    return [label for label in study.labels if label != "none"]


def _comparable(study: Study) -> bool:
    return "none" in study.labels and len(study.labels) > 1


def decades(study: Study, cell: str, label: str) -> float:
    """Width of the longest unbroken range of learning rates at which no seed failed."""
    widest, start = 0.0, None
    for rate, square in zip(study.rates, study.row(cell, label), strict=True):
        start = (start or rate) if square.usable else None
        widest = max(widest, math.log10(rate / start)) if start else widest
    return widest


def usable_count(study: Study, cell: str, label: str) -> int:
    """Learning rates at which no seed failed."""
    return sum(square.usable for square in study.row(cell, label))


def width_of_range(study: Study, cell: str) -> Finding | None:
    """Does clipping widen the range of learning rates that train?"""
    if not _comparable(study):
        return None
    widths = {label: decades(study, cell, label) for label in study.labels}
    widest = max(_clipped(study), key=lambda label: widths[label])
    narrowest = min(_clipped(study), key=lambda label: widths[label])
    gain = widths[widest] - widths["none"]
    numbers = f"No seed fails over {_range(study, cell, 'none')} without clipping, over "
    if widths[widest] == widths[narrowest]:
        numbers += f"{_range(study, cell, widest)} with every clipper tried."
    else:
        numbers += (
            f"{_range(study, cell, widest)} with {widest}, the widest, "
            f"and over {_range(study, cell, narrowest)} with {narrowest}, the narrowest."
        )
    return Finding(
        f"{NAMES[cell]}: does clipping widen the range of learning rates that train?",
        numbers,
        f"Yes, by {gain:.1f} decades at best." if gain > 0 else "Not on this grid.",
    )


def _range(study: Study, cell: str, label: str) -> str:
    count = usable_count(study, cell, label)
    width = decades(study, cell, label)
    return f"{count} of {len(study.rates)} learning rates ({width:.1f} decades)"


def best(study: Study, cell: str, label: str) -> tuple[float, Cell]:
    """Learning rate with the lowest median validation score, and its square."""
    pairs = zip(study.rates, study.row(cell, label), strict=True)
    return min(pairs, key=lambda pair: pair[1].median("valid_nll"))


def best_score(study: Study, cell: str) -> Finding | None:
    """Does clipping improve the score at the best learning rate?"""
    if not _comparable(study):
        return None
    chosen = {label: best(study, cell, label) for label in study.labels}
    winner = min(_clipped(study), key=lambda label: chosen[label][1].median("valid_nll"))
    plain, clipped = chosen["none"][1], chosen[winner][1]
    gain = plain.median("test_nll") - clipped.median("test_nll")
    numbers = (
        f"Test NLL at the learning rate that validation chose: {_score(plain)} without clipping "
        f"(at {chosen['none'][0]:g}), {_score(clipped)} with {winner} (at {chosen[winner][0]:g}), "
        f"the best of {len(chosen) - 1} tried."
    )
    return Finding(
        f"{NAMES[cell]}: does clipping improve the best score?",
        numbers,
        _gain(gain, plain, clipped),
    )


def _gain(gain: float, plain: Cell, clipped: Cell) -> str:
    if _overlap(plain, clipped, "test_nll"):
        return "No difference seen: the ranges over seeds overlap."
    word = "Better" if gain > 0 else "Worse"
    return f"{word} by {abs(gain):.2f} nats; the ranges over seeds do not overlap."


def _overlap(one: Cell, other: Cell, column: str) -> bool:
    (low, high), (other_low, other_high) = one.extent(column), other.extent(column)
    return low <= other_high and other_low <= high


def _score(square: Cell) -> str:
    low, high = square.extent("test_nll")
    return f"{square.median('test_nll'):.2f} ({low:.2f} to {high:.2f})"


def single_rate(study: Study, cell: str) -> Finding | None:
    """Could a single learning rate prove either side?"""
    if not _comparable(study):
        return None
    harm = min((g for g in _gains(study, cell) if g.plain.usable), key=_size, default=None)
    help_ = max((g for g in _gains(study, cell) if g.clipped.usable), key=_size, default=None)
    if not harm or not help_:
        return None
    mixed = harm.size < 0 < help_.size
    return Finding(
        f"{NAMES[cell]}: what would a single learning rate show?",
        f"At {harm.rate:g}, {harm.label} {_against(harm.size)}; at {help_.rate:g}, {help_.label} "
        f"{_against(help_.size)} (median validation NLL).",
        "Whichever side one likes: compare whole rows." if mixed else "One side only.",
    )


class _Gain(NamedTuple):
    rate: float
    label: str
    plain: Cell
    clipped: Cell

    @property
    def size(self) -> float:
        return self.plain.median("valid_nll") - self.clipped.median("valid_nll")


def _gains(study: Study, cell: str) -> list[_Gain]:
    return [
        _Gain(rate, label, plain, square)
        for label in _clipped(study)
        for rate, plain, square in zip(
            study.rates, study.row(cell, "none"), study.row(cell, label), strict=True
        )
    ]


def _size(gain: _Gain) -> float:
    return gain.size


def _against(gain: float) -> str:
    if math.isinf(gain):
        return "scores where no clipping gives nothing finite"
    how = "better" if gain > 0 else "worse"
    return f"is {abs(gain):.3g} nats {how} than no clipping"


def rescue(study: Study, cell: str) -> Finding | None:
    """How many steps must be clipped to save a run?"""
    if not _comparable(study):
        return None
    saved = [
        g for g in _gains(study, cell) if g.clipped.usable and g.plain.failures == len(g.plain.runs)
    ]
    if not saved:
        return None
    least = min(saved, key=lambda gain: gain.clipped.median("clip_share"))
    share = least.clipped.median("clip_share")
    numbers = (
        f"{len(saved)} squares train where every seed fails without clipping. The least clipped "
        f"of them is {least.label} at {least.rate:g}: {share:.1%} of the steps, "
        f"{least.clipped.median('valid_nll'):.2f} nats."
    )
    rare = share < _RARELY_CLIPPED
    return Finding(
        f"{NAMES[cell]}: how many steps must be clipped to save a run?",
        numbers,
        "A few are enough: it is not only a smaller step." if rare else "Many, on this grid.",
    )


def shift(study: Study, cell: str) -> Finding | None:
    """Is a lower threshold more than a smaller learning rate?"""
    pairs = _equal_products(study, cell)
    if not pairs:
        return None
    gaps = [abs(one.median("valid_nll") - other.median("valid_nll")) for one, other in pairs]
    alike = sum(_overlap(one, other, "valid_nll") for one, other in pairs)
    numbers = (
        f"{len(pairs)} pairs of squares of global_norm clip over {_ALWAYS_CLIPPED:.0%} of the "
        f"steps and have about the same threshold times learning rate: they differ by at most "
        f"{max(gaps):.2f} nats, and the ranges over seeds of {alike} of them overlap."
    )
    return Finding(
        f"{NAMES[cell]}: is a lower threshold more than a smaller learning rate?",
        numbers,
        "Not seen: where nearly every step is clipped, the product counts."
        if alike == len(pairs)
        else "Yes: equal products may score differently.",
    )


def _equal_products(study: Study, cell: str) -> list[tuple[Cell, Cell]]:
    squares = [
        (LEGEND[label].values["max_norm"] * rate, label, square)
        for label in study.labels
        if LEGEND[label].name == "global_norm"
        for rate, square in zip(study.rates, study.row(cell, label), strict=True)
        if square.usable and square.median("clip_share") > _ALWAYS_CLIPPED
    ]
    return [
        (one, other)
        for (product, label, one), (second, other_label, other) in itertools.combinations(
            squares, 2
        )
        if label != other_label and 0.8 < product / second < 1.25
    ]


def _typical_extent(study: Study) -> float:
    squares = [
        square
        for cell in study.cells
        for label in study.labels
        for square in study.row(cell, label)
        if square.usable
    ]
    extents = [high - low for low, high in (square.extent("valid_nll") for square in squares)]
    return median(extents) if extents else math.nan


def chase(study: Study) -> Finding | None:
    """Do thresholds that follow the norms follow an explosion?"""
    runs = [run for run in study.study if LEGEND[run["label"]].name in _MOVING]
    lost = [run for run in runs if run["failed"]]
    kept = [run for run in runs if not run["failed"]]
    if not lost or not kept:
        return None
    usual = median(_highest(study, run) for run in kept)
    risen = [run for run in lost if _highest(study, run) > 10 * usual]
    numbers = (
        f"{len(lost)} of {len(runs)} runs with {' or '.join(_MOVING)} failed; in {len(risen)} of "
        f"them the threshold rose above ten times what it reached in runs that did not fail "
        f"(median {usual:.2g})."
    )
    return Finding(
        "Do thresholds that follow the norms follow an explosion?",
        numbers,
        "Yes, in some: such a threshold stops no slow explosion." if risen else "Not here.",
    )


def _highest(study: Study, run: Run) -> float:
    values = study.curve(run, "threshold")
    finite = values[values < math.inf]
    return float(finite.max()) if len(finite) else 0.0


def noise(study: Study) -> Finding | None:
    """How small a difference means something?"""
    typical = _typical_extent(study)
    if not math.isfinite(typical):
        return None
    seeds = len({run["seed"] for run in study.study})
    return Finding(
        "How small a difference means something?",
        f"With {seeds} seeds, the scores of one square lie {typical:.2f} nats apart in the median.",
        f"Differences below {typical:.2f} nats between two squares say nothing.",
    )


def reach(study: Study) -> Finding:
    """What do these runs say about other models?"""
    first = study.study[0]
    return Finding(
        "What do these runs say about other models and data?",
        f"One data set, one width ({first['width']}), one optimizer (SGD, momentum 0.9), "
        f"{first['updates']} updates, one set of arguments a clipper, none of them tuned.",
        "Nothing: a clipper that is last here may be first with its threshold tuned.",
    )
