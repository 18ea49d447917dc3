"""What a benchmark is: named work, who does it, and what is aimed at."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.timing import Ratio, Timed, in_turns, ratio

OURS = "clipax"


class Case(NamedTuple):
    """Work that several do.

    Attributes:
        suite: the kind of work, which `--only` chooses.
        work: what is done.
        goals: for each peer the ratio to it that is aimed at, None where none is.
        make: the contestants by name, `clipax` and the peers; one that is not installed may lack.
        rounds: how often each is measured.
        unit: what they measure; anything but seconds is exact and measured once.
        curve: the curve of which this is a point, empty for none.
        size: where on that curve.
    """

    suite: str
    work: str
    goals: Mapping[str, float | None]
    make: Callable[[], Mapping[str, Timed]]
    rounds: int = 40
    unit: str = "s"
    curve: str = ""
    size: float = 0.0


class Row(NamedTuple):
    """What was measured of one peer: a ratio below 1 says that clipax takes less.

    Attributes:
        suite, work, unit, curve, size: those of the case.
        against: the peer.
        ratio: ours over theirs, quartiles over rounds.
        goal: the ratio aimed at.
        ours, theirs: medians.
    """

    suite: str
    work: str
    against: str
    ratio: Ratio
    goal: float | None
    ours: float
    theirs: float
    unit: str
    curve: str
    size: float

    @property
    def exact(self) -> bool:
        """Whether it is the same at every run on the same packages."""
        return self.unit != "s"

    @property
    def reached(self) -> bool:
        """Whether the goal is reached, if there is one."""
        return self.goal is None or self.ratio.middle <= self.goal


def measure(case: Case, *, most: int) -> Iterator[Row]:
    """One row for each peer that is there.

    Args:
        case: what is measured.
        most: the largest number of rounds.
    """
    contestants = case.make()
    rounds = min(case.rounds, most) if case.unit == "s" else 1
    found = in_turns(contestants, rounds)
    for name, goal in case.goals.items():
        if name in found:
            ours, theirs = found[OURS], found[name]
            yield Row(
                suite=case.suite, work=case.work, against=name, ratio=ratio(ours, theirs),
                goal=goal, ours=float(np.median(ours)), theirs=float(np.median(theirs)),
                unit=case.unit, curve=case.curve, size=case.size,
            )  # fmt: skip
