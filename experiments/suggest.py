"""Thresholds that would have suited a recorded run, printed and drawn."""

import csv
from collections.abc import Iterable
from pathlib import Path

import altair as alt
import numpy as np
import pyarrow.parquet as pq
import vl_convert

import clipax
from experiments import charts, results
from experiments.errors import UserError
from experiments.results import Runs
from experiments.store import write_text

_FILES = "a .npy file, a .csv file with a column `norm`, or a text file with one norm a line"


def write(run: str, out: Path) -> tuple[str, clipax.Suggestion, Path]:
    """Read the norms of a run, suggest a threshold, and draw both.

    Args:
        run: the row of a run in `runs.parquet`, or the path of a file of norms.
        out: the folder of `runs.parquet`, which receives the picture.

    Returns:
        The run in words, the suggestion, and the path of the picture.

    Raises:
        UserError: if there is no such run, or its norms cannot be used.
    """
    name, norms = _row(int(run), out / "runs.parquet") if run.isdigit() else _file(Path(run))
    try:
        found = clipax.suggest_threshold(norms)
    except ValueError as error:
        raise UserError(f"{run}: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    picture = out / f"suggest-{Path(run).stem}.svg"
    spec = _chart(norms, found, f"{name}: threshold {found.threshold:.3g}")
    drawn = vl_convert.vegalite_to_svg(spec | {"config": charts.theme("light")})
    write_text(picture, drawn)
    return name, found, picture


def _row(row: int, path: Path) -> tuple[str, np.ndarray]:
    if not path.exists():
        raise UserError(f"there is no {path}; train runs first, or name {_FILES}")
    runs = Runs(pq.read_table(path))
    if row >= len(runs):
        raise UserError(f"there is no run {row}; {path} has the runs 0 to {len(runs) - 1}")
    run = list(runs)[row]
    return results.title(run), runs.curve(run, "norm")


def _file(path: Path) -> tuple[str, np.ndarray]:
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; RUN is the row of a run in runs.parquet, {_FILES}"
        )
    try:
        return path.name, _norms(path)
    except (ValueError, KeyError) as error:
        raise UserError(f"cannot read norms from {path}; it must be {_FILES} ({error})") from error


def _norms(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return np.array([float(row["norm"]) for row in csv.DictReader(file)])
    return np.array([float(line) for line in path.read_text().split()])


_COLORS = {
    "gradient norm": "#2f7fd0",
    "threshold": "#1d2329",
    "spikes": "#d1541c",
    "change of the level": "#b0569f",
}


def _chart(norms: np.ndarray, found: clipax.Suggestion, title: str) -> charts.Spec:
    """The norms of a run, its spikes, its changes of level and the threshold, on white."""
    spikes = list(found.spikes)
    marks = {
        "gradient norm": alt.Chart(_steps(range(len(norms)), norms)).mark_line(strokeWidth=1.2),
        "threshold": alt.Chart(_steps([0, len(norms)], [found.threshold] * 2)).mark_line(
            strokeDash=[5, 3], strokeWidth=1.6
        ),
        "spikes": alt.Chart(_steps(spikes, norms[spikes])).mark_point(size=50),
        "change of the level": alt.Chart(
            _steps(found.changes, [None] * len(found.changes))
        ).mark_rule(strokeDash=[1, 2]),
    }
    there = {
        name for name, some in (("spikes", spikes), ("change of the level", found.changes)) if some
    }
    names = [name for name in marks if name in there | {"gradient norm", "threshold"}]
    scale = alt.Scale(domain=names, range=[_COLORS[name] for name in names])
    span = charts.span([*norms, found.threshold])
    layers = [_layer(marks[name], name, scale, span) for name in names]
    return charts.spec(
        alt.layer(*layers).properties(width=760, height=300, title=title, background="white")
    )


def _steps(steps: Iterable[int], norms: Iterable[float | None]) -> alt.InlineData:
    return charts.rows({"step": steps, "norm": norms})


def _layer(chart: alt.Chart, name: str, scale: alt.Scale, span: list[float]) -> alt.Chart:
    drawn = chart.encode(
        x=alt.X("step:Q", title="update", axis=alt.Axis(grid=False)),
        color=alt.Color(datum=name, scale=scale),
    )
    if name == "change of the level":
        return drawn
    return drawn.encode(y=charts.logarithmic(span, "gradient norm (L2)", "norm"))
