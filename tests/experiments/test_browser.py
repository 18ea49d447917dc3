"""The pages in a real browser, on runs that are made up."""

import browsers
import pytest
import test_page as pages

from experiments import report

pytestmark = browsers.marks
KINDS = (
    "tasks",
    "task-chorales",
    "methods",
    "method-zclip",
    "claims",
    "reading",
    "record",
)
# A chart is drawn when it comes near the window.
DRAWN = """
async () => {
  const charts = [...document.querySelectorAll("figure .chart")].filter((c) => c.clientWidth);
  for (const chart of charts) {
    chart.scrollIntoView();
    for (let i = 0; i < 200 && !chart.querySelector("svg, canvas"); i++)
      await new Promise((done) => setTimeout(done, 25));
  }
  scrollTo(0, 0);
  return charts.map((chart) => chart.querySelectorAll("svg, canvas").length);
}
"""
# Pairs of texts of one figure, and of things of the page that follow each other, which overlap.
OVERLAPS = """
() => {
  const apart = (a, b) => a.right < b.left + 1 || b.right < a.left + 1
    || a.bottom < b.top + 2 || b.bottom < a.top + 2;
  const pairs = (found) => found.flatMap((a, i) => found.slice(i + 1)
    .filter((b) => !apart(a.getBoundingClientRect(), b.getBoundingClientRect()))
    .map((b) => `${a.textContent.slice(0, 30)} | ${b.textContent.slice(0, 30)}`));
  const seen = (all) => [...all].filter((each) => each.getBoundingClientRect().width
    && getComputedStyle(each).opacity !== "0");
  const texts = [...document.querySelectorAll("figure svg")].flatMap(
    (svg) => pairs(seen(svg.querySelectorAll("text"))));
  const parts = [...document.querySelectorAll("article, figure, .top, dl.facts")].flatMap(
    (whole) => pairs(seen(whole.children)));
  return [...texts, ...parts];
}
"""
KEYS = "table => [...table.tBodies[0].rows].map(row => row.cells[1].dataset.key)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return report.write(pages.example(), tmp_path_factory.mktemp("browser")).parent


def _sites(folder):
    return sorted((folder / "site").glob("*.html"))


def _drawn(page):
    counts = page.evaluate(DRAWN)
    assert all(counts), counts
    return counts


@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_every_chart_draws_and_nothing_overlaps(width, folder, look):
    charts = 0
    for path in _sites(folder):
        page = look(path, width)
        charts += len(_drawn(page))
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
        assert page.evaluate(OVERLAPS) == [], path.name
        page.close()
    assert charts >= 20


def test_the_one_file_shows_one_page_at_a_time(folder, look):
    page = look(folder / "report.html")
    shown = "[...document.querySelectorAll('article')].filter(a => !a.hidden).map(a => a.id)"
    assert page.evaluate(shown) == ["leaderboard"]
    _drawn(page)
    page.click("nav >> text=Methods")
    page.click("article#methods >> text=zclip")
    assert page.evaluate(shown) == ["method-zclip"]
    assert page.evaluate("document.activeElement.textContent") == "zclip"
    assert page.get_attribute("nav a[aria-current]", "data-page") == "methods"
    assert "zclip" in page.title()
    _drawn(page)
    page.go_back()
    assert page.evaluate(shown) == ["methods"]
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert page.evaluate(shown) == ["methods"]


def test_every_page_can_be_read_without_scripts(folder, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    assert page.locator("h1:visible").count() == len(_sites(folder))
    context.close()


def test_tables_sort_by_keyboard(folder, look):
    page = look(folder / "site/index.html")
    table = page.locator("table.board")
    head = table.locator("thead th").nth(1)
    head.locator("button").focus()
    for direction in ("ascending", "descending"):
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == direction
        ranks = list(map(float, table.evaluate(KEYS)))
        assert ranks == sorted(ranks, reverse=direction == "descending")
    names = table.locator("thead th").nth(0)
    names.locator("button").click()
    assert head.get_attribute("aria-sort") is None
    shown = table.locator("tbody th").all_inner_texts()
    assert shown == sorted(shown) and names.get_attribute("aria-sort") == "ascending"


def test_what_is_not_a_number_comes_last(folder, look):
    page = look(folder / "site/task-chorales.html")
    table = page.locator("table.squares").first
    button = table.locator("thead th").last.locator("button")
    for _ in range(2):
        button.click()
    keys = table.evaluate(KEYS.replace("cells[1]", "cells[3]"))
    assert keys[0] == "Infinity" and keys == sorted(keys, key=float, reverse=True)


def test_charts_follow_the_theme_and_the_width(folder, look):
    page = look(folder / "site/index.html")
    _drawn(page)
    ink = "document.querySelector('figure svg text').getAttribute('fill')"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{ink} !== '{light}'")
    page.set_viewport_size({"width": 500, "height": 900})
    page.wait_for_function("document.querySelector('figure svg').clientWidth < 500")


def test_charts_have_tooltips_and_can_be_enlarged(folder, look):
    page = look(folder / "site/index.html")
    _drawn(page)
    page.locator(
        "figure svg path[aria-roledescription], figure svg .mark-symbol path"
    ).first.hover()
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "score" in page.inner_text("#vg-tooltip-element")
    page.locator(".enlarge").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] svg")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    with page.expect_download() as saved:
        page.locator(".save").first.click()
    assert "<svg" in saved.value.path().read_text()


def test_charts_zoom(folder, look):
    page = look(folder / "site/method-zclip.html")
    _drawn(page)
    figure = page.locator("#method-zclip-threshold svg")
    figure.scroll_into_view_if_needed()
    before = figure.inner_html()
    figure.hover()
    page.mouse.wheel(0, 0)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_function(
        "text => document.querySelector('#method-zclip-threshold svg').innerHTML !== text",
        arg=before,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_axe_finds_nothing_serious(width, scheme, folder, look):
    for path in [folder / "report.html", *(folder / f"site/{name}.html" for name in KINDS)]:
        page = look(path, width, scheme)
        _drawn(page)
        assert browsers.violations(page) == [], path.name
        page.close()
