"""Pages in a real browser: where it is, what is asked of every page."""

import os
import shutil

import peers
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
marks = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM and "CLIPAX_REQUIRE_BROWSER" not in os.environ,
        reason="needs a Chromium: apt-get install chromium",
    ),
]
WIDTHS = (360, 1600)


def package(name: str):
    """A package that the test needs; where a browser is required, so is this."""
    return peers.package(name, 'pip install -e ".[test]"', "CLIPAX_REQUIRE_BROWSER")


def violations(page) -> list[tuple[str, str, str]]:
    """What axe finds that is serious or critical: rule, element, why."""
    axe = package("axe_core_python.base")
    page.evaluate(axe.AXE_SCRIPT)
    return [
        (each["id"], node["html"][:200], node["failureSummary"][:300])
        for each in page.evaluate("axe.run().then(result => result.violations)")
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"][:3]
    ]
