"""Two methods side by side on each task: difference of the scores, its interval, and a verdict."""

import math
from collections.abc import Iterator

import pyarrow as pa
from rich.table import Table

from experiments import clippers, standings
from experiments.errors import UserError
from experiments.results import Runs, Square, best


def table(runs: pa.Table, first: str, second: str) -> Table:
    """Test scores of two methods at the learning rate and argument that validation chose.

    The gain is the difference of the medians over the same seeds, positive where the first is
    better, with a bootstrap interval of 95 %.

    Args:
        runs: finished runs.
        first: name of a method.
        second: name of another.

    Raises:
        UserError: a method is unknown or was not run, or both are the same.
    """
    for name in (first, second):
        if name not in clippers.LEGEND:
            wrong = name or "(nothing)"
            raise UserError(f"unknown method {wrong}; there are {', '.join(clippers.NAMES)}")
    if first == second:
        raise UserError(f"two different methods are compared, not {first} with itself")
    title = f"{first} against {second}: test scores, medians over seeds, lower is better"
    shown = Table(title=title, title_justify="left")
    for name in ("task", first, second, "gain", "95 % interval", "verdict"):
        shown.add_column(name, justify="left" if name in ("task", "verdict") else "right")
    rows = list(_rows(Runs(runs), first, second))
    if not rows:
        raise UserError(f"no task here was run with both {first} and {second}")
    for row in rows:
        shown.add_row(*row)
    return shown


def _rows(runs: Runs, first: str, second: str) -> Iterator[tuple[str, ...]]:
    for place in runs.places:
        methods = [runs.at(place).where(method=name) for name in (first, second)]
        if all(map(len, methods)):
            yield _row(place, *map(_square, methods))


def _square(runs: Runs) -> Square:
    """The runs on held-out seeds where there are any, else those that validation chose."""
    chosen = runs.where(stage="chosen")
    return Square(chosen) if len(chosen) else best(runs.where(stage="grid"))


def _row(place: str, one: Square, other: Square) -> tuple[str, ...]:
    found = standings.gain(one, other)
    interval = "too few seeds" if math.isnan(found.low) else f"{found.low:.3g} to {found.high:.3g}"
    numbers = [f"{square.median('test'):.4g}" for square in (one, other)]
    return (place, *numbers, f"{found.value:.3g}", interval, found.verdict)
