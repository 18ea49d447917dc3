"""The leaderboard: its table, its intervals and its profiles."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from experiments import charts
from experiments.charts import Figure
from experiments.families import FAMILIES
from experiments.pages.content import Content, look, told
from experiments.pages.tables import Cell, Column, Table, interval, number, percent, words
from experiments.standings import (
    BETTER,
    SAME,
    WORSE,
    Estimate,
    Leaderboard,
    Profile,
    Standing,
    difference,
)

_LOOKS = {BETTER: "better", WORSE: "worse"}
_COLUMNS = (
    Column("method", number=False),
    Column(
        "rank", about="place by the median score, a mean over tasks; ties break as seeds change"
    ),
    Column("tuned", about="interquartile mean of the scores with the argument chosen on the grid"),
    Column("default", about="the same with the argument that a method has untuned"),
    Column("against none", number=False, about="the difference, seed by seed"),
    Column("failed", about="runs of the whole grid that are not finite or below the task's floor"),
    Column("decades", about="width of the learning rates at which no seed failed, median of tasks"),
    Column("spikes", about="steps at which the loss lies ten deviations above its mean so far"),
    Column("time", about="time an update relative to none"),
)
_FEW = 6  # methods that a sentence names; of more it gives the number


def table(standings: Sequence[Standing]) -> Table:
    """One line a method."""
    return Table("Leaderboard", _COLUMNS, [_line(each) for each in standings], look="board")


def _line(line: Standing) -> list[Cell]:
    time = "–" if math.isnan(line.overhead) else f"{line.overhead:.1f} ×"
    return [
        words(line.method, page=f"method-{line.method}", color=look(line.method).color),
        number(line.rank.value, f"{line.rank.value:.1f}", note=interval(*line.rank, digits=1)),
        _estimate(line.tuned),
        _estimate(line.default),
        words(line.verdict, look=f"verdict {_LOOKS.get(line.verdict, 'same')}"),
        percent(line.failed),
        number(line.decades, f"{line.decades:.1f}"),
        percent(line.spikes),
        number(line.overhead, time),
    ]


def _estimate(found: Estimate) -> Cell:
    return number(found.value, f"{found.value:.3f}", note=interval(*found, digits=3))


def lead(content: Content, board: Leaderboard) -> str:
    """What the table says, in a few sentences."""
    lines = content.standings
    told = [
        f"{lines[0].method} scores highest: {lines[0].tuned.value:.3f} of 1 "
        f"({interval(*lines[0].tuned, digits=3)})."
    ]
    if names := _as_good(lines, board):
        told.append(f"Seed by seed, no difference from it is seen for {', '.join(names)}.")
    heads = {
        BETTER: "Better than no clipping",
        WORSE: "Worse than that",
        SAME: "Neither, as far as is seen",
    }
    for verdict, head in heads.items():
        if names := [line.method for line in lines if line.verdict == verdict]:
            few = len(names) <= _FEW
            told.append(f"{head}: {', '.join(names) if few else f'{len(names)} methods'}.")
    return " ".join([*told, *_twins(board)])


def _twins(board: Leaderboard) -> list[str]:
    return [
        f"{first} and {second} have the same scores, run for run."
        for first, second in itertools.combinations(board.methods, 2)
        if all(np.array_equal(board.scores(first)[x], board.scores(second)[x]) for x in board.tasks)
    ]


def _as_good(lines: Sequence[Standing], board: Leaderboard) -> list[str]:
    """Methods whose difference from the first may be 0."""
    first = board.scores(lines[0].method)
    others = [line.method for line in lines[1:]]
    return [name for name in others if difference(first, board.scores(name)).verdict == SAME]


def figures(content: Content, board: Leaderboard) -> list[Figure]:
    """Intervals of the scores, and profiles."""
    return [_intervals(content), _profiles(content, board)]


def _intervals(content: Content) -> Figure:
    lines = content.standings
    there = {look(line.method).family for line in lines}
    hues = "; ".join(
        f"{each.hue}: {each.meaning}" for name, each in FAMILIES.items() if name in there
    )
    return Figure(
        name="intervals",
        title="Scores with their intervals",
        caption="Filled: the argument chosen on the grid; open: the default arguments. The bar is "
        "the 95 % interval over seeds; where bars overlap, the same seeds may still tell apart. "
        f"Colours, {hues}.",
        described=f"Scores of {len(lines)} methods with intervals, the best on top; the table "
        "above has the numbers.",
        spec=_interval_chart(lines),
        command=content.facts["command"],
    )


def _interval_chart(lines: Sequence[Standing]) -> charts.Spec:
    rows = [
        {
            "method": line.method,
            "stage": stage,
            "color": look(line.method).color,
            "score": found.value,
            "low": found.low,
            "high": found.high,
            "interval": interval(*found),
        }
        for line in lines
        for stage, found in (("tuned", line.tuned), ("default", line.default))
    ]
    base = alt.Chart(charts.records(rows)).encode(
        y=alt.Y(
            "method:N",
            sort=[line.method for line in lines],
            title=None,
            axis=alt.Axis(labelFontSize=13, labelLimit=120, grid=False),
            scale=alt.Scale(paddingInner=0.5, paddingOuter=0.3),
        ),
        yOffset=alt.YOffset("stage:N", sort=["tuned", "default"]),
        color=charts.fixed_color(),
        tooltip=[
            alt.Tooltip("method:N"),
            alt.Tooltip("stage:N", title="arguments"),
            alt.Tooltip("score:Q", format=".3f"),
            alt.Tooltip("interval:N", title="95 % interval"),
        ],
    )
    ends = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, opacity=0.6)
    axis = alt.X(
        "low:Q",
        title="score",
        scale=alt.Scale(zero=False, nice=True),
        axis=alt.Axis(tickCount=6),
    )
    marks = (
        base.mark_point(size=55, strokeWidth=1.8)
        .encode(
            x=alt.X("score:Q"),
            fill=alt.Fill("shown:N", scale=None, legend=None),
        )
        .transform_calculate(shown="datum.stage == 'tuned' ? datum.color : null")
    )
    chart = alt.layer(
        ends.encode(x=axis, x2="high:Q"), marks.add_params(charts.zoom(encodings=["x"]))
    )
    return charts.spec(chart.properties(height=32 * len(lines)))


def _profiles(content: Content, board: Leaderboard) -> Figure:
    profiles = {line.method: board.profile(line.method) for line in content.standings}
    return Figure(
        name="profiles",
        title="Performance profiles",
        caption="How many of the runs on held-out seeds score above each value: the higher the "
        "line, the better. The band is its 95 % interval. Grey: no clipping.",
        described="Share of runs above each score, one panel a method, with no clipping behind.",
        spec=_profile_chart(profiles),
        command=content.facts["command"],
        numbers=_profile_numbers(profiles),
        panel=190,
    )


def _profile_chart(profiles: Mapping[str, Profile]) -> charts.Spec:
    pairs = [
        (name, shown)
        for name in profiles
        for shown in dict.fromkeys(("none", name))
        if shown in profiles
    ]
    rows = [row for pair in pairs for row in _profile_rows(*pair, profiles)]
    base = alt.Chart().encode(
        x=alt.X("score:Q", title="score", axis=alt.Axis(values=[0, 0.5, 1], grid=False)),
        color=charts.fixed_color(),
        detail="method:N",
    )
    share = alt.Y(
        "share:Q", title="share of runs above",
        axis=alt.Axis(values=[0, 0.5, 1], format="%", minExtent=38, maxExtent=38),
    )  # fmt: skip
    band = base.transform_filter("datum.panel == datum.method && isValid(datum.low)").mark_area(
        opacity=0.16
    )
    line = base.mark_line(strokeWidth=1.8, interpolate="step-after").encode(
        y=share,
        opacity=alt.condition("datum.panel == datum.method", alt.value(1), alt.value(0.55)),
        tooltip=["method:N", alt.Tooltip("score:Q"), alt.Tooltip("share:Q", format=".0%")],
    )
    panels = alt.layer(band.encode(y=alt.Y("low:Q"), y2="high:Q"), line.add_params(charts.zoom()))
    facets = panels.properties(height=110).facet(
        facet=alt.Facet("panel:N", title=None, sort=list(profiles), header=charts.header()),
        data=charts.records(rows),
        columns=1,
    )
    return charts.spec(facets.resolve_axis(x="independent").properties(spacing=18))


def _profile_rows(
    panel: str, method: str, profiles: Mapping[str, Profile]
) -> list[dict[str, object]]:
    return [
        {"panel": panel, "method": method, "color": look(method).color,
         "score": tau, "share": share, "low": low, "high": high}
        for tau, share, low, high in zip(*(values[::4] for values in profiles[method]), strict=True)
    ]  # fmt: skip


def _profile_numbers(profiles: Mapping[str, Profile]) -> Table:
    taus = np.array([0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
    rows = []
    for name, found in profiles.items():
        shares = np.interp(taus, found.taus, found.share)
        rows.append([words(name), *(percent(float(share)) for share in shares)])
    columns = [Column("method", number=False), *(Column(f"above {tau:g}") for tau in taus)]
    return Table("Performance profiles", columns, rows)


def contents(content: Content, board: Leaderboard) -> dict[str, Any]:
    """All that a leaderboard shows."""
    return {
        "lead": lead(content, board),
        "about": about(content, board),
        "standings": table(content.standings),
        "figures": figures(content, board),
        "by_task": by_task(content, board),
    }


def about(content: Content, board: Leaderboard) -> str:
    """What was done, in a few sentences."""
    runs = content.tried[board.tasks[0]][board.methods[0]].runs
    grid, further = (len(runs.where(stage=x).distinct("seed")) for x in ("grid", "chosen"))
    return (
        f"{len(board.methods)} methods on {len(board.tasks)} tasks, all with the same learning "
        "rates, and with the same number of values to tune over for each method that has an "
        "argument; thresholds are tuned in multiples of the norm that the gradient of the task "
        f"usually has. Argument and learning rate are chosen on {grid} seeds by validation; scores "
        f"are those of {further} other seeds on test data, brought to one scale: 1 is the best "
        "median of all methods on a task, and 0 a model that has learnt nothing, or a run that "
        "failed. Brackets hold 95 % intervals over seeds."
    )


def by_task(content: Content, board: Leaderboard) -> Table:
    """Median score of every method on every task, and how many of its seeds failed."""
    scores = {line.method: board.scores(line.method) for line in content.standings}
    rows = []
    for method, tasks in scores.items():
        head = words(method, page=f"method-{method}", color=look(method).color)
        cells = (_shaded(content, task, method, seeds) for task, seeds in tasks.items())
        rows.append([head, *cells])
    heads = [Column("method", number=False)]
    heads += [Column(place, about=told(place.partition("/")[0]).title) for place in board.tasks]
    return Table("Score by task", heads, rows, look="squares")


def _shaded(content: Content, task: str, method: str, seeds: np.ndarray) -> Cell:
    value = float(np.median(seeds))
    shade = int(np.clip(round(5 * value**2), 0, 5))
    failed = sum(run["failed"] for run in content.tried[task][method].runs.where(stage="chosen"))
    note = f"{failed} failed" if failed else ""
    return number(value, f"{value:.2f}", note=note, look=f"shade-{shade}")
