"""Figures of the page, as SVG that takes its colours from the style sheet around it."""

import io
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

import clipax
from experiments.clippers import LEGEND
from experiments.results import Run, Study

NAMES = {"tanh": "tanh RNN", "lstm": "LSTM"}
# Colours that occur nowhere else: on the page they become variables of its style sheet.
_PAGE = {"ink": "#010203", "muted": "#040506", "grid": "#070809"}
_WHITE = {"ink": "#1c2127", "muted": "#5b6570", "grid": "#dfe3e8"}
_NLL = "validation NLL, nats per step"
_numbers = itertools.count()


def _style(ink: str, muted: str, grid: str) -> dict[Any, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "clipax",
        "font.size": 9.5,
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": muted,
        "axes.linewidth": 0.6,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "grid.color": grid,
        "grid.linewidth": 0.7,
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
    }


def rate_panel(study: Study, cell: str, label: str, floor: float) -> str:
    """Score against learning rate for one clipper, with `none` in grey behind it."""
    with plt.rc_context(_style(**_PAGE)):
        figure, axes = plt.subplots(figsize=(2.9, 2.3))
        _rate_axes(axes, study, floor)
        if label != "none" and "none" in study.labels:
            _draw_rates(axes, study, cell, "none", floor, alpha=0.7)
        _draw_rates(axes, study, cell, label, floor)
        _draw_extent(axes, study, cell, label, floor)
        axes.set_ylabel("nats per step")
        return _svg(figure, f"{NAMES[cell]}, {label}: {_NLL}, against learning rate")


def overview(study: Study, cell: str, floor: float) -> str:
    """Score against learning rate for all clippers of one cell."""
    with plt.rc_context(_style(**_PAGE)):
        figure, axes = plt.subplots(figsize=(4.2, 3.1))
        _overview_axes(axes, study, cell, floor)
        axes.set_ylabel(_NLL)
        return _svg(figure, f"{NAMES[cell]}: {_NLL}, against learning rate, all clippers")


def save_overview(study: Study, floor: float, path: Path) -> None:
    """Write the overview of all cells on white, as `path` with the endings .svg and .png."""
    count = len(study.cells)
    with plt.rc_context(_style(**_WHITE)):
        figure, row = plt.subplots(
            1, count, figsize=(1 + 4 * count, 4.4), sharey=True, squeeze=False
        )
        for axes, cell in zip(row[0], study.cells, strict=True):
            _overview_axes(axes, study, cell, floor)
        row[0][0].set_ylabel(_NLL)
        handles, labels = row[0][0].get_legend_handles_labels()
        columns = min(len(labels), 2 * count)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8.5)
        figure.savefig(path.with_suffix(".svg"), facecolor="white", metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), facecolor="white", dpi=160)
        plt.close(figure)


def _overview_axes(axes: Axes, study: Study, cell: str, floor: float) -> None:
    _rate_axes(axes, study, floor)
    note = axes.annotate(
        "independent keys", (0, floor), (4, 2), xycoords=("axes fraction", "data"),
        textcoords="offset points", fontsize=8, color=plt.rcParams["axes.labelcolor"],
    )  # fmt: skip
    note.set_in_layout(False)
    for label in study.labels:
        _draw_rates(axes, study, cell, label, floor)
    axes.set_title(NAMES[cell])


def _rate_axes(axes: Axes, study: Study, floor: float) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(study.rates))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.set_ylim(_lowest(study, floor), _ceiling(floor))
    axes.axhline(floor, color=plt.rcParams["axes.labelcolor"], linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xlabel("learning rate")


def _lowest(study: Study, floor: float) -> float:
    scores = [run["valid_nll"] for run in study.study if math.isfinite(run["valid_nll"])]
    return min([floor, *scores]) - 0.15


def _ceiling(floor: float) -> float:
    return floor + 0.5


def _draw_rates(
    axes: Axes, study: Study, cell: str, label: str, floor: float, alpha: float = 1.0
) -> None:
    """Medians; what lies above the scale is a cross on its edge."""
    row, top = LEGEND[label], _ceiling(floor)
    medians = np.array([square.median("valid_nll") for square in study.row(cell, label)])
    inside, rates = medians < top, np.array(study.rates)
    look = {"color": row.color, "alpha": alpha, "linewidth": 1.5, "markersize": 4.5}
    shown = np.where(inside, medians, top)
    axes.plot(rates, shown, label=label, marker=row.marker, markevery=inside.tolist(), **look)
    if not inside.all():  # an empty line that is not clipped would take room at the origin
        axes.plot(
            rates[~inside], np.full((~inside).sum(), top), "x", color=row.color, alpha=alpha,
            markersize=6.5, markeredgewidth=1.8, clip_on=False, zorder=4,
        )  # fmt: skip


def _draw_extent(axes: Axes, study: Study, cell: str, label: str, floor: float) -> None:
    squares = study.row(cell, label)
    low, high = np.transpose([square.extent("valid_nll") for square in squares])
    top = _ceiling(floor)
    color = LEGEND[label].color
    axes.fill_between(
        study.rates, np.minimum(low, top), np.minimum(high, top), color=color, alpha=0.22, lw=0
    )


def curves(study: Study, run: Run, spans: Sequence[tuple[float, float]]) -> str:
    """Loss above, gradient norm and threshold below, over the steps of one run."""
    with plt.rc_context(_style(**_PAGE)):
        figure, (above, below) = plt.subplots(2, 1, figsize=(3.9, 3.9), sharex=True)
        color = LEGEND[run["label"]].color
        _draw_curve(above, study.curve(run, "loss"), "loss", color)
        _draw_curve(below, study.curve(run, "norm"), "gradient norm", color)
        _draw_threshold(below, study.curve(run, "threshold"))
        for axes, span in zip((above, below), spans, strict=True):
            _log_axis(axes, *span)
        above.set_ylabel("loss, nats per step")
        below.set_ylabel("gradient norm (L2)")
        below.set_xlabel("update")
        below.legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=2, fontsize=8.5, borderpad=0)
        return _svg(figure, f"Loss, gradient norm and threshold of {title(run)}")


def title(run: Run) -> str:
    """A run in words."""
    where = f"{NAMES[run['cell']]}, learning rate {run['learning_rate']:g}, seed {run['seed']}"
    return f"{run['label']} ({where})"


def save_suggestion(
    norms: np.ndarray, found: clipax.Suggestion, described: str, path: Path
) -> None:
    """Draw the norms of a run, its spikes, its changes of level and the threshold, on white."""
    with plt.rc_context(_style(**_WHITE)):
        figure, axes = plt.subplots(figsize=(8, 3.6))
        _log_axis(axes, *_span(np.append(norms, found.threshold)))
        _draw_curve(axes, norms, "gradient norm", "#3b6ea5")
        spikes = list(found.spikes)
        if spikes:
            axes.plot(spikes, norms[spikes], "x", color="#c2571a", label="spikes")
        for i, step in enumerate(found.changes):
            label = None if i else "change of the level"
            axes.axvline(step, color="#8a6fb0", linestyle=(0, (1, 2)), label=label)
        _draw_threshold(axes, np.full(len(norms), found.threshold))
        axes.set_xlabel("update")
        axes.set_ylabel("gradient norm (L2)")
        axes.set_title(f"{described}: threshold {found.threshold:.3g}", pad=24)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 0.99), ncols=4, fontsize=8.5, borderpad=0)
        figure.savefig(path, facecolor="white", metadata={"Date": None})
        plt.close(figure)


def curve_spans(study: Study, runs: Sequence[Run]) -> list[tuple[float, float]]:
    """Scales that several runs share, for the loss and for the norm with its threshold."""
    panels = (("loss",), ("norm", "threshold"))
    return [
        _span(np.concatenate([study.curve(run, name) for name in names for run in runs]))
        for names in panels
    ]


def _log_axis(axes: Axes, low: float, high: float) -> None:
    steps = (1, 2, 5) if high / low < 100 else (1,)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def plain(value: float) -> str:
    """A number of a logarithmic axis: powers of ten as such where they are long."""
    power = round(math.log10(value))
    if 1e-3 < value < 1e4 or not math.isclose(value, 10.0**power):
        return f"{value:g}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _span(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values) & (values > 0)]
    return (values.min() / 1.4, values.max() * 1.4) if len(values) else (0.1, 10.0)


def _draw_curve(axes: Axes, values: np.ndarray, label: str, color: str) -> None:
    good = np.isfinite(values) & (values > 0)
    axes.plot(np.where(good, values, np.nan), color=color, linewidth=1.1, label=label)
    if not good.all():
        first = int(np.argmin(good))
        axes.axvline(first, color=color, linewidth=1, linestyle=":")
        note = axes.annotate(
            "not finite", (first, 0.94), (4, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=8.5, va="top",
        )  # fmt: skip
        note.set_in_layout(False)


def _draw_threshold(axes: Axes, values: np.ndarray) -> None:
    if np.isfinite(values).any():
        ink = plt.rcParams["text.color"]
        axes.plot(values, color=ink, linewidth=1.3, linestyle=(0, (5, 2)), label="threshold")


def _svg(figure: Figure, description: str) -> str:
    """The figure as an element to put into a page, with identifiers of its own."""
    text = io.StringIO()
    bare = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=bare)
    plt.close(figure)
    body = text.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>", "", body[body.index("<svg") :], flags=re.S)
    for name, color in _PAGE.items():
        body = body.replace(color, f"var(--{name})")
    prefix = f"f{next(_numbers)}-"
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", body)
    described = f'<svg role="img" aria-label="{description}"'
    return body.replace("<svg", described, 1)
