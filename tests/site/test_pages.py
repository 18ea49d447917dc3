"""The pages for readers: links lead somewhere, blocks of code print what they say."""

import pathlib
import re

import pytest
from pages import anchors, assert_prints_what_it_says, blocks, prose
from paths import ROOT
from peers import package

DOCS = ROOT / "docs"
GUIDES = sorted(path for path in (DOCS / "guides").glob("*.md") if path.stem != "index")
WRITTEN = [  # pages of single methods are made when the site is built
    *ROOT.glob("*.md"),
    ROOT / "examples/README.md",
    *DOCS.glob("*.md"),
    *(DOCS / f"methods/{name}.md" for name in ("index", "parts", "unnamed")),
    *(path for folder in ("guides", "api") for path in (DOCS / folder).glob("*.md")),
    *(DOCS / f"{folder}/README.md" for folder in ("leaderboard", "benchmarks")),
]


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def links(path: pathlib.Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text()))


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("README.md", {"CHANGELOG.md", "CITATION.cff", "LICENSE"}),
        ("docs/speed.md", {"benchmarks/README.md"}),
    ],
)
def test_page_links_to_what_readers_look_for(page, wanted):
    assert wanted <= set(links(ROOT / page))


@pytest.mark.parametrize("path", WRITTEN, ids=name_of)
def test_links_lead_to_files_and_headings(path):
    for link in links(path):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("path", WRITTEN, ids=name_of)
def test_references_are_defined_once_and_used(path):
    text = prose(path.read_text())
    defined = re.findall(r"^\[([^\]]+)\]: \S+", text, re.MULTILINE)
    used = re.findall(r"\]\[([^\]]+)\]", text)
    assert len(defined) == len(set(defined)) and set(used) == set(defined)
    assert defined == sorted(defined)


# Blocks that run as they stand

RECIPES = {
    f"{path.stem}-{i}": code
    for path in (*GUIDES, DOCS / "index.md", DOCS / "evidence.md")
    for i, code in enumerate(blocks(path.read_text(), "python"))
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("code", RECIPES.values(), ids=RECIPES)
def test_recipe_prints_what_it_says(code):
    assert_prints_what_it_says(code)


def test_every_guide_has_a_recipe_and_a_line_in_the_list():
    listed = re.findall(r"\((\S+)\.md\) \|$", (DOCS / "guides/index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.stem for path in GUIDES]
    for path in GUIDES:
        assert blocks(path.read_text(), "python"), path


# Coming from elsewhere

COMING = (DOCS / "coming-from.md").read_text()
PLACES = re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", COMING, re.MULTILINE | re.DOTALL)
OURS = [
    pytest.param(code, id=f"{place}-{i}")
    for place, text in PLACES
    for i, code in enumerate(blocks(text, "python"))
    if "clipax" in code
]
THEIRS = [
    pytest.param(place, *blocks(text, "python"), id=place)
    for place, text in PLACES
    if len(blocks(text, "python")) == 2
]


@pytest.mark.parametrize("code", OURS)
def test_block_of_clipax_prints_what_it_says(code):
    assert_prints_what_it_says(code)


@pytest.mark.parity
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("place", "theirs", "ours"), THEIRS)
def test_block_from_elsewhere_prints_the_same(place, theirs, ours):
    for name in re.findall(r"^import (.+)$", theirs, re.MULTILINE):
        for module in name.split(", "):
            package(module.partition(" ")[0])
    assert_prints_what_it_says(theirs)
    said = re.compile(r"#.+$", re.MULTILINE)
    assert said.findall(theirs) == said.findall(ours) != []


def test_every_place_has_a_pair_or_a_block():
    wanted = {"optax", "PyTorch", "Lightning", "Hugging Face", "Keras", "TensorFlow"}
    assert {place for place, _ in PLACES} == wanted | {"Levanter", "MaxText"}
    assert len(THEIRS) == 5
    for place, text in PLACES:
        assert blocks(text, "python"), place
