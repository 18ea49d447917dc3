"""What a run leaves: `results.json`, a page in Markdown, and a picture of each curve."""

import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import altair as alt
import jax
import jinja2
import vl_convert

from benchmarks.cases import OURS, SECONDS, Row
from experiments import charts, provenance

PACKAGES = (
    *("clipax", "jax", "jaxlib", "optax", "numpy", "torch", "tensorflow-cpu", "zclip", "autoclip"),
)
PAGE, NUMBERS = "README.md", "results.json"
ABOUT = {
    "clip": "A gradient is clipped by its global norm. It may be overwritten, but not by "
    "TensorFlow, which cannot. *Limit*: as many bytes in as many leaves are read once, to add them "
    "up, and above the threshold once more, to change all bits in place, as XLA does that; what "
    "puts small leaves together can stay below it.",
    "vmap": "Several runs are clipped at once, under `vmap`.",
    "eager": "The same without `jit`.",
    "step": "A whole step: clipper, Adam, and the addition of the updates to the parameters. One "
    "gradient in sixteen stands out, and every warm-up is over.",
    "recurrent": "A step of a recurrent net: forward and backward, clipping and SGD. torch trains "
    "one run at a time, with a thread for each core.",
    "example": "Gradients of single examples are clipped and added up.",
    "percentile": "Thresholds that follow the norms, in a compiled loop; numpy by itself.",
    "spectral": "Singular values are clipped; errors are those of float64, over the threshold.",
    "compile": "An update is traced, lowered and compiled anew, twice.",
    "import": "A new process imports the package.",
    "devices": "A step under FSDP on virtual devices, which share the cores of this machine, with "
    "leaves of 4 MB. What optax's global clip returns is an array of its own in front of Adam, "
    "made anew at every step.",
    "costs": "Read from compiled programs, without the branch that recomputes a norm which left "
    "its range: the same at every run on the same packages.",
}
_TEMPLATE = Path(__file__).with_name("page.md.j2")
_HUES = ("#d9541a", "#2e7dd1", "#8a939c", "#0f8a5f")


def facts(command: str) -> dict[str, Any]:
    """Where and with what something is measured."""
    return {
        "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": provenance.machine(),
        "backend": jax.default_backend(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def write(rows: Sequence[Row], about: dict[str, Any], folder: Path) -> None:
    """Put all files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    record = about | {"rows": [row.plain() for row in rows]}
    (folder / NUMBERS).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    curves = _by([row for row in rows if row.case.curve], lambda row: row.case.curve)
    for curve, points in curves.items():
        for theme in charts.THEMES:
            (folder / picture(curve, theme)).write_text(_drawn(curve, points, theme))
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text()).render(
        facts=about,
        suites=_by([row for row in rows if not row.case.curve], lambda row: row.case.suite),
        about=ABOUT,
        curves=curves,
        picture=picture,
        aimed=sum(row.goal is not None for row in rows),
        missed=sum(not row.reached for row in rows),
        amount=amount,
    )
    (folder / PAGE).write_text(page)


def _by(rows: Sequence[Row], key: Any) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def picture(curve: str, theme: str) -> str:
    """Name of the file of a curve."""
    return f"{curve.replace(',', '').replace(' ', '-')}-{theme}.svg"


def amount(value: float, unit: str) -> str:
    """Seconds in their own unit, and what is counted as it is."""
    if unit != SECONDS:
        return f"{value:,.0f} {unit}" if value >= 1 else f"{value:.1e} {unit}"
    for size, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= 0.9995 * size:  # rounded it is one of them
            return f"{value / size:.3g} {name}"
    return f"{value * 1e9:.3g} ns"


def _drawn(curve: str, rows: Sequence[Row], theme: str) -> str:
    points = list(_points(rows))
    names = list(dict.fromkeys(point["who"] for point in points))
    logarithmic = alt.Scale(type="log", nice=False)
    chart = (
        alt.Chart(alt.InlineData(points))
        .mark_line(point=alt.OverlayMarkDef(size=40), strokeWidth=1.8)
        .encode(
            x=alt.X("size:Q", title=curve, scale=logarithmic, axis=alt.Axis(grid=False)),
            y=alt.Y("seconds:Q", title="seconds", scale=logarithmic),
            color=alt.Color(
                "who:N", sort=names, scale=alt.Scale(domain=names, range=_HUES[: len(names)])
            ),
        )
        .properties(width=620, height=300)
    )
    return vl_convert.vegalite_to_svg(chart.to_dict() | {"config": charts.theme(theme)})


def _points(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for who, value in ((OURS, row.ours), (row.against, row.theirs)):
            if math.isfinite(value):
                yield {"size": row.case.size, "who": who, "seconds": value}
