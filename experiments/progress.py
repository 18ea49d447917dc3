"""One line that says what is done, what failed and how long it will take.

Time left is measured: the time spent so far, over the work it did, times the work that is left.
Work is counted in parameters times sequence steps, so that a large model weighs what it costs.
On a terminal the line is redrawn in place; elsewhere one line is printed for each group.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table


def clock(seconds: float) -> str:
    """Seconds as `m:ss`, rounded up."""
    whole = int(-(-seconds // 1))
    return f"{whole // 60}:{whole % 60:02d}"


class Progress:
    """Counts groups, runs and work.

    Args:
        groups: groups in all.
        work: work in all.
        console: where to draw.
    """

    def __init__(self, groups: int, work: float, console: Console):
        self.groups, self.work, self.console = groups, work, console
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

    def advance(self, work: float) -> None:
        """Some work of the group in flight was done."""
        self.done += work

    def finish(self, name: str, runs: int, failed: int) -> None:
        """The group in flight is finished."""
        self.finished += 1
        self.runs += runs
        self.failed += failed
        if self._live is None:
            failures = f", {failed} failed" if failed else ""
            self.console.print(f"{self._counts()}  {name}: {runs} runs{failures}", soft_wrap=True)

    def reuse(self, name: str, runs: int, failed: int, work: float) -> None:
        """A group was found finished: it counts as done and tells nothing about speed."""
        self.reused += work
        self.finish(f"{name} (already there)", runs, failed)

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
        line = Table.grid(padding=(0, 2))
        line.add_row(
            ProgressBar(self.work, min(self.done + self.reused, self.work), width=24),
            f"{self.finished}/{self.groups} groups",
            f"{self.runs} runs done, {self.failed} failed",
            "measuring" if left is None else f"{clock(left)} left",
            self.current,
        )
        return line
