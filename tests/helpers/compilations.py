"""A pytest plugin that counts the XLA programs that the tests compile.

Compilation is most of what these tests cost, and unlike seconds it can be counted. All processes of
a run keep what they compile in one folder (see `tiers`), each program once. What is counted is how
many are new there at the end, which depends neither on the machine nor on what ran where. The
counts of files are those of the tests that came first to a program, so they do.
"""

import pathlib
from collections import Counter

import jax
import pytest

COMPILED = "/jax/core/compile/backend_compile_duration"
KEPT = "/jax/compilation_cache/cache_misses"
PROPERTY = "compilations"
SHOWN = 10
BEFORE = pytest.StashKey[int]()
compiled: list[str] = []
kept: list[str] = []


def _note(event, *_, fun_name="", **__):
    if event == COMPILED:
        compiled.append(fun_name)


def _note_kept(event, **__):
    if event == KEPT:
        kept.append(event)


# Old jax cannot unregister a listener, so there is one for all tests.
jax.monitoring.register_event_duration_secs_listener(_note)
jax.monitoring.register_event_listener(_note_kept)


def pytest_addoption(parser):
    parser.addoption(
        "--max-compilations",
        type=int,
        metavar="N",
        help="fail if the tests compile more than N XLA programs",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Counts(config.getoption("max_compilations")), "counts")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    item.stash[BEFORE] = len(kept)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        report.user_properties.append((PROPERTY, len(kept) - item.stash[BEFORE]))
    return report


class _Counts:
    """Counts the programs of all processes, and prints the files that compile most."""

    def __init__(self, most):
        self.most = most
        self.by_file = Counter()
        self.before = self.programs()

    @staticmethod
    def programs():
        folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
        return {path.name for path in folder.glob("*-cache")}

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            counts = (count for name, count in report.user_properties if name == PROPERTY)
            self.by_file[report.nodeid.partition("::")[0]] += sum(counts)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        self.total = len(self.programs() - self.before)
        if self.most is not None and self.total > self.most and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if not self.total:
            return
        terminalreporter.section("compilations")
        for file, count in self.by_file.most_common(SHOWN):
            terminalreporter.write_line(f"{count:6,}  {file}")
        terminalreporter.write_line(f"{self.total:6,}  XLA programs were compiled")
        if self.most is not None and self.total > self.most:
            terminalreporter.write_line(
                f"At most {self.most:,} are allowed: see tests/README.md.", red=True
            )
