"""Which process runs which tests, and the browser of the tests of pages.

Several devices have processes of their own, and all laws of a clipper run in one process.
Nearly all the time of the tests is compilation: the processes share what they have compiled.
"""

import atexit
import os
import re
import shutil
import tempfile

import browsers
import pytest
from xdist.scheduler import LoadScopeScheduling

DEVICES = "--xla_force_host_platform_device_count=8"

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # read by processes that start from here on
    _folder = tempfile.mkdtemp(prefix="clipax-compiled-")
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

collect_ignore = [] if DEVICES in os.environ.get("XLA_FLAGS", "") else ["devices"]


class _ByClipper(LoadScopeScheduling):
    """Gives a process all laws of one clipper, so that it compiles it once; other tests by files.

    The name of the clipper stands last in what `pytest` adds to the name of a law.
    """

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        if file.startswith("tests/test_laws_"):
            clipper = re.search(r"[\[-](\w+)\]$", test)
            return clipper[1] if clipper else file
        return nodeid if file == "tests/test_devices.py" else file


def pytest_xdist_make_scheduler(config, log):
    return _ByClipper(config, log)


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
