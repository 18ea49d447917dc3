"""The settings of the experiments and their command line, option by option and end to end."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import cli, clippers, config
from experiments.results import COLUMNS
from experiments.tasks import chorales

ROOT = Path(__file__).parent.parent


# Settings and command line


def test_unknown_keys_are_rejected():
    with pytest.raises(ValueError, match="no key 'sedes'; it has clippers, cells"):
        config.from_mapping(config.Chorales, {"sedes": 3})
    made = config.from_mapping(config.Chorales, {"learning_rates": [0.1]})
    assert made.learning_rates == (0.1,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there are chorales, report, suggest"),
        (["coral"], "unknown command coral; there are chorales, report, suggest"),
        (["chorales", "--sedes", "3"], "unknown option --sedes; chorales has --clippers"),
        (["chorales", "--seeds", "many"], "--seeds"),
        (["chorales", "--seeds", "0"], "`seeds` must be at least 1, not 0"),
        (["chorales", "--updates", "0"], "`updates` must be at least 1, not 0"),
        (["chorales", "--learning-rates", "-1"], "`learning_rates` must be positive"),
        (["chorales", "--clippers", "norm"], "unknown clipper norm; there are none, global_norm"),
        (["chorales", "surplus"], "surplus"),
        (["report", "--out", "nowhere"], "there is no nowhere/runs.parquet"),
        (["suggest"], "no run given"),
        (
            ["suggest", "3", "--out", "nowhere"],
            "there is no nowhere/runs.parquet; train runs first",
        ),
        (["suggest", "norms.csv"], "there is no file norms.csv"),
    ],
)
def test_a_wrong_command_line_gets_one_line(arguments, said, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert said in error


def test_help_names_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["chorales", "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(cli.ChoralesOptions):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert shown.count("default") >= len(dataclasses.fields(cli.ChoralesOptions)) - 1


def test_every_row_of_the_legend_is_drawn_differently():
    looks = {(row.color, row.marker) for row in clippers.ROWS}
    assert len(looks) == len(clippers.ROWS) == len(clippers.LEGEND)
    assert clippers.LEGEND["none"].arguments == {}


def test_whole_job_has_the_runs_that_it_promises():
    plan = chorales.plan(config.Chorales())
    study = [group for group in plan if group.role == "study"]
    assert {group.cell for group in study} == {"tanh", "lstm"}
    assert {len(group.learning_rates) for group in study} == {6}
    assert {len(group.seeds) for group in study} == {3}
    assert {clippers.LEGEND[group.clipper].name for group in study} == set(clippers.NAMES)
    assert len({config.to_json(group) for group in plan}) == len(plan)


def test_suggest_reads_files_and_says_which_it_cannot(tmp_path, capsys):
    norms = [1.0 + 0.1 * (i % 5) for i in range(60)]
    norms[30] = 50.0
    np.save(tmp_path / "a.npy", norms)
    rows = "".join(f"{i},{norm}\n" for i, norm in enumerate(norms))
    (tmp_path / "b.csv").write_text(f"step,norm\n{rows}")
    (tmp_path / "c.txt").write_text("\n".join(map(str, norms)))
    said = []
    for name in ("a.npy", "b.csv", "c.txt"):
        assert cli.main(["suggest", str(tmp_path / name), "--out", str(tmp_path)]) == 0
        said.append(capsys.readouterr().out.splitlines()[1:-1])
        assert (tmp_path / f"suggest-{name[0]}.svg").read_text().startswith("<?xml")
    assert said[0] == said[1] == said[2] and said[0][0] == "threshold 1.4"
    (tmp_path / "few.txt").write_text("1.0\n2.0")
    (tmp_path / "words.csv").write_text("step,loss\n1,2")
    for name, wrong in (("few.txt", "at least 20"), ("words.csv", "cannot read norms")):
        assert cli.main(["suggest", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert wrong in error and error.count("\n") == 1


# The command, end to end

SMOKE = ["chorales", "--smoke"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    compiled = str(tmp_path_factory.mktemp("compiled"))
    chosen = {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PLATFORMS": "cpu"}
    chosen["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return {**os.environ, **chosen, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _command(out):
    return [sys.executable, "-m", "experiments", *SMOKE, "--out", str(out)]


def _run(out, environment):
    done = subprocess.run(
        _command(out), env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _numbers(out):
    table = pq.read_table(out / "runs.parquet").drop_columns(["seconds"])
    return table.replace_schema_metadata(None)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, environment):
    pytest.importorskip("music21", reason="needs the package music21")
    out = tmp_path_factory.mktemp("smoke")
    return out, _run(out, environment)


def test_smoke_writes_every_run_and_the_page(smoke):
    out, said = smoke
    table = pq.read_table(out / "runs.parquet")
    plan = chorales.plan(config.SMOKE)
    assert len(table) == sum(group.runs for group in plan)
    named = {name for names in COLUMNS for name in names.split(", ")}
    assert named == set(table.column_names)
    assert {len(curve) for curve in table["loss"].to_pylist()} == {60}
    assert set(table["failed"].to_pylist()) == {True, False}
    assert f"[{len(plan)}/{len(plan)}, 0:00 left]" in said
    assert "independent keys" in (out / "report.html").read_text()


def test_threshold_is_suggested_for_a_recorded_run(smoke, capsys):
    out, _ = smoke
    count = len(pq.read_table(out / "runs.parquet"))
    assert cli.main(["suggest", "0", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("none (tanh RNN, learning rate 0.1, seed 0)\nthreshold ")
    assert said.rstrip().endswith(f"look at {out / 'suggest-0.svg'}")
    assert cli.main(["suggest", str(count), "--out", str(out)]) == 2
    assert f"has the runs 0 to {count - 1}" in capsys.readouterr().err


def test_started_again_it_trains_nothing_and_says_the_same(smoke, environment):
    out, _ = smoke
    before = _numbers(out)
    said = _run(out, environment)
    assert said.count("already there") == len(chorales.plan(config.SMOKE))
    assert _numbers(out).equals(before)


def _wait_for_groups(out, process, count):
    while len(list((out / "groups").glob("*.parquet"))) < count:
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.02)


def test_killed_and_started_again_it_gives_the_same_numbers(smoke, environment, tmp_path):
    process = subprocess.Popen(_command(tmp_path), env=environment, stdout=subprocess.DEVNULL)
    _wait_for_groups(tmp_path, process, 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "runs.parquet").exists()
    [victim, *_] = (tmp_path / "groups").glob("*.parquet")
    victim.write_bytes(b"damaged")
    assert "damaged file set aside" in _run(tmp_path, environment)
    assert _numbers(tmp_path).equals(_numbers(smoke[0]))


# A program that a shell started in the background, these tests perhaps, ignores the signal.
_INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("experiments", run_name="__main__")
"""


def test_interrupted_it_leaves_with_a_word_on_how_to_go_on(environment, tmp_path):
    pytest.importorskip("music21", reason="needs the package music21")
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTIBLE, *_command(tmp_path)[3:]],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    _wait_for_groups(tmp_path, process, 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said and "Traceback" not in said
