"""One line that says what is done, what failed and how long it will take.

Time left is measured: the time spent so far, over the work it did, times the work that is left.
Work is counted in parameters times sequence steps, so that a large model weighs what it costs,
and compilation counts as much as it usually takes. The constants were fitted to measured times.
On a terminal the line is redrawn in place; elsewhere one line is printed for each group.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from experiments.config import Group

_COMPILATION, _STEP = 4e10, 3e3


def clock(seconds: float) -> str:
    """Seconds as `m:ss`, rounded up."""
    whole = int(-(-seconds // 1))
    return f"{whole // 60}:{whole % 60:02d}"


def work(group: Group) -> float:
    """What a group costs."""
    return _COMPILATION + group.updates * _update_work(group)


def _update_work(group: Group) -> float:
    gates = {"tanh": 1, "lstm": 4}[group.cell]
    parameters = group.width * (gates * (group.width + 88) + 88)
    return group.runs * group.batch * group.length * (_STEP + parameters)


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
        self.current = "starting"
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

    def start(self, name: str) -> None:
        """A group begins."""
        self.current = name

    def steps_of(self, group: Group) -> Callable[[int], None]:
        """A function to tell how many steps of a group were just done."""
        # The first steps come after compilation: its share of the work is done when they are.
        compilation = iter([_COMPILATION])

        def advance(steps: int) -> None:
            self.done += next(compilation, 0.0) + steps * _update_work(group)

        return advance

    def finish(self, name: str, group: Group, failed: int) -> None:
        """The group in flight is finished."""
        self.finished += 1
        self.runs += group.runs
        self.failed += failed
        if self._live is None:
            failures = f", {failed} failed" if failed else ""
            line = f"{self._counts()}  {name}: {group.runs} runs{failures}"
            self.console.print(line, soft_wrap=True)

    def reuse(self, name: str, group: Group, failed: int) -> None:
        """A group was found finished: it counts as done and tells nothing about speed."""
        self.reused += work(group)
        self.finish(f"{name} (already there)", group, failed)

    def left(self) -> float | None:
        """Seconds left, or None before anything is known."""
        if not self.done:
            return None
        remaining = max(self.work - self.reused - self.done, 0)
        return (time.monotonic() - self._begin) / self.done * remaining

    def _counts(self) -> str:
        left = self.left()
        wait = "" if left is None else f", {clock(left)} left"
        return f"[{self.finished}/{self.groups}{wait}]"

    def _draw(self) -> Table:
        left = self.left()
        wait = "measuring" if left is None else f"{clock(left)} left"
        line = Table.grid(padding=(0, 1))
        for overflow in ("crop", "crop", "ellipsis"):
            line.add_column(no_wrap=True, overflow=overflow)
        line.add_row(
            ProgressBar(self.work, min(self.done + self.reused, self.work), width=14),
            f"{self.finished}/{self.groups} groups, {self.runs} runs, {self.failed} failed, {wait}",
            self.current,
        )
        return line
