"""A leaderboard as a folder to keep in a repository: Markdown, CSV, pictures, runs without curves.

What the page shows in a browser, this shows where no script runs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import vl_convert
from pyarrow import csv

from experiments import charts, report, results
from experiments.charts import Figure, Spec
from experiments.errors import UserError
from experiments.pages import board, claims, record, tasks
from experiments.pages.content import Content, Tried
from experiments.pages.reading import LIMITS
from experiments.results import Square
from experiments.standings import Estimate, Leaderboard, Standing
from experiments.store import write_parquet, write_text, write_whole

_WIDTH, _PANEL, _COLUMNS = 640, 300, 2
Row = dict[str, Any]


def write(table: pa.Table, folder: Path) -> Path:
    """Write the leaderboard of a table of runs, with the claims that were tried beside it.

    Args:
        table: the runs, with the command in its metadata.
        folder: receives `README.md`, `standings.csv`, `scores.csv`, `runs.parquet` and a picture
            of each figure on light and on dark paper.

    Returns:
        The path of `README.md`.

    Raises:
        UserError: no task was finished by all methods of a leaderboard.
    """
    content = Content(table)
    if content.board is None:
        raise UserError("there is no leaderboard in these runs; run: leaderboard")
    folder.mkdir(parents=True, exist_ok=True)
    shown = claims.shown(content)
    values = board.contents(content, content.board)
    figures = values["figures"] + [each.figure for each in shown if each.figure]
    drawn = {
        picture(figure, theme): svg(figure.spec, theme)
        for figure in figures
        for theme in charts.THEMES
    }
    for name, text in drawn.items():
        write_text(folder / name, text)
    for old in set(folder.glob("*.svg")) - {folder / name for name in drawn}:
        old.unlink()
    _put_csv(folder / "standings.csv", [_standing(line) for line in content.standings])
    _put_csv(folder / "scores.csv", list(_scores(content, content.board)))
    write_parquet(table.select(results.scalars(table)), folder / "runs.parquet")
    values |= {
        "facts": record.facts(content),
        "tasks": tasks.posed(content, content.board.tasks),
        "claims": shown,
        "about_claims": claims.ABOUT,
        "limits": LIMITS,
        "picture": picture,
    }
    write_text(folder / "README.md", report.rendered("digest.md.j2", values))
    return folder / "README.md"


def picture(figure: Figure, theme: str) -> str:
    """Name of the file of a figure."""
    return f"{figure.name.removesuffix('-figure')}-{theme}.svg"


def svg(spec: Spec, theme: str) -> str:
    """A chart drawn on light or dark paper, wide enough for its panels."""
    spec = spec | {"config": charts.theme(theme)}
    if "facet" in spec:
        spec |= {"columns": _COLUMNS, "spec": spec["spec"] | {"width": _PANEL}}
    else:
        spec |= {"width": _WIDTH}
    return vl_convert.vegalite_to_svg(spec)


def _put_csv(path: Path, rows: list[Row]) -> None:
    write_whole(path, lambda file: csv.write_csv(pa.Table.from_pylist(rows), file))


def _standing(line: Standing) -> Row:
    """A line of the leaderboard, each estimate in three columns."""
    found: Row = {}
    for name, value in line._asdict().items():
        found |= _ends(name, value) if isinstance(value, Estimate) else {name: value}
    return found


def _ends(name: str, found: Estimate) -> Row:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _scores(content: Content, found: Leaderboard) -> Iterator[Row]:
    """Each method on each task, with the chosen and with the default argument."""
    for place in found.tasks:
        for method in found.methods:
            for stage in ("chosen", "default"):
                yield _score(content.tried[place][method], stage)


def _score(tried: Tried, stage: str) -> Row:
    square = Square(tried.runs.where(stage=stage))
    run = square.runs[0]
    low, high = square.extent("test")
    return {
        "task": f"{run['task']}/{run['variant']}",
        "method": run["method"],
        "stage": stage,
        "arguments": run["arguments"],
        "learning_rate": run["learning_rate"],
        "test_median": square.median("test"),
        "test_low": low,
        "test_high": high,
        "seeds": len(square.runs),
        "failed": square.failures,
        "clip_share": square.median("clip_share"),
    }
