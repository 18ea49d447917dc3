"""Curves of single runs: loss, gradient norm and threshold over the updates."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from experiments import charts
from experiments.charts import Figure
from experiments.pages import rates
from experiments.pages.content import Content, look, valued
from experiments.pages.tables import Table, score, share, simple
from experiments.results import Run, Runs

Curves = dict[str, np.ndarray]
Span = list[float]
_STEPS, _NUMBERS = 300, 12
_CURVES = ("loss", "norm", "threshold")
_ROLES = {
    "exploding": "An exploding run",
    "calm": "A calm run",
    "chasing": "Clipped, and failed all the same",
}


def figures(content: Content, place: str) -> list[Figure]:
    """Three runs with the same start, batches and learning rate; empty where none explodes."""
    runs = content.places[place].where(stage="grid")
    chosen = choose(runs)
    spans = _spans(runs, list(chosen.values()))
    return [_figure(content, place, runs, run, role, spans) for role, run in chosen.items()]


def choose(runs: Runs) -> dict[str, Run]:
    """An exploding run, a calm one and a clipped one that failed, of the same rate and seed.

    The learning rate is the smallest at which some run explodes and another does not fail; where
    there is none, there is nothing to choose and the dict is empty.
    """
    for rate, seed in sorted(runs.distinct("learning_rate", "seed")):
        here = list(runs.where(learning_rate=rate, seed=seed))
        calm = [run for run in here if not run["failed"]]
        lost = [run for run in here if run["failed"] and exploded(runs.curve(run, "loss"))]
        if calm and lost:
            return _roles(calm, lost)
    return {}


def exploded(losses: np.ndarray) -> bool:
    """Whether a loss rose to twice its start or was not finite."""
    return bool(not np.isfinite(losses).all() or losses.max() > 2 * losses[0])


def _roles(calm: list[Run], lost: list[Run]) -> dict[str, Run]:
    plain = [run for run in lost if run["method"] == "none"]
    exploding = plain[0] if plain else max(lost, key=_badness)
    clipped = [run for run in calm if run["method"] != "none"]
    chosen = {"exploding": exploding, "calm": min(clipped or calm, key=_badness)}
    others = [run for run in lost if run is not exploding and run["method"] != "none"]
    return chosen | ({"chasing": max(others, key=_badness)} if others else {})


def _badness(run: Run) -> float:
    return run["valid"] if math.isfinite(run["valid"]) else math.inf


def _spans(runs: Runs, chosen: Sequence[Run]) -> tuple[Span, Span]:
    """Ends of the axes that the figures share: of the loss, and of norm and threshold."""

    def together(*names: str) -> Span:
        curves = [runs.curve(run, name) for run in chosen for name in names]
        return charts.span(np.concatenate([[], *curves]))

    return together("loss"), together("norm", "threshold")


def _figure(
    content: Content, place: str, runs: Runs, run: Run, role: str, spans: tuple[Span, Span]
) -> Figure:
    title = f"{_ROLES[role]}: {run['method']}"
    return Figure(
        name=f"{rates.anchor(place)}-{role}",
        title=title,
        caption=f"{valued(run['method'], run['value'])}, learning rate {run['learning_rate']:g}, "
        f"seed {run['seed']}; test score {score(run['test'])}, {share(run['clip_share'])} of the "
        f"steps clipped. Row {run['row']} of runs.parquet.",
        described=f"Loss above, gradient norm and threshold below, over the updates of "
        f"{run['method']} on {place}.",
        spec=_chart(runs, run, spans),
        command=content.command([place], [run["method"]]),
        numbers=numbers(runs, run, title),
    )


def _chart(runs: Runs, run: Run, spans: tuple[Span, Span]) -> charts.Spec:
    above, below = spans
    kept = _kept(runs, run)
    loss = _panel(kept, {"loss": look(run["method"]).color}, above, "training loss", 120)
    both = alt.vconcat(loss, _norms(kept, run, below, 150), spacing=12)
    return charts.spec(both)


def thresholds(runs: Runs, run: Run) -> charts.Spec:
    """Norms and thresholds of one run."""
    span = charts.span(np.concatenate([runs.curve(run, name) for name in ("norm", "threshold")]))
    return charts.spec(_norms(_kept(runs, run), run, span, 260))


def _norms(kept: Curves, run: Run, span: Span, height: int) -> alt.LayerChart:
    colors = {"norm": charts.BEHIND, "threshold": look(run["method"]).color}
    return _panel(kept, colors, span, "norm and threshold", height)


def _kept(runs: Runs, run: Run) -> Curves:
    """The curves, of each few updates the one with the largest norm."""
    curves = {name: runs.curve(run, name) for name in _CURVES}
    size = np.where(np.isfinite(curves["norm"]), curves["norm"], np.inf)
    parts = np.array_split(np.arange(len(size)), min(len(size), _STEPS))
    steps = np.array([part[np.argmax(size[part])] for part in parts])
    return {"step": steps, **{name: curve[steps] for name, curve in curves.items()}}


def _panel(
    kept: Curves, colors: dict[str, str], span: Span, title: str, height: int
) -> alt.LayerChart:
    positive = {name: np.where(kept[name] > 0, kept[name], np.nan) for name in colors}
    base = alt.Chart(charts.rows({"step": kept["step"], **positive})).encode(
        x=alt.X("step:Q", title="update", axis=alt.Axis(grid=False, tickCount=5)),
        tooltip=[alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("step", *colors)],
    )
    lines = [
        base.mark_line(clip=True, **_ink(color, name)).encode(
            y=charts.logarithmic(span, title, name)
        )
        for name, color in colors.items()
    ]
    first = next(iter(colors))
    lines[0] = lines[0].add_params(charts.zoom(f"zoom_{first}"))
    hover = base.mark_rule(strokeWidth=4, opacity=0, clip=True)  # where a tooltip shows
    return alt.LayerChart(layer=[*lines, *_lost(kept, first), hover], height=height)


def _ink(color: str, name: str) -> dict[str, Any]:
    wide = {"strokeWidth": 2 if name == "threshold" else 1.2}
    return wide | ({"style": color} if color == charts.BEHIND else {"color": color})


def _lost(kept: Curves, name: str) -> list[alt.Chart]:
    """A line where a curve ceases to be finite."""
    lost = ~np.isfinite(kept[name])
    if not lost.any():
        return []
    base = alt.Chart(charts.rows({"step": [kept["step"][np.argmax(lost)]]})).encode(x="step:Q")
    text = base.mark_text(align="left", dx=5, dy=8, baseline="top", text="not finite")
    return [base.mark_rule(strokeDash=[2, 3]), text.encode(y=alt.value(0))]


def numbers(runs: Runs, run: Run, title: str) -> Table:
    """A few steps of the curves."""
    curves = {name: runs.curve(run, name) for name in _CURVES}
    steps = np.unique(np.linspace(0, len(curves["loss"]) - 1, _NUMBERS).astype(int))
    lines = [
        (float(step), *(_number(float(curve[step])) for curve in curves.values())) for step in steps
    ]
    return simple(title, ("update", *curves), lines)


def _number(value: float) -> float | str:
    return "infinite" if np.isposinf(value) else value
