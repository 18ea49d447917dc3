"""Text as a series of symbols: folk tunes in ABC notation of the package `music21`, or a file.

The tunes are distributed by permission of those who wrote them down and are not kept here.
"""

from pathlib import Path

import numpy as np

from experiments import data
from experiments.errors import UserError

SHORTEST = 10_000
OTHER = "other"
_COLLECTIONS = ("ryansMammoth", "oneills1850", "airdsAirs")
_ACCEPTED = f"give a text file in UTF-8 of at least {SHORTEST:,} characters"


def text() -> str:
    """All tunes of the three collections, in the order of their names.

    Raises:
        UserError: the package that holds them is not installed.
    """
    folders = [data.package("music21", f"corpus/{name}") for name in _COLLECTIONS]
    paths = [path for folder in folders for path in sorted(folder.glob("*.abc"))]
    return "\n\n".join(path.read_text("latin-1") for path in paths)


def read(path: str | Path) -> str:
    """A text file of the user's own, instead of the tunes.

    Raises:
        UserError: there is no such file, it is not text in UTF-8, or it is too short.
    """
    try:
        content = Path(path).expanduser().read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"`text` {path} is not UTF-8 at byte {error.start}; {_ACCEPTED}") from error
    except OSError as error:
        raise UserError(f"cannot read `text` {path}: {error.strerror}; {_ACCEPTED}") from error
    return _long_enough(content, f"`text` {path}")


def encode(text: str, size: int = 128) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the symbols of a text, the most common first.

    Args:
        text: at least `SHORTEST` characters.
        size: how many symbols there may be, `OTHER` included; at least 2.

    Returns:
        The text as numbers, uint8 (int32 if `size` is above 256), and the symbol of each number:
        at most `size - 1` characters, and last `OTHER`, which stands for all rarer ones.

    Raises:
        UserError: the text is too short or the size too small.
    """
    if size < 2:
        raise UserError(f"`size` must be at least 2, is {size}")
    points = np.frombuffer(_long_enough(text, "`text`").encode("utf-32-le"), "<u4")
    found, places, counts = np.unique(points, return_inverse=True, return_counts=True)
    common = np.argsort(-counts, kind="stable")[: size - 1]
    numbers = np.full(len(found), len(common), np.uint8 if size <= 256 else np.int32)
    numbers[common] = np.arange(len(common))
    return numbers[places], (*map(chr, found[common]), OTHER)


def _long_enough(text: str, name: str) -> str:
    if len(text) < SHORTEST:
        raise UserError(f"{name} has only {len(text):,} characters; {_ACCEPTED}")
    return text
