"""Pages with blocks of code that run and say what they print."""

import contextlib
import csv
import io
import re
from typing import Any

import numpy as np
from paths import ROOT

LEADERBOARD = ROOT / "docs/leaderboard"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def run(code: str) -> tuple[dict[str, Any], str]:
    """The names and the output of a block."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(code, "a block", "exec"), names)
    return names, output.getvalue()


def anchors(text: str) -> list[str]:
    """What links to the headings of a page end in."""
    headings = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings]


def standings() -> list[dict[str, str]]:
    """The lines of the committed leaderboard, the best first."""
    with (LEADERBOARD / "standings.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_prints_what_it_says(code: str) -> None:
    """Of a block with what it prints in comments: behind each `print`, or below."""
    said = re.findall(r"^# (.+)$|^ *print\(.*\)  # (.+)$", code, re.MULTILINE)
    _, output = run(code)
    words, numbers = _parsed(output)
    expected_words, expected_numbers = _parsed("\n".join(a or b for a, b in said))
    assert words == expected_words
    np.testing.assert_allclose(numbers, expected_numbers, rtol=1e-6)


def _parsed(output: str) -> tuple[list[str], list[float]]:
    """What is printed, apart from its numbers and its spaces, and the numbers."""
    number = r"-?\d+\.?\d*(?:e-?\d+)?"
    return re.sub(number, " 0 ", output).split(), [float(x) for x in re.findall(number, output)]
