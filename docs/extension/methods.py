"""A page for each method: its docstring, a picture, its state, its place in the leaderboard."""

import csv
import functools
import inspect
import pathlib
import re
from typing import Any

import clipax
from experiments import clippers
from experiments.families import FAMILIES
from experiments.pages.tables import share
from extension import pictures, writing

_DOCS = pathlib.Path(__file__).parents[1]
_FOLDER = _DOCS / "methods"
_NO_METHODS = {"ThresholdPolicy", "Suggestion", "clip", "clip_by", "metrics"}
NAMES = [
    name
    for name in clipax.__all__
    if name not in _NO_METHODS and inspect.isfunction(getattr(clipax, name))
]


def write(app: Any) -> None:
    """Write the pages and pictures that are not those of the last build."""
    drawn = {name: pictures.draw(_FOLDER / "pictures", name) for name in pictures.CALLS}
    for name in NAMES:
        writing.put(_FOLDER / f"{name}.md", _page(name, drawn.get(name)))
    writing.put(_FOLDER / "pictures/overview.txt", _small_multiples(drawn))


def link_names(app: Any, docname: str, source: list[str]) -> None:
    """In the tables of methods the name of each leads to its page."""
    if docname == "methods/index":
        source[0] = re.sub(
            r"^\| (`clipax\.(\w+)\([^`]*`)",
            lambda found: f"| [{found[1]}]({found[2]}.md)" if found[2] in NAMES else found[0],
            source[0],
            flags=re.MULTILINE,
        )


def _page(name: str, drawn: pictures.Drawn | None) -> str:
    first = (inspect.getdoc(getattr(clipax, name)) or "").partition("\n")[0]
    parts = [f"# {name}", first]
    if drawn:
        parts += [_shown(drawn.large, f"Norms and thresholds of {name}"), pictures.caption(name)]
    parts += ["\n".join(f"- **{key}**: {value}" for key, value in _facts(name).items())]
    parts += [f"```{{eval-rst}}\n.. autofunction:: clipax.{name}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(paths: dict[str, str], alt: str) -> str:
    return "".join(writing.image(f"pictures/{path}", alt, theme) for theme, path in paths.items())


def _facts(name: str) -> dict[str, str]:
    found = {}
    row = _table().get(name, {})
    if row.get("state"):
        found["State in bytes"] = row["state"].replace(" k", " for each group")
    if row.get("zero norms"):
        found["Zero norms"] = row["zero norms"]
    method = clippers.LEGEND.get(name)
    if method:
        found["Family"] = FAMILIES[method.family].meaning
    standing = _standings().get(name)
    if standing:
        found["[Leaderboard](../leaderboard/README.md)"] = standing
    return found


@functools.cache
def _table() -> dict[str, dict[str, str]]:
    """The first row of each method in the tables of the overview, by the head of its columns."""
    found: dict[str, dict[str, str]] = {}
    head: list[str] = []
    for line in (_FOLDER / "index.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip()[1:-1].split("|")]
        name = re.match(r"\| `clipax\.(\w+)\(", line)
        if name:
            found.setdefault(name[1], dict(zip(head, cells, strict=True)))
        elif line.startswith("| "):
            head = cells
    return found


@functools.cache
def _standings() -> dict[str, str]:
    with (_DOCS / "leaderboard/standings.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {line["method"]: _standing(i, len(lines), line) for i, line in enumerate(lines, 1)}


def _standing(place: int, count: int, line: dict[str, str]) -> str:
    tuned, default, failed = (float(line[key]) for key in ("tuned", "default", "failed"))
    return (
        f"place {place} of {count} by score when tuned, {tuned:.2f} of 1 ({default:.2f} untuned); "
        f"{share(failed)} of its runs failed; against no clipping: {line['verdict']}"
    )


def _small_multiples(drawn: dict[str, pictures.Drawn]) -> str:
    """All pictures, each a link to its page."""
    lines = ["::::{container} multiples", ""]
    for name, each in drawn.items():
        for theme, path in each.small.items():
            lines += [
                f":::{{figure}} pictures/{path}",
                f":figclass: only-{theme}",
                f":alt: Norms and thresholds of {name}",
                f":target: {name}.html",
                "",
                name,
                ":::",
            ]
    return "\n".join([*lines, "", "::::", ""])
