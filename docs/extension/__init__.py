"""What the site adds to Sphinx: pages and pictures of methods, laws with their tests, checks."""

from typing import Any

from sphinx.application import Sphinx

from extension import checks, laws, methods, thresholds, writing


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx, which calls this."""
    app.connect("builder-inited", methods.write)
    app.connect("source-read", writing.pictures_by_theme)
    app.connect("source-read", methods.link_names)
    app.connect("html-page-context", writing.for_screen_readers, priority=900)  # after the theme
    app.connect("autodoc-process-docstring", writing.without_tables)
    app.connect("env-check-consistency", checks.every_public_name)
    app.add_directive("law", laws.Law)
    app.add_directive("threshold-table", thresholds.Table)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
