"""Figures of a method: score against its argument, and its thresholds over real norms."""

from typing import Any

import altair as alt
import numpy as np

from experiments import charts
from experiments.charts import Figure
from experiments.pages import traces
from experiments.pages.content import UNITS, Content, Tried, look, valued
from experiments.pages.methods import shown, tried, typical
from experiments.pages.tables import score, share


def figures(content: Content, method: str) -> list[Figure]:
    """Score against its argument, and its thresholds over the norms of one run."""
    made = [_argument(content, method), _thresholds(content, method)]
    return [figure for figure in made if figure]


def _argument(content: Content, method: str) -> Figure | None:
    found = {place: each for place, each in tried(content, method).items() if len(each.values) > 1}
    if not found:
        return None
    return Figure(
        name="argument",
        title=f"Score against {look(method).argument}",
        caption="Median test score at the learning rate that validation chose for each value, "
        "one panel a task, each on its own scale; lower is better. Filled: the value that "
        "validation chose. A cross: some seed failed.",
        described=f"Test score against {look(method).argument} on {len(found)} tasks; the table "
        "below has the numbers.",
        spec=_argument_chart(method, found),
        command=content.facts["command"],
        panel=210,
    )


def _argument_chart(method: str, found: dict[str, Tried]) -> charts.Spec:
    rows = [row for place, each in found.items() for row in _argument_rows(place, each)]
    values = sorted({row["value"] for row in rows})
    base = alt.Chart().encode(
        x=alt.X(
            "value:O", title=f"{look(method).argument}{UNITS[look(method).unit]}", sort=values,
            axis=alt.Axis(grid=False, labelAngle=0), scale=alt.Scale(type="point", padding=0.4),
        ),
        y=alt.Y(
            "score:Q", title=None, scale=alt.Scale(zero=False, padding=8),
            axis=alt.Axis(tickCount=3, format="~g", minExtent=40, maxExtent=40),
        ),
    )  # fmt: skip
    color = look(method).color
    marks = base.mark_point(size=55, strokeWidth=2, color=color).encode(
        fill=alt.condition("datum.stage == 'chosen'", alt.value(color), alt.value(None)),
        shape=alt.Shape(
            "state:N", legend=None,
            scale=alt.Scale(domain=["trained", "failed"], range=["circle", charts.CROSS]),
        ),
        tooltip=["place:N", "value:O", "score:Q", alt.Tooltip("rate:Q", title="learning rate")],
    )  # fmt: skip
    panels = alt.layer(
        base.mark_line(strokeWidth=1.6, color=color), marks.add_params(charts.zoom(encodings=["y"]))
    )
    facets = panels.properties(height=110).facet(
        facet=alt.Facet("place:N", title=None, sort=list(found), header=charts.header()),
        data=charts.records(rows),
        columns=1,
    )
    return charts.spec(
        facets.resolve_axis(x="independent", y="independent")
        .resolve_scale(y="independent")
        .properties(spacing=18)
    )


def _argument_rows(place: str, each: Tried) -> list[dict[str, Any]]:
    rows = []
    for arguments, value in each.values.items():
        square = min(each.row(arguments), key=lambda square: square.median("valid"))
        rows.append(
            {
                "place": place,
                "value": value,
                "score": square.median("test"),
                "rate": square.runs[0]["learning_rate"],
                "stage": "chosen" if arguments == each.chosen else "other",
                "state": "trained" if square.usable else "failed",
            }
        )
    return rows


def _thresholds(content: Content, method: str) -> Figure | None:
    found = tried(content, method)
    place = typical(found)
    run = shown(found[place])
    runs = found[place].runs
    if not np.isfinite(runs.curve(run, "threshold")).any():
        return None
    title = f"Its threshold on {place}"
    return Figure(
        name="threshold",
        title=title,
        caption=f"Grey: the norm of the whole gradient at each update, before clipping. Coloured: "
        f"the threshold, as the method measures it. {valued(method, run['value'])}, learning rate "
        f"{run['learning_rate']:g}, seed {run['seed']}: {share(run['clip_share'])} of the "
        f"steps clipped, test score {score(run['test'])}. Row {run['row']} of runs.parquet.",
        described=f"Norms of the gradient and thresholds of {method} over the updates of one run.",
        spec=traces.thresholds(runs, run),
        command=content.command([place], [method]),
        numbers=traces.numbers(runs, run, title),
    )
