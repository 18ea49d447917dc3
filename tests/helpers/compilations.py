"""A pytest plugin that counts the XLA programs that each test compiles.

Compilation is most of what these tests cost, and unlike seconds it can be counted: the number is
the same on every machine. JAX's caches are cleared after each scope, so that the count of a file
does not depend on the files that its process ran before.
"""

from collections import Counter

import jax
import pytest
from tiers import scope_of

EVENT = "/jax/core/compile/backend_compile_duration"
PROPERTY = "compilations"
SHOWN = 10
BEFORE = pytest.StashKey[int]()
compiled: list[str] = []


def _note(event, *_, fun_name="", **__):
    if event == EVENT:
        compiled.append(fun_name)


# Old jax cannot unregister a listener, so there is one for all tests.
jax.monitoring.register_event_duration_secs_listener(_note)


def pytest_addoption(parser):
    parser.addoption(
        "--max-compilations",
        type=int,
        metavar="N",
        help="fail if the tests compile more than N XLA programs",
    )


def pytest_configure(config):
    config.pluginmanager.register(_Counts(config.getoption("max_compilations")), "counts")


def file_of(item):
    """The file of an item or of a report."""
    return item.nodeid.partition("::")[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    item.stash[BEFORE] = len(compiled)
    result = yield
    if nextitem is None or scope_of(nextitem.nodeid) != scope_of(item.nodeid):
        jax.clear_caches()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        report.user_properties.append((PROPERTY, len(compiled) - item.stash[BEFORE]))
    return report


class _Counts:
    """Sums the counts of all processes, and prints the files that compile most."""

    def __init__(self, most):
        self.most = most
        self.by_file = Counter()

    @property
    def total(self):
        return self.by_file.total()

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            counts = (count for name, count in report.user_properties if name == PROPERTY)
            self.by_file[file_of(report)] += sum(counts)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
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
