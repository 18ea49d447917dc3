"""The browser of the tests of pages."""

import browsers
import pytest


@pytest.fixture(scope="module")
def browser():
    playwright = browsers.package("playwright.sync_api")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=browsers.CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def look(browser):
    """Opens a page; what it logs, and what it asks other hosts for, fails the test."""
    wrong, opened = [], []

    def look(path, width=1600, scheme="light", part=""):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(page)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: wrong.append(asked.url) if _is_far(asked.url) else None)
        page.goto(path.as_uri() + part)
        return page

    yield look
    for page in opened:
        page.close()
    assert wrong == []


def _is_far(address):
    return not address.startswith(("file:", "data:", "blob:"))
