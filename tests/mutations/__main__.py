"""Which wrong code do the tests find? `python tests/mutations`

Each mutation is made in a copy of the repository. Of the test files named beside it one must then
fail, and with it pytest: exit code 1. With 0 the mutation survived; any other code says that no
test has judged it, which counts as an error. All of these files must pass beforehand.
"""

import argparse
import collections
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from mutation import Mutation
from mutations import MUTATIONS

ROOT = pathlib.Path(__file__).parents[2]
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
CODES = {0: "survived", 1: "caught"}
LISTED = ("survived", "error")


class Run(NamedTuple):
    """What pytest said of some files; the code is None where it took too long."""

    code: int | None
    seconds: float
    output: str


class Copies:
    """Copies of the repository, one for each job, in which code can be changed."""

    def __init__(self, folder: pathlib.Path, jobs: int):
        self.cache = folder / "compiled"
        self.free: queue.SimpleQueue[pathlib.Path] = queue.SimpleQueue()
        for job in range(jobs):
            self.free.put(_copied(folder / f"copy{job}"))

    def run(self, tests: Iterable[str], mutation: Mutation | None = None, timeout=None) -> Run:
        """The tests, in a copy with a mutation."""
        copy = self.free.get()
        try:
            if mutation is None:
                return self._tested(copy, tests, timeout)
            changed = copy / mutation.file
            right = changed.read_text()
            changed.write_text(right.replace(mutation.old, mutation.new))
            try:
                return self._tested(copy, tests, timeout)
            finally:
                changed.write_text(right)
        finally:
            self.free.put(copy)

    def _tested(self, copy: pathlib.Path, tests: Iterable[str], timeout: float | None) -> Run:
        options = ["-x", "-q", "-n0", "-p", "no:cacheprovider"]
        begin = time.monotonic()
        try:
            done = self.python(copy, tests, "-m", "pytest", *options, *tests, timeout=timeout)
        except subprocess.TimeoutExpired:
            return Run(None, time.monotonic() - begin, "")
        return Run(done.returncode, time.monotonic() - begin, done.stdout + done.stderr)

    def python(self, copy: pathlib.Path, tests: Iterable[str], *arguments, timeout=None):
        """Runs Python where `import clipax` takes the copy, whatever is installed."""
        given = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
        environment = given | {
            "PYTHONPATH": str(copy),
            # Code that is changed twice in a second would be taken for the same.
            "PYTHONDONTWRITEBYTECODE": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        if any(test.startswith("tests/devices/eight") for test in tests):
            # As `tests/devices/test_devices.py` runs them.
            environment["XLA_FLAGS"] = f"{given.get('XLA_FLAGS', '')} {EIGHT_DEVICES}"
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=copy, env=environment, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip


def _copied(to: pathlib.Path) -> pathlib.Path:
    """A copy of what a source distribution has: with that the tests run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    for name in ["pyproject.toml", *parts]:
        source, target = ROOT / name, to / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*", "build", "results")
            shutil.copytree(source, target, ignore=ignored)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return to


def _in_turn(jobs: int, function, each: Iterable[Any]) -> Iterator[tuple[Any, Run]]:
    """What comes of each, as soon as it is known."""
    with ThreadPoolExecutor(jobs) as pool:
        found = {pool.submit(function, one): one for one in each}
        try:
            for future in as_completed(found):
                yield found[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _first_failure(output: str) -> str:
    """The test that failed."""
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    return found.group(1) if found else "no test"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/mutations", description=__doc__)
    parser.add_argument("-k", default="", metavar="WORDS", help="those with this in their name")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at once (2)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for each (300)")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if options.k in m.name and not m.equivalent]
    if not chosen:
        parser.error(f"no mutation has {options.k!r} in its name")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clipax-mutations-") as folder:
        copies = Copies(pathlib.Path(folder), options.jobs)
        return _judged(copies, chosen, options, begin)


def _judged(copies: Copies, chosen: list[Mutation], options, begin: float) -> int:
    copy = copies.free.get()
    where = copies.python(copy, (), "-c", "import clipax; print(clipax.__file__)").stdout.strip()
    copies.free.put(copy)
    if not pathlib.Path(where).is_relative_to(copy):
        print(f"`import clipax` does not take the copy but {where}")
        return 1
    files = sorted({test for mutation in chosen for test in mutation.tests})
    print(f"{len(files)} test files, without a mutation", flush=True)
    for file, run in _in_turn(options.jobs, lambda file: copies.run([file]), files):
        if run.code != 0:
            print(f"{file} fails by itself:\n{run.output[-3000:]}")
            return 1
    print(f"pass in {time.monotonic() - begin:.0f} s\n", flush=True)

    def tried(mutation: Mutation) -> Run:
        return copies.run(mutation.tests, mutation, options.timeout)

    outcomes: dict[str, list[str]] = collections.defaultdict(list)
    for mutation, run in _in_turn(options.jobs, tried, chosen):
        outcome = CODES.get(run.code, "error")
        outcomes[outcome].append(mutation.name)
        told = {"caught": _first_failure(run.output), "survived": ", ".join(mutation.tests)}
        why = told.get(outcome, f"pytest's exit code is {run.code}\n{run.output[-2000:]}")
        print(f"{outcome:<9}{run.seconds:>5.0f} s  {mutation.name}: {why}", flush=True)
    equivalent = sum(bool(mutation.equivalent) for mutation in MUTATIONS)
    print(f"\n{'caught':<12}{len(outcomes['caught']):>5}")
    for outcome in LISTED:
        print(f"{outcome:<12}{len(outcomes[outcome]):>5}  {', '.join(outcomes[outcome])}".rstrip())
    print(f"{'equivalent':<12}{equivalent:>5}\n{'seconds':<12}{time.monotonic() - begin:>5.0f}")
    return int(any(outcomes[outcome] for outcome in LISTED))


if __name__ == "__main__":
    raise SystemExit(main())
