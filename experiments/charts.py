"""What all figures share: how a figure is described, its data, its scales and its two themes.

Figures are Vega-Lite specifications. Inks that depend on the theme are named styles of its
configuration, so that one specification serves light and dark paper; families of methods have
colours that can be read on both.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import altair as alt
import numpy as np

from experiments.pages.tables import Table

Spec = dict[str, Any]
CROSS = "M-0.6,-0.6L0.6,0.6M0.6,-0.6L-0.6,0.6"
BEHIND = "behind"  # the style of a line that others are compared with
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif'
_INKS = {
    "light": {"ink": "#1d2329", "muted": "#59636e", "grid": "#e6e9ec"},
    "dark": {"ink": "#e6eaee", "muted": "#a2acb6", "grid": "#2b333b"},
}
THEMES = tuple(_INKS)


class Figure(NamedTuple):
    """A figure of the page.

    Attributes:
        name: its address within its page.
        title: what it shows.
        caption: how to read it.
        described: what it says to whoever cannot see it.
        spec: the chart.
        command: what makes its runs.
        numbers: the same as a table; None where the page has that table anyway.
        panel: least width of one panel, where there are several side by side; 0 for one.
    """

    name: str
    title: str
    caption: str
    described: str
    spec: Spec
    command: str
    numbers: Table | None = None
    panel: int = 0


def theme(name: str) -> Spec:
    """Vega-Lite configuration for `light` or `dark` paper."""
    ink = _INKS[name]
    label = {"labelColor": ink["muted"], "titleColor": ink["muted"], "labelFontSize": 12}
    axis = label | {
        "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": ink["grid"],
        "domain": False, "ticks": False, "labelPadding": 6, "titlePadding": 8,
    }  # fmt: skip
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "header": {"labelColor": ink["ink"], "labelFontSize": 13, "labelFontWeight": 600},
        "legend": label | {"orient": "top", "title": None, "symbolStrokeWidth": 2},
        "title": {"color": ink["ink"], "fontSize": 13, "anchor": "start"},
        "rule": {"color": ink["muted"]},
        "text": {"color": ink["muted"], "fontSize": 12},
        "style": {
            BEHIND: {"color": ink["muted"]},
        },
    }


def rows(columns: Mapping[str, Iterable[Any]]) -> alt.InlineData:
    """Data of a chart, by column; numbers keep four digits, and none that is not finite."""
    known = {name: list(values) for name, values in columns.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(known)
    writer.writerows(zip(*(map(_short, values) for values in known.values()), strict=True))
    # Said of each column: what is guessed would make 0 of a number that is not there.
    kinds = {name: "string" if _is_text(values) else "number" for name, values in known.items()}
    return alt.InlineData(text.getvalue(), format=alt.CsvDataFormat(type="csv", parse=kinds))


def _is_text(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str) for value in values)


def _short(value: Any) -> Any:
    if not isinstance(value, float | np.floating):
        return value
    return f"{value:.4g}" if math.isfinite(value) else None


def records(runs: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Data of a chart, by row; all rows have the same keys."""
    return rows({name: [run[name] for run in runs] for name in (runs[0] if runs else ())})


def zoom(name: str = "zoom", encodings: Sequence[Literal["x", "y"]] = ("x", "y")) -> alt.Parameter:
    """Drag to move and turn the wheel with Ctrl to zoom: the wheel alone scrolls the page."""
    mouse = "[pointerdown[event.pointerType !== 'touch'], window:pointerup] > window:pointermove!"
    wheel = "wheel![event.ctrlKey || event.metaKey]"
    return alt.selection_interval(
        name=name, encodings=list(encodings), bind="scales", on=mouse, translate=mouse,
        zoom=wheel, clear="dblclick",
    )  # fmt: skip


def span(values: Iterable[float], padding: float = 1.4) -> list[float]:
    """Ends of a logarithmic axis that holds all positive and finite values."""
    known = np.asarray(list(values), float)
    known = known[np.isfinite(known) & (known > 0)]
    if not known.size:
        return [0.1, 10.0]
    return [float(known.min()) / padding, float(known.max()) * padding]


def logarithmic(ends: Sequence[float], title: str, name: str) -> alt.Y:
    """A logarithmic axis of a column, with a handful of ticks."""
    return alt.Y(
        f"{name}:Q",
        title=title,
        scale=alt.Scale(type="log", domain=list(ends), nice=False),
        axis=alt.Axis(values=_ticks(*ends), labelExpr=_POWERS, minExtent=44, maxExtent=44),
    )


# Powers of ten as such where they are long.
_POWERS = (
    "datum.value >= 1e4 || datum.value < 1e-3 ? replace(format(datum.value, '.0e'), '+', '') "
    ": format(datum.value, '~g')"
)


def _ticks(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    if last - first < 2:
        steps = [m * 10.0**p for p in range(first - 1, last + 1) for m in (1, 2, 5)]
        return [step for step in steps if low <= step <= high]
    return [10.0**power for power in range(first, last + 1, (last - first) // 4 or 1)]


def rate_axis(rates: Sequence[float]) -> alt.X:
    """The axis of learning rates, with a tick at each."""
    return alt.X(
        "rate:Q",
        title="learning rate",
        scale=alt.Scale(type="log", domain=span(rates, 1.25), nice=False),
        axis=alt.Axis(values=list(rates), format="~g", grid=False, labelOverlap=True),
    )


def header() -> alt.Header:
    """The name of a panel, above its left end."""
    return alt.Header(labelAnchor="start", labelPadding=4)


def fixed_color() -> alt.Color:
    """Colours that the data name themselves."""
    return alt.Color("color:N", scale=None)


def spec(chart: alt.TopLevelMixin) -> Spec:
    """A chart as Vega-Lite without the theme of Altair."""
    with alt.data_transformers.enable(consolidate_datasets=False):
        made = chart.to_dict(validate=False)
    made.pop("config", None)
    made.pop("$schema", None)
    return made
