"""The site as it is built, in a real browser."""

import importlib
import os
import re
import subprocess
import sys

import browsers
import peers
import pytest
from paths import ROOT

import clipax

pytestmark = [*browsers.marks, pytest.mark.site]
KINDS = (
    "index",
    "start",
    "choose",
    "guides/nan",
    "equation",
    "methods/index",
    "methods/zclip",
    "coming-from",
    "leaderboard/README",
    "api/rules",
    "search",
)
NOT_LOADED = """
() => [...document.images].filter((image) => getComputedStyle(image).display !== "none")
  .filter((image) => !image.complete || !image.naturalWidth).map((image) => image.src)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    peers.package("myst_nb", 'pip install -e ".[docs]"', "CLIPAX_REQUIRE_SITE")
    out = tmp_path_factory.mktemp("site")
    words = ["-W", "--keep-going", "-q", "-b", "html", "docs", str(out / "html")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words],
        cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out / "html"


def pages_of(site):
    """All but listings of source code."""
    return [p for p in site.rglob("*.html") if not {"_static", "_modules"} & set(p.parts)]


def test_build_fails_on_a_name_without_a_page(site, monkeypatch):
    """`site`: where Sphinx is installed."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    checks = importlib.import_module("extension.checks")
    names = {name for name, _ in checks.public_names()}
    assert checks.missing(names) == []
    assert checks.missing(names - {"clipax.zclip"}) == ["clipax.zclip stands on no page"]
    monkeypatch.setattr(clipax.zclip, "__doc__", "Nothing.")
    assert checks.missing(names) == ["clipax.zclip has no doctest"]


@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_every_page_opens_and_fits(width, site, look):
    paths = pages_of(site)
    assert len(paths) > 70
    for path in paths:
        page = look(path, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
        assert page.evaluate(NOT_LOADED) == [], path.name
        page.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1600, "light")])
def test_axe_finds_nothing_serious(width, scheme, site, look):
    for name in KINDS:
        page = look(site / f"{name}.html", width, scheme)
        assert browsers.violations(page) == [], name
        page.close()


def test_search_finds_a_method_without_a_server(site, look):
    page = look(site / "index.html")
    page.fill("input[name=q]", "zclip")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
    assert any("methods/zclip.html" in address for address in found)


def test_pictures_follow_the_theme_that_a_reader_chooses(site, look):
    page = look(site / "methods/adaptive.html")
    shown = """[...document.querySelectorAll("article img")].filter((i) => i.clientWidth)
      .map((i) => i.src.split("/").pop())"""
    assert page.evaluate(shown) == ["adaptive-large-light.svg"]
    page.evaluate("document.body.dataset.theme = 'dark'")
    assert page.evaluate(shown) == ["adaptive-large-dark.svg"]


def test_tests_of_a_law_unfold_by_keyboard(site, look):
    page = look(site / "equation.html")
    summary = page.locator(".law summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator(".law details[open] pre").first.is_visible()


def test_every_page_can_be_reached_by_links(site):
    seen, left = set(), {site / "index.html"}
    while left:
        path = left.pop()
        seen.add(path)
        links = re.findall(r'<a [^>]*href="([^"#?]+)', path.read_text())
        targets = {(path.parent / link).resolve() for link in links if "://" not in link}
        assert [target for target in targets if not target.exists()] == [], path
        left |= {target for target in targets if target.suffix == ".html"} - seen
    assert set(pages_of(site)) - seen == {site / "search.html"}  # a form leads there
