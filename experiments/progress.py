"""One line that says what is done, what failed and how long it will take.

Time left is measured: the time spent so far, over the work it did, times the work that is left.
Work is counted in the seconds that each variant says a run takes; only their ratios matter.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from experiments.config import Group

COMPILATION = 6.0


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`, rounded up."""
    minutes, rest = divmod(int(-(-seconds // 1)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def work(group: Group) -> float:
    """Seconds that a group takes on two cores."""
    return COMPILATION + group.runs * group.recipe.seconds


class Outcome(NamedTuple):
    """What a finished group has to say: runs that failed, and the best validation score."""

    failed: int
    best: float


class Progress:
    """Counts groups, runs and work.

    Args:
        plan: the groups.
        console: where to draw.
    """

    def __init__(self, plan: Sequence[Group], console: Console):
        self.console = console
        self.groups, self.work = len(plan), sum(map(work, plan))
        self.finished = self.runs = self.failed = 0
        self.done = self.reused = 0.0
        self._flight: dict[str, float] = {}
        self._last = ""
        self._begin = time.monotonic()
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Draw while the block runs, if there is a terminal to draw on."""
        if not self.console.is_terminal:
            yield self
            return
        with Live(get_renderable=self._draw, console=self.console, transient=True) as self._live:
            yield self
        self._live = None

    def start(self, group: Group) -> None:
        """A group begins."""
        self._flight[group.name] = 0.0

    def advance(self, group: Group) -> Callable[[float], None]:
        """A function to tell how many runs' worth of steps of a group were just done."""

        def advance(runs: float) -> None:
            # The first steps come after compilation: its share of the work is done when they are.
            before = self._flight[group.name] or COMPILATION
            self._flight[group.name] = min(before + runs * group.recipe.seconds, work(group))

        return advance

    def finish(self, group: Group, outcome: Outcome) -> None:
        """A group is finished."""
        self._flight.pop(group.name, None)
        self.done += work(group)
        self._count(group, outcome)

    def reuse(self, group: Group, outcome: Outcome) -> None:
        """A group was found finished: it counts as done and tells nothing about speed."""
        self.reused += work(group)
        self._count(group, outcome, " (already there)")

    def _count(self, group: Group, outcome: Outcome, remark: str = "") -> None:
        self.finished += 1
        self.runs += group.runs
        self.failed += outcome.failed
        self._last = f"{group.name} {outcome.best:.3g}"
        if self._live is None:
            failures = f", {outcome.failed} failed" if outcome.failed else ""
            told = f"{group.runs} runs{failures}, best {outcome.best:.3g}"
            line = f"{self._counts()}  {group.name}{remark}: {told}"
            self.console.print(line, soft_wrap=True)

    def left(self) -> float | None:
        """Seconds left, or None before anything is known."""
        done = self.done + sum(self._flight.values())
        if not done:
            return None
        remaining = max(self.work - self.reused - done, 0)
        return (time.monotonic() - self._begin) / done * remaining

    def _counts(self) -> str:
        left = self.left()
        wait = "" if left is None else f", {clock(left)} left"
        return f"[{self.finished}/{self.groups}{wait}]"

    def _draw(self) -> Table:
        left = self.left()
        wait = "measuring" if left is None else f"{clock(left)} left"
        done = min(self.done + sum(self._flight.values()) + self.reused, self.work)
        line = Table.grid(padding=(0, 1))
        for overflow in ("crop", "crop", "ellipsis", "ellipsis"):
            line.add_column(no_wrap=True, overflow=overflow)
        line.add_row(
            ProgressBar(self.work, done, width=14),
            f"{self.finished}/{self.groups} groups, {self.runs} runs, {self.failed} failed, {wait}",
            ", ".join(self._flight) or "starting",
            self._last and f"last: {self._last}",
        )
        return line
