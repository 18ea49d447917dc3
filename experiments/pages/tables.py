"""Tables of the page: cells that can be sorted, and numbers in as few signs as they need."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell.

    Attributes:
        text: what it says.
        key: what it is sorted by; NaN comes last. None means the text.
        note: smaller lines below.
        page: name of the page that it leads to; empty for none.
        look: class of the style sheet.
        color: of a dot in front; empty for none.
    """

    text: str
    key: float | None = None
    note: str = ""
    page: str = ""
    look: str = ""
    color: str = ""

    @property
    def order(self) -> float:
        """Its key, NaN for words."""
        return math.nan if self.key is None else self.key


class Column(NamedTuple):
    """A column with its title, whether it holds numbers, and what they are."""

    title: str
    number: bool = True
    about: str = ""


class Table(NamedTuple):
    """A table: each row begins with a cell that names it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    look: str = ""


def words(text: str, **more: Any) -> Cell:
    """A cell with words."""
    return Cell(text, **more)


def number(value: float, text: str = "", **more: Any) -> Cell:
    """A cell with a number."""
    return Cell(text or score(value), key=float(value), **more)


def percent(value: float, **more: Any) -> Cell:
    """A cell with a share."""
    return number(value, share(value), **more)


def share(value: float) -> str:
    """A share as a percentage; what is not none is not shown as 0 %."""
    if value == 0:
        return "0 %"
    if value < 0.0001:
        return "< 0.01 %"
    return f"{100 * value:.{0 if value >= 0.1 else 1 if value >= 0.01 else 2}f} %"


def score(value: float) -> str:
    """A score in as few signs as it needs; a failed run's may be astronomical or not finite."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if 1e-3 <= size < 1000 or size == 0:
        return f"{value:.3g}" if size < 1 else f"{value:.2f}"
    return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """An estimate with the ends of its interval, if there are any."""
    ends = "" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"
    return ends or "too few seeds"


def _plain(value: float) -> Cell:
    whole = float(value).is_integer() and abs(value) < 1e6
    return number(value, f"{value:,.0f}" if whole else "")


def simple(title: str, heads: Sequence[str], lines: Iterable[Sequence[float | str]]) -> Table:
    """A table of words and numbers as they are."""
    made = [[words(x) if isinstance(x, str) else _plain(x) for x in line] for line in lines]
    numbers = [any(row[i].key is not None for row in made) for i in range(len(heads))]
    columns = [Column(*pair) for pair in zip(heads, numbers, strict=True)]
    return Table(title, columns, made)
