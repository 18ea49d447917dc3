"""The page: one self-contained file, and a figure that stands alone."""

import json
import math
import time
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
from rich.table import Table

from experiments import figures, findings
from experiments.clippers import LEGEND
from experiments.results import COLUMNS, Cell, Run, Study
from experiments.store import write_whole

_TEMPLATE = Path(__file__).parent / "report.html.j2"
_FIGURE = "chorales"


def write(table: pa.Table, out: Path) -> Path:
    """Write `report.html` and the figure into a folder and return the path of the page.

    Args:
        table: the runs, with the command and the floors in its metadata.
        out: the folder.
    """
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    study, floors = Study(table), json.loads(about["floors"])
    page = _render(study, floors, about)
    write_whole(out / "report.html", lambda file: file.write(page.encode()))
    figures.save_overview(study, floors["valid"], out / _FIGURE)
    return out / "report.html"


def _render(study: Study, floors: dict[str, float], about: dict[str, str]) -> str:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["score"] = score
    floor = floors["valid"]
    return environment.from_string(_TEMPLATE.read_text()).render(
        names=figures.NAMES,
        study=study,
        floors=floors,
        findings=findings.findings(study),
        facts=_facts(study, about),
        legend=[_legend(label) for label in study.labels],
        grids=[_grid(study, cell, floor) for cell in study.cells],
        panels={c: [_panel(study, c, label, floor) for label in study.labels] for c in study.cells},
        overviews=[figures.overview(study, cell, floor) for cell in study.cells],
        curves=_curves(study),
        reference=sorted(study.reference, key=lambda run: run["seed"]),
        reference_test=Cell(tuple(study.reference)).median("test_nll"),
        first=study.study[0],
        columns=COLUMNS,
    )


def _facts(study: Study, about: dict[str, str]) -> dict[str, Any]:
    versions = json.loads(study.runs[0]["versions"])
    return {
        "runs": len(study.runs),
        "failed": sum(run["failed"] for run in study.study),
        "seconds": int(about["seconds"]),
        "command": about["command"],
        "finished": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(int(about["finished"]))),
        "machine": versions.pop("machine"),
        "source": versions.pop("source"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "data_hash": study.runs[0]["data_hash"],
    }


def _legend(label: str) -> dict[str, Any]:
    row = LEGEND[label]
    pairs = ", ".join(f"{key} = {value:g}" for key, value in row.arguments.items())
    return {"label": label, "row": row, "arguments": pairs or "no clipping"}


def _panel(study: Study, cell: str, label: str, floor: float) -> dict[str, str]:
    return {"label": label, "svg": figures.rate_panel(study, cell, label, floor)}


def _grid(study: Study, cell: str, floor: float) -> dict[str, Any]:
    scores = [s.median("valid_nll") for label in study.labels for s in study.row(cell, label)]
    best = min(scores)
    rows = [
        {
            "label": label,
            "color": LEGEND[label].color,
            "squares": [_square(s, best, floor) for s in study.row(cell, label)],
        }
        for label in study.labels
    ]
    return {"cell": cell, "rows": rows}


def _square(square: Cell, best: float, floor: float) -> dict[str, Any]:
    middle = square.median("valid_nll")
    good = (floor - middle) / (floor - best) if middle < floor else 0.0
    low, high = square.extent("valid_nll")
    return {
        "median": middle,
        "low": low,
        "high": high,
        "best": middle == best,
        "shade": round(60 * max(good, 0) ** 2),
        "failures": square.failures,
        "runs": len(square.runs),
        "clipped": square.median("clip_share"),
        "spikes": square.median("spike_score"),
        "test": square.median("test_nll"),
    }


def score(value: float) -> str:
    """A score in as few signs as it needs; a failed run's may be astronomical or not finite."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.2f}" if value < 1000 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def _curves(study: Study) -> list[dict[str, Any]]:
    """Three runs of a cell with the same learning rate and seed: exploding, calm, chasing."""
    return [made for cell in study.cells if (made := _cell_curves(study, cell))]


def _cell_curves(study: Study, cell: str) -> dict[str, Any] | None:
    chosen = choose_curves(study, cell)
    if not chosen:
        return None
    runs = list(chosen.values())
    spans = figures.curve_spans(study, runs)
    shown = [
        {
            "role": role,
            "title": figures.title(run),
            "run": run,
            "svg": figures.curves(study, run, spans),
        }
        for role, run in chosen.items()
    ]
    return {"cell": cell, "runs": shown}


def choose_curves(study: Study, cell: str) -> dict[str, Run]:
    """An exploding run, a calm one and a clipped one that failed, of the same rate and seed.

    The learning rate is the smallest at which some run explodes and another does not fail; where
    there is none, there is nothing to choose and the dict is empty.
    """
    for rate, seed in sorted({(r["learning_rate"], r["seed"]) for r in study.study}):
        here = [run for run in study.study if _is_at(run, cell, rate, seed)]
        calm = [run for run in here if not run["failed"]]
        lost = [run for run in here if run["failed"] and exploded(study.curve(run, "loss"))]
        if calm and lost:
            return _roles(calm, lost)
    return {}


def _is_at(run: Run, cell: str, rate: float, seed: int) -> bool:
    return (run["cell"], run["learning_rate"], run["seed"]) == (cell, rate, seed)


def exploded(losses: np.ndarray) -> bool:
    """Whether a loss rose to twice its start or was not finite."""
    return bool(not np.isfinite(losses).all() or losses.max() > 2 * losses[0])


def _roles(calm: list[Run], lost: list[Run]) -> dict[str, Run]:
    plain = [run for run in lost if run["label"] == "none"]
    exploding = plain[0] if plain else max(lost, key=_badness)
    chosen = {"exploding": exploding, "calm": min(calm, key=_badness)}
    others = [run for run in lost if run is not exploding and run["label"] != "none"]
    worst = {"clipped, exploding all the same": max(others, key=_badness)} if others else {}
    return chosen | worst


def _badness(run: Run) -> float:
    value = run["valid_nll"]
    return value if math.isfinite(value) else math.inf


def summary(table: pa.Table) -> Table:
    """The best square of each clipper and cell, for the terminal."""
    study = Study(table)
    shown = Table(
        title="best learning rate by validation, medians over seeds", title_justify="left"
    )
    for name in ("cell", "clipper", "rate", "valid", "test", "clipped", "failed runs"):
        shown.add_column(name, justify="left" if name in ("cell", "clipper") else "right")
    for cell in study.cells:
        for label in study.labels:
            shown.add_row(cell, label, *_summary_row(study, cell, label))
    return shown


def _summary_row(study: Study, cell: str, label: str) -> list[str]:
    rate, square = findings.best(study, cell, label)
    row = study.row(cell, label)
    return [
        f"{rate:g}",
        score(square.median("valid_nll")),
        score(square.median("test_nll")),
        f"{square.median('clip_share'):.0%}",
        f"{sum(s.failures for s in row)} of {sum(len(s.runs) for s in row)}",
    ]
