"""What docs/when-gradients-go-wrong.md says: its blocks run, its links lead somewhere."""

import pathlib
import re

import pytest
from pages import anchors, assert_prints_what_it_says, blocks

TEXT = (pathlib.Path(__file__).parents[1] / "docs/when-gradients-go-wrong.md").read_text()
PYTHON = blocks(TEXT, "python")
HEADINGS = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_block_prints_what_it_says(code):
    assert_prints_what_it_says(code)


def test_contents_are_the_headings():
    links = re.findall(r"^- \[(.+)\]\(#(.+)\)$", TEXT, re.MULTILINE)
    assert [title for title, _ in links] == HEADINGS
    assert [anchor for _, anchor in links] == anchors(TEXT)
