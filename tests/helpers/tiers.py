"""A pytest plugin for the tiers of the tests, and for which process runs which of them.

A test marked `exhaustive` runs only with `pytest --exhaustive`. Tests that need another program are
deselected by `-m` in `pyproject.toml`.
"""

import atexit
import os
import re
import shutil
import tempfile

import jax
import pytest
from xdist.scheduler import LoadScopeScheduling


def pytest_addoption(parser):
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="also run the full product: every law of every clipper in every mode",
    )
    parser.addoption(
        "--keep-compiled",
        action="store_true",
        help="keep compiled programs in pytest's cache folder for the next run",
    )


def pytest_configure(config):
    """Sets where compiled programs are kept, here and in processes that start from here on."""
    if hasattr(config, "workerinput") or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    if config.getoption("keep_compiled"):
        folder = str(config.cache.mkdir("compiled"))
    else:
        folder = tempfile.mkdtemp(prefix="clipax-compiled-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    settings = {
        "compilation_cache_dir": folder,
        "persistent_cache_min_compile_time_secs": 0,
        "persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(f"jax_{name}", value)
        os.environ[f"JAX_{name.upper()}"] = str(value)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if not config.getoption("exhaustive"):
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
    first: dict[str, int] = {}
    for i, item in enumerate(items):
        first.setdefault(scope_of(item.nodeid), i)
    items.sort(key=lambda item: first[scope_of(item.nodeid)])


def scope_of(nodeid):
    """What runs in one process, in one piece: all laws of a clipper, or the tests of a file.

    The name of the clipper stands last in what `pytest` adds to the name of a law.
    """
    file, _, test = nodeid.partition("::")
    clipper = re.search(r"[\[-](\w+)\]$", test) if file.startswith("tests/laws/") else None
    return clipper[1] if clipper else file


class _ByScope(LoadScopeScheduling):
    def _split_scope(self, nodeid):
        return scope_of(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return _ByScope(config, log)
