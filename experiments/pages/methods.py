"""The page of a method: what it does, its argument, where it wins and where it fails."""

import inspect
import math
from statistics import median
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

import clipax
from experiments.families import FAMILIES
from experiments.pages.content import UNITS, Content, Tried, look, valued, written
from experiments.pages.tables import Cell, Column, Table, number, percent, words
from experiments.results import Run
from experiments.standings import Leaderboard, decades, difference

_UNITS = {
    "number": "a number",
    "norm": "multiples of the task's usual gradient norm",
    "entry": "multiples of the usual size of one entry of the gradient",
}


class Said(NamedTuple):
    """What the library says of a method: the first two paragraphs of its docstring."""

    does: str
    equation: str


def said(method: str) -> Said:
    """The first line and the equation; empty where the library has no such function."""
    text = inspect.getdoc(getattr(clipax, method, None)) or ""
    if method == "none":
        return Said("Leave the gradient as it is.", "")
    first, equation = [*text.split("\n\n"), "", ""][:2]
    return Said(first.replace("\n", " "), equation)


def arguments(method: str) -> dict[str, str]:
    """What a reader must know to call it."""
    row = look(method)
    if not row.argument:
        return {"Argument": "none"}
    values = ", ".join(f"{value:g}" for value in row.values)
    return {
        "Main argument": f"{row.argument}, {_UNITS[row.unit]}",
        "Default here": f"{row.default:g}",
        "Values tried": values,
    } | ({"Fixed": ", ".join(f"{k}={v}" for k, v in row.fixed.items())} if row.fixed else {})


def tried(content: Content, method: str) -> dict[str, Tried]:
    """What it did, by variant of a task."""
    places = {place: content.tried[place].get(method) for place in content.places}
    return {place: found for place, found in places.items() if found}


def typical(found: dict[str, Tried]) -> str:
    """A task whose gradients jump and where the method clips, or else the first such task."""
    wanted = ("characters/", "chorales/", "rows/")
    places = [place for start in wanted for place in found if place.startswith(start)]
    places += [place for place in found if place not in places]
    return next((place for place in places if shown(found[place])["clip_share"] > 0), places[0])


def shown(each: Tried) -> Run:
    """A run with the default arguments at their best learning rate."""
    return min(each.row(each.default), key=lambda square: square.median("valid")).runs[0]


def outcomes(content: Content, method: str) -> Table:
    """Where it wins and where it fails: on each task with its rank, if there is a leaderboard."""
    board = content.board
    found = tried(content, method)
    if board and method in board.methods:
        ranks = _ranks(board)
        lines = [_ranked(content, board, method, place, ranks[place]) for place in board.tasks]
        return Table("Tasks", _RANKED, sorted(lines, key=lambda line: line[1].order))
    return Table("Tasks", _PLAIN, [_plain(place, each) for place, each in found.items()])


def summary(content: Content, method: str) -> str:
    """In a sentence: its place, where it is first, and where it fails more than no clipping."""
    board = content.board
    if not board or method not in board.methods:
        return ""
    ranks = {task: row[board.methods.index(method)] for task, row in _ranks(board).items()}
    line = next(line for line in content.standings if line.method == method)
    first = [task for task, rank in ranks.items() if rank == 1]
    return " ".join(
        filter(
            None,
            (
                f"Score {line.tuned.value:.2f} of 1, mean rank {line.rank.value:.1f} of "
                f"{len(board.methods)}; against no clipping: {line.verdict}.",
                f"First on {', '.join(first)}." if first else "",
                _losses(content, board, method),
            ),
        )
    )


def _losses(content: Content, board: Leaderboard, method: str) -> str:
    if method == "none" or "none" not in board.methods:
        return ""
    more = [
        task
        for task in board.tasks
        if _failed(content.tried[task][method]) > _failed(content.tried[task]["none"])
    ]
    return f"More runs fail than without clipping on {', '.join(more)}." if more else ""


_RANKED = (
    Column("task", number=False),
    Column("rank", about="by the median test score on held-out seeds"),
    Column("tuned"),
    Column("default"),
    Column("none"),
    Column("against none", number=False),
    Column("failed", about="runs of the grid"),
    Column("decades", about="width of the usable learning rates at the chosen argument"),
    Column("chosen", number=False),
)
_PLAIN = (
    Column("task", number=False),
    Column("learning rate", about="with the lowest median validation score"),
    Column("validation"),
    Column("test"),
    Column("clipped"),
    Column("failed", about="runs of the grid"),
    Column("argument", number=False),
)


def _ranks(board: Leaderboard) -> dict[str, np.ndarray]:
    medians = {name: board.scores(name) for name in board.methods}
    return {
        task: rankdata([-np.median(medians[name][task]) for name in board.methods], "min")
        for task in board.tasks
    }


def _ranked(
    content: Content, board: Leaderboard, method: str, place: str, ranks: np.ndarray
) -> list[Cell]:
    each = content.tried[place][method]
    tuned, default = (board.scores(method, stage)[place] for stage in ("chosen", "default"))
    plain = board.scores("none")[place] if "none" in board.methods else np.array([math.nan])
    rank = int(ranks[board.methods.index(method)])
    grid = each.grid.where(arguments=each.chosen)
    return [
        words(place, page=_page(place)),
        number(rank, f"{rank} of {len(ranks)}"),
        *map(_median, (tuned, default, plain)),
        words(_verdict(method, tuned, plain)),
        percent(_failed(each)),
        number(decades(grid), f"{decades(grid):.1f}"),
        words(valued(method, each.values[each.chosen])),
    ]


def _median(scores: np.ndarray) -> Cell:
    middle = float(np.median(scores))
    return number(middle, "–" if math.isnan(middle) else f"{middle:.2f}")


def _verdict(method: str, tuned: np.ndarray, plain: np.ndarray) -> str:
    if method == "none" or np.isnan(plain).any():
        return "not compared"
    return difference({"": tuned}, {"": plain}).verdict


def _failed(each: Tried) -> float:
    return sum(run["failed"] for run in each.grid) / len(each.grid)


def _plain(place: str, each: Tried) -> list[Cell]:
    run = each.best.runs[0]
    return [
        words(place, page=_page(place)),
        number(run["learning_rate"], f"{run['learning_rate']:g}"),
        number(each.best.median("valid")),
        number(each.best.median("test")),
        percent(each.best.median("clip_share")),
        number(_failed(each), each.failures),
        words(valued(run["method"], run["value"])),
    ]


def _page(place: str) -> str:
    return f"task-{place.partition('/')[0]}"


def by_value(content: Content, method: str) -> Table | None:
    """Test score for each value of the argument, at the learning rate that validation chose."""
    found = tried(content, method)
    values = sorted({value for each in found.values() for value in each.values.values()})
    if not look(method).argument or len(values) < 2:
        return None
    heads = [Column("task", number=False), *(Column(f"{value:g}") for value in values)]
    rows = [_value_row(place, each, values) for place, each in found.items()]
    title = f"Test score by {look(method).argument}{UNITS[look(method).unit]}"
    return Table(title, heads, rows, look="squares")


def _value_row(place: str, each: Tried, values: list[float]) -> list[Cell]:
    arguments = {value: key for key, value in each.values.items()}
    cells = [
        _value_cell(each, arguments[value]) if value in arguments else words("") for value in values
    ]
    return [words(place, page=_page(place)), *cells]


def _value_cell(each: Tried, arguments: str) -> Cell:
    square = min(each.row(arguments), key=lambda square: square.median("valid"))
    rate = square.runs[0]["learning_rate"]
    marks = ["best"] if arguments == each.chosen else []
    marks += ["failed"] if square.failures else []
    return number(square.median("test"), note=f"at {rate:g}", look=" ".join(marks))


def records(content: Content, method: str) -> Table:
    """Which rows of the file of runs are its own."""
    lines = []
    for place, each in tried(content, method).items():
        numbers = [run["row"] for run in each.runs]
        seconds = median(run["seconds"] for run in each.runs)
        lines.append(
            [
                words(place, page=_page(place)),
                number(len(numbers), str(len(numbers))),
                words(f"{min(numbers)} to {max(numbers)}"),
                number(seconds, f"{seconds:.2g} s"),
            ]
        )
    heads = (
        Column("task", number=False), Column("runs"), Column("rows", number=False),
        Column("time a run"),
    )  # fmt: skip
    return Table("Records", heads, lines)


def call(content: Content, method: str) -> str:
    """The library call on the task whose threshold is shown."""
    found = tried(content, method)
    return written(method, found[typical(found)].default)


def index(content: Content) -> Table:
    """All methods that were run."""
    ranks = {line.method: line.rank.value for line in content.standings}
    rows = [_index_row(content, method, ranks.get(method, math.nan)) for method in content.methods]
    heads = [
        Column("method", number=False), Column("family", number=False),
        Column("main argument", number=False), Column("source", number=False), Column("tasks"),
    ]  # fmt: skip
    if ranks:
        heads.insert(1, Column("rank"))
    return Table("Methods", heads, rows)


def _index_row(content: Content, method: str, rank: float) -> list[Cell]:
    row = look(method)
    count = len(tried(content, method))
    cells = [
        words(method, page=f"method-{method}", color=row.color, note=said(method).does),
        words(FAMILIES[row.family].meaning),
        words(row.argument or "none"),
        words(row.source or "–"),
        number(count, str(count)),
    ]
    if content.standings:
        cells.insert(1, number(rank, "–" if math.isnan(rank) else f"{rank:.1f}"))
    return cells
