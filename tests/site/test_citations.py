"""The papers that the docstrings name stand in one list, that of the pages on methods."""

import inspect
import pathlib
import re

import pytest
from contract import PUBLIC
from methods_page import TEXT

import clipax
from clipax import thresholds

ARXIV = r"https://arxiv\.org/abs/(\d{4}\.\d{4,5})"
LISTED = dict(re.findall(rf'^\[\w+\]: {ARXIV} "(.+)"$', TEXT, re.MULTILINE))


def cited() -> dict[str, tuple[str, str]]:
    """By a name for the test: the identifier of each paper and the text before it."""
    found = {}
    policies = {f"thresholds.{name}": getattr(thresholds, name) for name in thresholds.__all__}
    for name, item in (PUBLIC | policies).items():
        doc = " ".join((inspect.getdoc(item) or "").replace("*", "").split())
        for match in re.finditer(ARXIV, doc):
            found[f"{name}-{match[1]}"] = match[1], doc[: match.start()]
    return found


@pytest.mark.parametrize(("paper", "before"), cited().values(), ids=list(cited()))
def test_paper_of_a_docstring_is_in_the_list(paper, before):
    # The list has authors, title, where it appeared and when; a docstring authors, title and year.
    title, year = re.findall(r"^(.+), (?:\w+ )?(\d{4})(?:; .*)?$", LISTED[paper])[0]
    assert before.endswith(f"{title}, {year}, "), LISTED[paper]


def test_every_link_of_the_package_is_an_abstract_on_arxiv():
    links = [
        link
        for path in pathlib.Path(clipax.__file__).parent.rglob("*.py")
        for link in re.findall(r"https?://\S+", path.read_text())
    ]
    assert links
    assert [link for link in links if not re.fullmatch(rf"{ARXIV}[.,;]?", link)] == []
