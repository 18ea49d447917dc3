"""The page of claims: what a paper says, what was run, and whether it holds here."""

import math
from typing import Any, NamedTuple

import altair as alt

from experiments import answers, charts, claims
from experiments.answers import Answer, Picture
from experiments.charts import Figure
from experiments.claims import Claim
from experiments.pages.content import Content, look
from experiments.pages.tables import Table, score, simple

ABOUT = (
    "What papers say, tried on this scale. A claim that does not hold here may hold where it was "
    "made. Surely means by more than chance: one-sided p < 0.05, in each test by itself."
)
_LOOKS = {answers.HOLDS: "better", answers.FAILS: "worse"}
_SHAPES = ("circle", "square", "diamond", "triangle-up")
_PANEL = 260


class Shown(NamedTuple):
    """A claim with its answer, as the template shows it."""

    name: str
    says: str
    verdict: str
    look: str
    reason: str
    figure: Figure | None
    table: Table | None
    source: str
    differs: str
    decides: str
    command: str
    tasks: list[str]


def shown(content: Content) -> list[Shown]:
    """Claims for which there are runs."""
    parts = content.runs.distinct("part")
    return [_shown(content, claim) for claim in claims.ALL if claim.name in parts]


def _shown(content: Content, claim: Claim) -> Shown:
    answer = claim.answer(content.runs)
    verdict = answer.verdict if answer else answers.UNDECIDED
    return Shown(
        name=claim.name,
        says=claim.says,
        verdict=verdict.capitalize(),
        look=_LOOKS.get(verdict, "same"),
        reason=answer.reason if answer else "Some of the runs that decide are missing.",
        figure=_figure(content, claim, answer) if answer else None,
        table=simple(claim.says, answer.columns, answer.rows) if answer else None,
        source=claim.source,
        differs=claim.differs,
        decides=claim.decides,
        command=content.facts["command"],
        tasks=content.runs.where(part=claim.name).distinct("task"),
    )


def _figure(content: Content, claim: Claim, answer: Answer) -> Figure:
    picture = answer.picture
    extents = _has_extents(picture)
    bars = "The bar is the extent over seeds." if extents else "The numbers of the table below."
    return Figure(
        name=f"{claim.name}-figure",
        title=f"{picture.value.capitalize()} by {picture.at}",
        caption=f"{bars} {picture.note}".strip(),
        described=f"{picture.value} by {picture.at}; the table below has the numbers.",
        spec=chart(picture),
        command=content.facts["command"],
        panel=_PANEL if any(mark.panel for mark in picture.marks) else 0,
    )


def chart(picture: Picture) -> charts.Spec:
    """Points of each series, with lines where numbers are what they stand at."""
    series = list(dict.fromkeys(mark.series for mark in picture.marks))
    panels = list(dict.fromkeys(mark.panel for mark in picture.marks))
    base = _base(picture, series)
    value = _value(picture, "value")
    layers = [
        base.mark_point(size=70, filled=True, opacity=1).encode(
            y=value, shape=_scale(alt.Shape, series, _SHAPES), tooltip=_tooltip(picture)
        )
    ]
    if _has_extents(picture):
        bars = base.mark_rule(strokeWidth=2, opacity=0.5)
        layers.insert(0, bars.encode(y=_value(picture, "low"), y2="high:Q"))
    if _numbers(picture):
        layers.insert(0, base.mark_line(strokeWidth=1.8).encode(y=value))
    data = charts.records([mark._asdict() | {"told": score(mark.value)} for mark in picture.marks])
    drawn = alt.layer(*layers).properties(height=220)
    if len(panels) == 1:
        return charts.spec(drawn.properties(data=data))
    facet = alt.Facet("panel:N", title=None, sort=panels, header=charts.header())
    apart = drawn.facet(facet=facet, data=data, columns=1)
    return charts.spec(apart.resolve_axis(x="independent").properties(spacing=18))


def _has_extents(picture: Picture) -> bool:
    return any(math.isfinite(mark.low) for mark in picture.marks)


def _numbers(picture: Picture) -> list[float]:
    """What points stand at, if those are numbers."""
    return sorted({mark.at for mark in picture.marks if not isinstance(mark.at, str)})


def _base(picture: Picture, series: list[str]) -> alt.Chart:
    color = _scale(alt.Color, series, [look(name).color for name in series])
    found = alt.Chart().encode(color=color)
    numbers = _numbers(picture)
    if numbers:
        scale = alt.Scale(type="log", domain=charts.span(numbers, 1.25), nice=False)
        axis = alt.Axis(values=numbers, format=".3~r", labelOverlap=True, grid=False)
        return found.encode(x=alt.X("at:Q", title=picture.at, scale=scale, axis=axis))
    axis = alt.Axis(labelAngle=0, grid=False, labelLimit=120)
    order = list(dict.fromkeys(str(mark.at) for mark in picture.marks))
    found = found.encode(x=alt.X("at:N", title=picture.at, sort=order, axis=axis))
    if set(series) & set(order):
        return found
    return found.encode(xOffset=alt.XOffset("series:N", sort=series))


def _value(picture: Picture, column: str) -> alt.Y:
    scale = alt.Scale(type="log") if picture.logarithmic else alt.Scale(zero=False)
    return alt.Y(f"{column}:Q", title=picture.value, scale=scale)


def _scale(channel: Any, series: list[str], values: Any) -> Any:
    """A colour or a shape for each series, with one legend for both, if there are several."""
    legend = alt.Legend(title=None) if len(series) > 1 else None
    scale = alt.Scale(domain=series, range=list(values)[: len(series)])
    return channel("series:N", scale=scale, legend=legend)


def _tooltip(picture: Picture) -> list[alt.Tooltip]:
    names = {"series": "method", "at": picture.at, "told": picture.value}
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in names.items()]
