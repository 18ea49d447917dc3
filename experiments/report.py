"""The page: a static site in a folder, one self-contained file, and a summary for the terminal."""

import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe
import pyarrow as pa
import vl_convert
from rich.table import Table

from experiments import charts
from experiments.families import FAMILIES
from experiments.pages import board, claims, methods, record, tasks, thresholds
from experiments.pages.content import Content, Tried, look, told, valued
from experiments.pages.reading import LIMITS
from experiments.pages.tables import Cell, score, share
from experiments.standings import Leaderboard
from experiments.store import write_text

_TEMPLATES = Path(__file__).parent / "templates"
_PLACES = {
    "gradient": "the gradient, before the optimizer sees it",
    "update": "the optimizer's update",
    "optimizer": "around the optimizer",
}


class Page(NamedTuple):
    """A page.

    Attributes:
        id: its address.
        title: what the browser calls it.
        menu: address of the entry of the menu that it belongs to.
        template: what renders it.
        values: what the template reads.
    """

    id: str
    title: str
    menu: str
    template: str
    values: dict[str, Any]


def write(table: pa.Table, out: Path) -> Path:
    """Write the site into `out/site` and all its pages as one file, `out/report.html`.

    Args:
        table: the runs, with the command in its metadata.
        out: the folder of `runs.parquet`, which the pages link to.

    Returns:
        The path of the one file.
    """
    content = Content(table)
    pages = list(_pages(content))
    same = _same(content, pages)
    site = out / "site"
    site.mkdir(parents=True, exist_ok=True)
    files = _site(pages, same)
    for name, text in files.items():
        write_text(site / name, text)
    for old in set(site.glob("*.html")) - {site / name for name in files}:
        old.unlink()
    write_text(out / "report.html", _single(pages, same))
    return out / "report.html"


def _site(pages: list[Page], same: dict[str, Any]) -> dict[str, str]:
    """Files of the site by name."""
    files = {f"{_address(page, pages)}.html": _site_page(page, pages, same) for page in pages}
    assets = {name: _asset(name) for name in ("page.js", "style.css")}
    return {**files, **assets, "charts.js": _bundle()}


def _pages(content: Content) -> Iterator[Page]:
    if content.board:
        yield _leaderboard(content, content.board)
    yield Page("tasks", "Tasks", "tasks", "tasks", {"index": tasks.index(content)})
    for name in content.tasks:
        values = {"name": name, "told": told(name), "variants": tasks.variants(content, name)}
        yield Page(f"task-{name}", told(name).title, "tasks", "task", values)
    yield Page("methods", "Methods", "methods", "methods", {"index": methods.index(content)})
    for name in content.methods:
        yield Page(f"method-{name}", name, "methods", "method", _method(content, name))
    if shown := claims.shown(content):
        yield Page("claims", "Claims", "claims", "claims", {"claims": shown, "about": claims.ABOUT})
    yield Page(
        "reading",
        "How to read this",
        "reading",
        "reading",
        {"families": FAMILIES, "limits": LIMITS},
    )
    yield Page("record", "Record", "record", "record", _record(content))


def _leaderboard(content: Content, found: Leaderboard) -> Page:
    values = {
        **board.contents(content, found),
        "tasks": [(name, told(name).title) for name in content.tasks],
    }
    return Page("leaderboard", "Leaderboard", "leaderboard", "leaderboard", values)


def _method(content: Content, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "row": look(name),
        "family": FAMILIES[look(name).family].meaning,
        "said": methods.said(name),
        "call": methods.call(content, name),
        "arguments": methods.arguments(name),
        "places": _PLACES,
        "summary": methods.summary(content, name),
        "outcomes": methods.outcomes(content, name),
        "figures": thresholds.figures(content, name),
        "by_value": methods.by_value(content, name),
        "own": methods.records(content, name),
        "command_line": content.facts["command"],
    }


def _record(content: Content) -> dict[str, Any]:
    return {
        "versions": record.versions(content),
        "data": record.data(content),
        "columns": record.columns(),
    }


def _same(content: Content, pages: list[Page]) -> dict[str, Any]:
    """What all templates read."""
    there = {page.id for page in pages}
    return {
        "content": content,
        "facts": record.facts(content),
        "menu": [(page.id, page.title) for page in pages if page.id == page.menu],
        "home": pages[0].id,
        "known": there.__contains__,
        "themes": {name: charts.theme(name) for name in charts.THEMES},
    }


def _address(page: Page, pages: list[Page]) -> str:
    return "index" if page is pages[0] else page.id


def _site_page(page: Page, pages: list[Page], same: dict[str, Any]) -> str:
    addresses = {other.id: f"{_address(other, pages)}.html" for other in pages}
    same = same | {"link": addresses.__getitem__, "records": "../runs.parquet"}
    return rendered("site.html.j2", same | {"page": page, "body": _body(page, same)})


def _single(pages: list[Page], same: dict[str, Any]) -> str:
    same = same | {"link": "#{}".format, "records": "runs.parquet"}
    assets = {"style": _asset("style.css"), "script": _asset("page.js"), "bundle": _bundle()}
    bodies = [(page, _body(page, same)) for page in pages]
    return rendered("single.html.j2", same | {"pages": bodies} | assets)


def _body(page: Page, same: dict[str, Any]) -> markupsafe.Markup:
    return rendered(f"{page.template}.html.j2", same | {"page": page} | page.values)


def rendered(template: str, values: dict[str, Any]) -> markupsafe.Markup:
    """A template filled in; what comes from outside is escaped in HTML."""
    return markupsafe.Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"], default=False),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"json": _json, "key": _key, "prose": _prose, "breakable": _breakable}
    return environment


def _json(value: Any) -> markupsafe.Markup:
    """JSON that a script element may hold."""
    return markupsafe.Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def _key(cell: Cell) -> str:
    """What a cell is sorted by, in the words of JavaScript; empty comes last."""
    if cell.key is None:
        return cell.text
    return "" if math.isnan(cell.key) else str(cell.key).replace("inf", "Infinity")


def _prose(text: str) -> markupsafe.Markup:
    """Text with code between backticks and links."""
    safe = str(markupsafe.escape(text))
    linked = re.sub(r"(https?://[^\s,)]+[^\s,).])", r'<a href="\1">\1</a>', safe)
    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", linked))


def _breakable(name: str) -> markupsafe.Markup:
    """A name that may go on in the next line behind a slash."""
    return markupsafe.escape(name).replace("/", markupsafe.Markup("/<wbr>"))


@cache
def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text()


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed, as a script without dependencies."""
    return vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue]


def summary(table: pa.Table) -> Table:
    """The best learning rate of each method on each variant by validation, for the terminal."""
    title = "best learning rate by validation, medians over seeds of the grid"
    shown = Table(title=title, title_justify="left")
    for name in ("task", "method", "argument", "rate", "valid", "test", "clipped", "failed runs"):
        words = name in ("task", "method", "argument")
        shown.add_column(name, justify="left" if words else "right")
    content = Content(table)
    for place in content.places:
        for name, tried in content.tried[place].items():
            shown.add_row(place, name, *_summary_row(name, tried))
    return shown


def _summary_row(name: str, tried: Tried) -> list[str]:
    run = tried.best.runs[0]
    return [
        valued(name, run["value"]),
        f"{run['learning_rate']:g}",
        score(tried.best.median("valid")),
        score(tried.best.median("test")),
        share(tried.best.median("clip_share")),
        tried.failures,
    ]
