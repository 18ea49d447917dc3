"""What a benchmark is: named work, who does it, and what is aimed at."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks import workers
from benchmarks.timing import Measured, Ratio, in_turns, ratio

OURS, SECONDS = "clipax", "s"


class Case(NamedTuple):
    """Work that several do.

    Attributes:
        suite: the kind of work, which `--only` chooses.
        work: what is done.
        goals: for each peer the ratio to it that is aimed at, None where none is.
        make: the contestants by name, `clipax` and the peers; one that is not installed may lack.
        rounds: how often each is measured, at most.
        unit: of what they measure; what is not seconds is measured once.
        curve: the curve of which this is a point, empty for none.
        size: where on that curve.
    """

    suite: str
    work: str
    goals: Mapping[str, float | None]
    make: Callable[[], Mapping[str, Measured]]
    rounds: int = 40
    unit: str = SECONDS
    curve: str = ""
    size: float = 0.0

    @property
    def timed(self) -> bool:
        """Whether it is measured in seconds, in several rounds."""
        return self.unit == SECONDS


class Row(NamedTuple):
    """What was measured beside one peer: a ratio below 1 says that clipax takes less.

    Attributes:
        case: what was done.
        against: the peer.
        ratio: ours over theirs, quartiles over rounds.
        ours: median.
        theirs: median.
    """

    case: Case
    against: str
    ratio: Ratio
    ours: float
    theirs: float

    @property
    def goal(self) -> float | None:
        """The ratio that is aimed at, if one is."""
        return self.case.goals[self.against]

    @property
    def reached(self) -> bool:
        """Whether the median reaches the goal, if there is one."""
        return self.goal is None or self.ratio.middle <= self.goal

    def plain(self) -> dict[str, Any]:
        """The row as JSON may hold it."""
        case = self.case
        return {
            "suite": case.suite, "work": case.work, "against": self.against, "unit": case.unit,
            "ratio": self.ratio._asdict(), "goal": self.goal, "reached": self.reached,
            "ours": self.ours, "theirs": self.theirs, "curve": case.curve, "size": case.size,
        }  # fmt: skip


def measure(case: Case, *, most: int) -> Iterator[Row]:
    """One row for each peer that is there.

    Args:
        case: what is measured.
        most: the largest number of rounds.
    """
    try:
        contestants = case.make()
        rounds = min(case.rounds, most) if case.timed else 1
        found = in_turns(contestants, rounds, pause=workers.pause())
    finally:
        workers.forget()
    for name in case.goals:
        if name in found:
            ours, theirs = found[OURS], found[name]
            medians = (float(np.median(x)) for x in (ours, theirs))
            yield Row(case, name, ratio(ours, theirs), *medians)
