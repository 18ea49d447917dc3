"""What a run leaves: `results.json`, a page in Markdown, and a picture of each curve."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import altair as alt
import jax
import jinja2
import vl_convert

from benchmarks.cases import Row
from experiments import charts, provenance

PACKAGES = (
    *("jax", "jaxlib", "optax", "numpy", "clipax", "torch", "tensorflow-cpu", "zclip", "autoclip"),
)
PAGE, NUMBERS = "README.md", "results.json"
_TEMPLATE = Path(__file__).with_name("page.md.j2")
ABOUT = {
    "clip": "A gradient is clipped by its global norm, in buffers that may be overwritten.",
    "vmap": "Several runs are clipped at once, under `vmap`.",
    "eager": "The same without `jit`.",
    "step": "A whole step: clipper, Adam, and the addition of the updates to the parameters.",
    "recurrent": "A step of a recurrent net, forward and backward, clipping and SGD.",
    "example": "Gradients of single examples are clipped and added up.",
    "percentile": "The statistic behind a threshold, one norm after the other in a compiled loop.",
    "spectral": "Singular values are clipped; errors are those of float64, over the threshold.",
    "compile": "An update is traced, lowered and compiled anew.",
    "import": "A new process imports the package.",
    "devices": "A step under FSDP on virtual devices, which share two cores.",
    "costs": "What the compiler counts: the same at every run.",
}


def facts(command: str) -> dict[str, Any]:
    """Where and with what something is measured."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": provenance.machine(),
        "versions": versions,
        "backend": jax.default_backend(),
    }


def write(rows: Sequence[Row], about: dict[str, Any], folder: Path) -> None:
    """Put all files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {**about, "rows": [_plain(row) for row in rows]}
    (folder / NUMBERS).write_text(json.dumps(record, indent=1) + "\n")
    curves = list(dict.fromkeys(row.curve for row in rows if row.curve))
    for curve in curves:
        points = [row for row in rows if row.curve == curve]
        for theme in charts.THEMES:
            (folder / picture(curve, theme)).write_text(_drawn(points, theme))
    suites = dict.fromkeys(row.suite for row in rows if not row.curve)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text()).render(
        facts=about,
        suites={name: [row for row in rows if row.suite == name] for name in suites},
        about=ABOUT,
        curves={curve: [row for row in rows if row.curve == curve] for curve in curves},
        picture=picture,
        missed=[row for row in rows if not row.reached],
        aimed=[row for row in rows if row.goal is not None],
        amount=amount,
    )
    (folder / PAGE).write_text(page)


def picture(curve: str, theme: str) -> str:
    """Name of the file of a curve."""
    return f"{curve.replace(',', '').replace(' ', '-')}-{theme}.svg"


def amount(value: float, unit: str) -> str:
    """Seconds in their own unit, and what is counted as it is."""
    if unit != "s":
        return f"{value:,.0f} {unit}" if value >= 1 else f"{value:.1e} {unit}"
    for size, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value * 1e9:.3g} ns"


def _plain(row: Row) -> dict[str, Any]:
    return row._asdict() | {"ratio": row.ratio._asdict(), "reached": row.reached}


def _drawn(rows: Iterable[Row], theme: str) -> str:
    points = list(_points(rows))
    names = list(dict.fromkeys(point["who"] for point in points))
    title = next(iter(rows)).curve if isinstance(rows, Sequence) else ""
    chart = (
        alt.Chart(alt.InlineData(points))
        .mark_line(point=alt.OverlayMarkDef(size=40), strokeWidth=1.8)
        .encode(
            x=alt.X(
                "size:Q",
                title=title,
                scale=alt.Scale(type="log"),
                axis=alt.Axis(grid=False, format="~s"),
            ),
            y=alt.Y(
                "seconds:Q",
                title="seconds",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~g", tickCount=6),
            ),
            color=alt.Color(
                "who:N", sort=names, scale=alt.Scale(domain=names, range=_HUES[: len(names)])
            ),
        )
        .properties(width=620, height=300)
    )
    spec = chart.to_dict() | {"config": charts.theme(theme)}
    return vl_convert.vegalite_to_svg(spec)


_HUES = ["#d9541a", "#2e7dd1", "#8a939c", "#0f8a5f"]


def _points(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for who, value in (("clipax", row.ours), (row.against, row.theirs)):
            if math.isfinite(value):
                yield {"size": row.size, "who": who, "seconds": value}
