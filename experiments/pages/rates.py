"""Score against learning rate: a panel for each method, and the squares as a table."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import numpy as np

from experiments import charts
from experiments.charts import Figure
from experiments.pages.content import Content, Told, Tried, look, valued
from experiments.pages.tables import Cell, Column, Table, score, share
from experiments.results import Square

_HEIGHT, _PANEL = 128, 190
_SERIES = ("none", "default", "chosen")
Row = dict[str, Any]


def figure(content: Content, place: str, told: Told) -> Figure:
    """Test score of every method against the learning rate, one panel each."""
    tried = content.tried[place]
    span = _span(tried)
    rows = [row for name, each in tried.items() for row in _panel(name, each, tried, span[1])]
    return Figure(
        name=f"{anchor(place)}-rates",
        title=f"{place}: score against learning rate",
        caption=_caption(tried),
        described=f"Test score of {len(tried)} methods on {place} against the learning rate, "
        "one panel a method. The table below has the numbers.",
        spec=_chart(rows, span, _floor(tried), told.unit, list(tried), _rates(tried)),
        command=content.command([place], tried),
        panel=_PANEL,
    )


def _caption(tried: Mapping[str, Tried]) -> str:
    tuned = any(each.chosen != each.default for each in tried.values())
    lines = (
        "Solid: the argument that validation chose; dashed: the default. "
        if tuned
        else "Default arguments. "
    )
    grey = "Grey: no clipping. " if "none" in tried else ""
    return (
        f"{lines}{grey}Median test score over seeds and their extent; lower is better. "
        "A cross: some seed failed; one on the upper edge lies above the scale. The dotted line "
        "is the score above which a run has failed."
    )


def _span(tried: Mapping[str, Tried]) -> tuple[float, float]:
    """Ends of the axis of scores; what is far worse than failed is a cross on the upper edge."""
    known = [run["test"] for each in tried.values() for run in each.grid]
    known = [value for value in known if math.isfinite(value)]
    floor = _floor(tried)
    inside = [value for value in known if value <= floor] or known or [0.0]
    upper = floor if math.isfinite(floor) else max(inside)
    padding = 0.08 * (upper - min(inside)) or 0.1
    return min(inside) - padding, upper + 2 * padding


def _floor(tried: Mapping[str, Tried]) -> float:
    return next(iter(next(iter(tried.values())).grid))["floor"]


def _rates(tried: Mapping[str, Tried]) -> list[float]:
    return sorted({rate for each in tried.values() for rate in each.grid.rates})


def _panel(name: str, each: Tried, tried: Mapping[str, Tried], top: float) -> Iterator[Row]:
    lines = {"chosen": each.chosen, "default": each.default}
    if each.chosen == each.default:
        del lines["default"]
    for series, arguments in lines.items():
        yield from _line(name, name, series, arguments, each, top)
    if name != "none" and "none" in tried:
        plain = tried["none"]
        yield from _line(name, "none", "none", plain.default, plain, top)


def _line(
    panel: str, method: str, series: str, arguments: str, each: Tried, top: float
) -> Iterator[Row]:
    for square in each.row(arguments):
        middle, (low, high) = square.median("test"), square.extent("test")
        yield {
            "panel": panel,
            "series": series,
            "color": look(method).color,
            "rate": square.runs[0]["learning_rate"],
            "shown": min(middle, top),
            "low": min(low, top),
            "high": min(high, top),
            "score": score(middle),
            "extent": f"{score(low)} to {score(high)}",
            "failed": f"{square.failures} of {len(square.runs)}",
            "state": "trained" if square.usable else "failed",
            "arguments": valued(method, each.values[arguments]),
        }


def _chart(
    rows: list[Row],
    span: tuple[float, float],
    floor: float,
    unit: str,
    order: list[str],
    rates: list[float],
) -> charts.Spec:
    base = alt.Chart().encode(
        x=charts.rate_axis(rates),
        color=charts.fixed_color(),
        detail="series:N",
    )
    shown = alt.Y(
        "shown:Q", title=unit, scale=alt.Scale(domain=_domain(*span), nice=False, zero=False),
        axis=alt.Axis(tickCount=4, minExtent=34, maxExtent=34),
    )  # fmt: skip
    band = (
        base.transform_filter("datum.series != 'none'")
        .mark_area(opacity=0.16, clip=True)
        .encode(y=alt.Y("low:Q", scale=alt.Scale(zero=False)), y2="high:Q")
    )
    line = base.mark_line(strokeWidth=1.8, clip=True).encode(
        y=shown,
        strokeDash=alt.StrokeDash(
            "series:N", legend=None, scale=alt.Scale(domain=_SERIES, range=[[1, 0], [5, 3], [1, 0]])
        ),
        opacity=alt.Opacity("series:O", legend=None, scale=_fading()),
    )
    marks = base.mark_point(filled=False, strokeWidth=2).encode(
        y=shown,
        shape=alt.Shape(
            "state:N",
            legend=None,
            scale=alt.Scale(domain=["trained", "failed"], range=["circle", charts.CROSS]),
        ),
        size=alt.Size(
            "state:O", legend=None, scale=alt.Scale(domain=["trained", "failed"], range=[26, 90])
        ),
        opacity=alt.Opacity("series:O", legend=None, scale=_fading()),
        tooltip=_tooltip(),
    )
    layers = alt.layer(_limit(floor), band, line, marks.add_params(charts.zoom()))
    panels = layers.properties(height=_HEIGHT).facet(
        facet=alt.Facet("panel:N", title=None, sort=order, header=charts.header()),
        data=charts.records(rows),
        columns=1,
    )
    return charts.spec(panels.resolve_axis(x="independent").properties(spacing=18))


def _domain(low: float, top: float) -> list[float]:
    """Ends of the axis, with room for a cross on its edge."""
    return [low, top + 0.06 * (top - low)]


def _fading() -> alt.Scale:
    return alt.Scale(domain=_SERIES, range=[0.55, 0.8, 1])


def _limit(floor: float) -> alt.Chart:
    """A dotted line where runs have failed, in each panel."""
    height = floor if math.isfinite(floor) else None
    return (
        alt.Chart(charts.rows({"floor": [height]}))
        .mark_rule(strokeDash=[2, 3], clip=True)
        .encode(y="floor:Q")
    )


def _tooltip() -> list[alt.Tooltip]:
    names = {
        "panel": "panel", "series": "line", "arguments": "argument", "rate": "learning rate",
        "score": "median test score", "extent": "extent over seeds", "failed": "failed runs",
    }  # fmt: skip
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in names.items()]


def squares(content: Content, place: str) -> Table:
    """All methods at the chosen and the default argument, by learning rate."""
    tried = content.tried[place]
    best = min(each.best.median("test") for each in tried.values())
    lines = [
        _squares_row(name, each, arguments, best)
        for name, each in tried.items()
        for arguments in dict.fromkeys((each.chosen, each.default))
    ]
    heads = [f"{rate:g}" for rate in _rates(tried)]
    return Table(
        f"Squares of {place}",
        [Column("method", number=False), *map(Column, heads)],
        lines,
        look="squares",
    )


def _squares_row(name: str, each: Tried, arguments: str, best: float) -> list[Cell]:
    stage = "chosen" if arguments == each.chosen else "default"
    note = valued(name, each.values[arguments])
    if each.chosen != each.default:
        note += f"\n{stage}"
    head = Cell(name, note=note, page=f"method-{name}", color=look(name).color)
    return [head, *(_square(square, each, best) for square in each.row(arguments))]


def _square(square: Square, each: Tried, best: float) -> Cell:
    middle, (low, high) = square.median("test"), square.extent("test")
    notes = [f"{score(low)} to {score(high)}" if len(square.runs) > 1 else ""]
    notes.append(f"clipped {share(square.median('clip_share'))}")
    if square.failures:
        notes.append(f"{square.failures} of {len(square.runs)} failed")
    look = "failed" if square.failures else f"shade-{_shade(middle, best, square)}"
    if square.runs == each.best.runs:
        look += " best"
    return Cell(score(middle), middle, "\n".join(filter(None, notes)), look=look)


def _shade(middle: float, best: float, square: Square) -> int:
    """How good a square is, from 0 (has learnt nothing) to 5 (the best)."""
    trivial = square.runs[0]["trivial"]
    if not best < trivial:
        return 0
    good = (trivial - middle) / (trivial - best)
    return int(np.clip(round(5 * good**2), 0, 5)) if good > 0 else 0


def anchor(place: str) -> str:
    """Address of a variant within the page of its task."""
    return "".join(c if c.isalnum() else "-" for c in place.partition("/")[2])
