"""What a judge answers: a verdict, the numbers that decide, and how two settings are compared."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy.stats import binom, mannwhitneyu

from experiments.results import Square

HOLDS, PARTLY, FAILS = "holds", "holds in part", "does not hold"
UNDECIDED = "not decided"
_SURE = 0.05


class Mark(NamedTuple):
    """A point of a picture, and the extent over seeds around it.

    Attributes:
        series: name of a method, or of what it is compared with.
        at: where it stands: a word or a positive number.
        value: its height; not finite where nothing came out.
        low: lowest seed.
        high: highest seed.
        panel: name of its panel, where there are several.
    """

    series: str
    at: str | float
    value: float
    low: float = math.nan
    high: float = math.nan
    panel: str = ""


class Picture(NamedTuple):
    """The numbers that decide, as points.

    Attributes:
        at: title of the axis that points stand at.
        value: title of the other axis.
        marks: the points.
        logarithmic: whether the axis of values is.
        note: what the points leave out.
    """

    at: str
    value: str
    marks: list[Mark]
    logarithmic: bool = False
    note: str = ""


class Answer(NamedTuple):
    """What the runs say of a claim.

    Attributes:
        columns: names of the columns of a table.
        rows: its rows; a number may be infinite or NaN.
        verdict: `holds`, `holds in part`, `does not hold` or `not decided`.
        reason: the numbers that decide, in words.
        picture: the same as a figure.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str | float, ...]]
    verdict: str
    reason: str
    picture: Picture


def verdict(parts: Sequence[bool]) -> str:
    """Of a claim that has parts: it holds in part where some do."""
    return HOLDS if all(parts) else PARTLY if any(parts) else FAILS


def lower(one: Square, other: Square, column: str) -> bool:
    """Whether the values of one are lower than those of the other, by more than chance.

    That is where the Mann-Whitney test, one-sided, gives p < 0.05; what is not finite is highest.
    """
    values = one.values(column), other.values(column)
    found: Any = mannwhitneyu(*values, alternative="less")
    return found.pvalue < _SURE


def fewer_failures(one: Square, other: Square) -> tuple[bool, float]:
    """Whether fewer runs of one fail, by more than chance, and the p-value.

    Seeds are paired: those that fail on one side alone decide, by the exact sign test, one-sided.
    """
    pairs = [{run["seed"]: run["failed"] for run in square.runs} for square in (one, other)]
    won, lost = (
        sum(first[seed] < second[seed] for seed in first) for first, second in (pairs, pairs[::-1])
    )
    chance = float(binom.sf(won - 1, won + lost, 0.5))
    return chance < _SURE, chance


def mark(series: str, at: str | float, square: Square, column: str, panel: str = "") -> Mark:
    """The point of a square: its median and extent."""
    return Mark(series, at, square.median(column), *square.extent(column), panel)
