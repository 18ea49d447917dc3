"""The examples of CONTRIBUTING.md, added to a copy of the experiments as a reader would."""

import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from pages import blocks
from paths import ROOT


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the experiments with both examples in their places."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "experiments", copy / "experiments")
    row, task = blocks((ROOT / "CONTRIBUTING.md").read_text(), "python")
    legend = copy / "experiments" / "clippers.py"
    head, end, rest = legend.read_text().partition("\n)\nLEGEND = ")
    assert end
    legend.write_text(f"{head}\n{row.rstrip()},{end}{rest}")
    (copy / "experiments" / "tasks" / "waves.py").write_text(task)
    return copy


# In one process: what it imports takes longer than what it does.
SCRIPT = """
import sys
from experiments import cli, report
report._bundle = lambda: "// it takes seconds to make"
sys.exit(cli.main(["list"]) or cli.main(sys.argv[1:]))
"""


pytestmark = pytest.mark.exhaustive  # .ci/run has a part for them: it trains


@pytest.fixture(scope="module")
def trained(checkout, tmp_path_factory):
    """What is said, and the folder of the runs."""
    out = tmp_path_factory.mktemp("trained")
    words = ["--methods", "none", "halfway", "--tune", "--seeds", "2", "--held-out", "2"]
    environment = {**os.environ, "PYTHONPATH": f"{checkout}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "run", "waves", "--smoke", *words, "--out", str(out)],
        cwd=checkout, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, out


def test_both_examples_are_listed(trained):
    said, _ = trained
    assert "waves" in said and "Does clipping help a small" in said and "halfway" in said


def test_the_method_is_tuned_on_the_task_and_learns(trained):
    _, out = trained
    table = pq.read_table(out / "runs.parquet")
    assert set(table["method"].to_pylist()) == {"none", "halfway"}
    assert set(table["stage"].to_pylist()) == {"grid", "chosen", "default"}
    assert min(table["test"].to_pylist()) < 0.5
    assert (out / "report.html").exists()
