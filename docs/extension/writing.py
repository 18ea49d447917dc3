"""Markdown of the repository, and docstrings, as Sphinx wants them."""

import itertools
import pathlib
import re
from typing import Any

_PICTURE = re.compile(
    r"<picture>\s*<source media=\"\(prefers-color-scheme: dark\)\" srcset=\"(?P<dark>[^\"]+)\">"
    r"\s*<img alt=\"(?P<alt>[^\"]*)\" src=\"(?P<light>[^\"]+)\">\s*</picture>"
)


def put(path: pathlib.Path, text: str) -> None:
    """Write a file, unless it says the same: Sphinx reads again what is newer."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def image(path: str, alt: str, theme: str) -> str:
    """An image that is shown in one of the themes, which readers can switch by a button."""
    return f"```{{image}} {path}\n:alt: {alt}\n:class: only-{theme}\n```\n"


def pictures_by_theme(app: Any, docname: str, source: list[str]) -> None:
    """`<picture>` follows the system alone, and Sphinx does not copy its files."""
    source[0] = _PICTURE.sub(
        lambda found: "".join(
            image(found[theme], found["alt"], theme) for theme in ("light", "dark")
        ),
        source[0],
    )


def for_screen_readers(app: Any, page: str, template: str, context: Any, doctree: Any) -> None:
    """What Sphinx writes and axe refuses: headings without a level, definitions without a term."""
    menu = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = menu.replace(
        'role="heading"', 'role="heading" aria-level="2"'
    )
    context["body"] = _PARAMETERS.sub(_as_list, context.get("body", ""))


_PARAMETERS = re.compile(r"<dl>\s*((?:<dd><em class=\"sig-param\">.*?</dd>\s*)+)</dl>", re.DOTALL)


def _as_list(found: re.Match[str]) -> str:
    items = found[1].replace("<dd>", "<li>").replace("</dd>", "</li>")
    return f'<ul class="signature">{items}</ul>'


def without_tables(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Tables in docstrings are Markdown: make them those of reStructuredText."""
    made: list[str] = []
    for is_table, group in itertools.groupby(lines, lambda line: line.lstrip().startswith("|")):
        block = list(group)
        made += _table(block) if is_table else block
    lines[:] = made


def _table(lines: list[str]) -> list[str]:
    indent = " " * (len(lines[0]) - len(lines[0].lstrip()))
    head, _, *body = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines
    ]
    table = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *body):
        table += [f"   {' ' if i else '*'} - {cell}" for i, cell in enumerate(row)]
    return ["", *(indent + line for line in table), ""]
